"""What a sample of rows says: healthy samples pass, and leaks, shifts, wrong scales and collapsed ids are found."""

from typing import Any

import numpy as np
import pytest

from ctr_pipeline.gradients.contracts.feature_profile import (
    RowSample,
    feature_aucs,
    funnel_outcome,
    row_shift_outcome,
    scale_outcome,
    single_feature_outcome,
)
from ctr_pipeline.gradients.contracts.id_profile import id_outcome

ROWS = 5000


def sample(**changed: Any) -> RowSample:
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(ROWS, 2))
    ids = rng.integers(0, 40, (ROWS, 2))
    click = rng.random(ROWS) < 1 / (1 + np.exp(1 - numbers[:, 0] - 0.1 * (ids[:, 0] - 20)))
    parts: dict[str, Any] = {
        "names": ["price", "age", "ad", "query"], "numbers": numbers, "ids": ids,
        "labels": click.astype(np.int8).reshape(-1, 1), "tasks": ["click"],
    }  # fmt: skip
    return RowSample(**(parts | changed))


def test_a_healthy_sample_passes_all() -> None:
    own = sample()
    found = [scale_outcome(own), single_feature_outcome(own), row_shift_outcome(own)]
    assert [outcome.verdict for outcome in found] == ["passed"] * 3


def test_aucs_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    own = sample()
    label = own.labels[:, 0]
    found = dict(feature_aucs(own, label))
    assert found["price"] == pytest.approx(metrics.roc_auc_score(label, own.numbers[:, 0]))
    assert 0.5 < found["ad"] < metrics.roc_auc_score(label, own.ids[:, 0]) + 0.02
    rounded = sample(numbers=np.round(own.numbers))
    assert dict(feature_aucs(rounded, label))["price"] == pytest.approx(
        metrics.roc_auc_score(label, np.round(own.numbers[:, 0]))
    )


@pytest.mark.parametrize(("noise", "hard"), [(0.0, True), (0.006, False)])
@pytest.mark.parametrize("place", ["numbers", "ids"])
def test_a_leak_is_named(noise: float, hard: bool, place: str) -> None:
    own = sample()
    flipped = np.random.default_rng(2).random(ROWS) < noise / 2
    values = getattr(own, place).copy()
    values[:, 1] = own.labels[:, 0] ^ flipped
    outcome = single_feature_outcome(sample(**{place: values}))
    assert (outcome.failed, outcome.hard) == (True, hard)
    assert outcome.feature == ("age" if place == "numbers" else "query")


def test_a_few_positives_leak_nothing() -> None:
    labels = np.zeros((ROWS, 1), dtype=np.int8)
    labels[7] = 1
    assert single_feature_outcome(sample(labels=labels)).verdict == "not_measured"


@pytest.mark.parametrize("by", [-2, 1, 3])
def test_shifted_labels_are_found(by: int) -> None:
    outcome = row_shift_outcome(sample(labels=np.roll(sample().labels, by, axis=0)))
    assert outcome.failed
    assert f"shifted by {-by} rows" in outcome.message


def test_labels_in_random_order_are_no_shift() -> None:
    labels = np.random.default_rng(3).permutation(sample().labels)
    assert row_shift_outcome(sample(labels=labels)).verdict == "passed"


def test_statistics_of_another_scale_are_found() -> None:
    own = sample().numbers.copy()
    own[:, 1] = 1e6 + own[:, 1]
    outcome = scale_outcome(sample(numbers=own))
    assert (outcome.failed, outcome.feature, outcome.hard) == (True, "age", True)
    own = sample().numbers.copy()
    own[3, 0] = 1e4
    outcome = scale_outcome(sample(numbers=own))
    assert (outcome.failed, outcome.feature, outcome.hard) == (True, "price", False)


def test_ids_in_order_of_their_count_pass_and_collapsed_ones_do_not() -> None:
    ids = 2 + np.random.default_rng(4).zipf(1.5, 20_000).clip(max=997)
    healthy = np.where(ids == 999, 1, ids)
    assert id_outcome([healthy], ["ad"], [1000], 2).failed  # the zipf draw begins at 1: row 2 is empty
    assert id_outcome([healthy - 1], ["ad"], [1000], 2).verdict == "passed"
    cut = np.where(np.random.default_rng(5).random(20_000) < 0.9, 999, healthy - 1)
    outcome = id_outcome([healthy - 1, cut], ["ad", "query"], [1000, 1000], 2)
    assert (outcome.failed, outcome.feature) == (True, "query")


def test_a_column_with_one_value_passes() -> None:
    assert id_outcome([np.full(1000, 2)], ["country"], [3], 2).verdict == "passed"
    assert id_outcome([np.full(1000, 1)], ["country"], [3], 2).verdict == "not_measured"


def test_an_inverted_mask_of_a_funnel_is_found() -> None:
    rng = np.random.default_rng(6)
    click = (rng.random(2000) < 0.3).astype(np.int8)
    cart = np.where(rng.random(2000) < 0.3, click, 0).astype(np.int8)
    tasks, parents = ["click", "cart"], [-1, 0]
    assert funnel_outcome(np.stack([click, cart], axis=1), tasks, parents).verdict == "passed"
    inverted = np.where(rng.random(2000) < 0.3, 1 - click, 0).astype(np.int8)
    outcome = funnel_outcome(np.stack([click, inverted], axis=1), tasks, parents)
    assert (outcome.failed, outcome.hard, outcome.where) == (True, True, "cart after click")
    late = cart.copy()
    late[np.flatnonzero(click == 0)[:3]] = 1
    assert not funnel_outcome(np.stack([click, late], axis=1), tasks, parents).hard
