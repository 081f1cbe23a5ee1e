"""Metrics in expectation over labels, against direct sums and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from ctr_pipeline.simulator.expected import (
    binary_entropy,
    ceiling,
    expected_auc,
    expected_average_precision,
    expected_normalised_entropy,
)

ROWS = st.lists(st.tuples(st.integers(0, 6), st.floats(0.01, 0.99)), min_size=2, max_size=30)
LABELLED = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(label for _, label in rows) < len(rows)
)


@given(ROWS)
def test_auc_is_the_sum_over_pairs(rows: list[tuple[int, float]]) -> None:
    score, p = (np.array(column, float) for column in zip(*rows, strict=True))
    better = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    pairs = p[:, None] * (1 - p)
    direct = (better * pairs).sum() / (p.sum() * (1 - p).sum())
    assert expected_auc(score, p) == pytest.approx(direct, rel=1e-9)


@given(ROWS)
def test_average_precision_is_the_sum_over_thresholds(rows: list[tuple[int, float]]) -> None:
    score, p = (np.array(column, float) for column in zip(*rows, strict=True))
    direct, recalled = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        kept = score >= threshold
        direct += (p[kept].sum() - recalled) * p[kept].mean()
        recalled = p[kept].sum()
    assert expected_average_precision(score, p) == pytest.approx(direct / p.sum(), rel=1e-9)


@given(LABELLED)
def test_certain_labels_give_the_usual_metrics(rows: list[tuple[int, bool]]) -> None:
    score, label = (np.array(column) for column in zip(*rows, strict=True))
    assert expected_auc(score, label) == pytest.approx(roc_auc_score(label, score))
    assert expected_average_precision(score, label) == pytest.approx(average_precision_score(label, score))
    q = (score + 1) / 8
    entropy = binary_entropy(label.mean()).item()
    assert expected_normalised_entropy(q, label) == pytest.approx(log_loss(label, q) / entropy)


def test_expectations_are_those_of_drawn_labels() -> None:
    """Mean over 60 drawn label sets of 20,000 rows; 2 comparisons at 4 standard errors: false failure below .02 %."""
    random = np.random.default_rng(1)
    p = 1 / (1 + np.exp(4 - 1.5 * random.standard_normal(20_000)))
    score = p * np.exp(0.5 * random.standard_normal(len(p)))
    drawn = [(random.random(len(p)) < p).astype(int) for _ in range(60)]
    for metric, expected in ((roc_auc_score, expected_auc), (average_precision_score, expected_average_precision)):
        values = np.array([metric(label, score) for label in drawn])
        assert abs(values.mean() - expected(score, p)) <= 4 * values.std() / np.sqrt(len(values)) + 5e-4


def test_the_ceiling_has_known_values() -> None:
    found = ceiling(np.array([0.5, 0.5]))
    assert found == pytest.approx({"rate": 0.5, "auc": 0.5, "ap": 0.5, "ne": 1.0})
    sure = ceiling(np.array([1.0, 0.0, 0.0, 0.0]))
    assert sure == pytest.approx({"rate": 0.25, "auc": 1.0, "ap": 1.0, "ne": 0.0})
    # .9 ahead of .1: pairs (.9·.9 + ½·2·.09) / (1·1); precision .9 at the first, .5 at the second.
    assert ceiling(np.array([0.1, 0.9])) == pytest.approx({"rate": 0.5, "auc": 0.9, "ap": 0.86, "ne": 0.46899559})


def test_excess_entropy_is_a_divergence() -> None:
    random = np.random.default_rng(2)
    p, q = random.uniform(0.01, 0.4, 500), random.uniform(0.01, 0.4, 500)
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    excess = expected_normalised_entropy(q, p) - expected_normalised_entropy(p, p)
    assert excess == pytest.approx(divergence.mean() / binary_entropy(p.mean()).item())
