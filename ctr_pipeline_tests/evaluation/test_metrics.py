import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn import metrics as oracle

from ctr_pipeline.calibration.labelled import ScoreError, why_undefined
from ctr_pipeline.evaluation.metrics import (
    average_precision,
    entropy,
    lift,
    log_loss,
    normalised_entropy,
    observed_expected,
    poisson_ratio,
    recall_at,
    relative_information_gain,
    roc_auc,
    with_error_of_slice,
)


def rows(seed: int, n: int = 500, decimals: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits with many ties, labels of both classes, weights with zeros among them."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(-1, 2, n), decimals)
    labels = (rng.random(n) < special.expit(logits)).astype(np.int8)
    labels[:2] = 0, 1
    weights = rng.integers(0, 4, n).astype(np.float64)
    weights[:2] = 1.0
    return logits, labels, weights


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_agrees_with_sklearn(seed: int, decimals: int) -> None:
    z, y, w = rows(seed, decimals=decimals)
    for weights in (None, w):
        assert roc_auc(z, y, weights) == pytest.approx(oracle.roc_auc_score(y, z, sample_weight=weights), abs=1e-12)
        assert average_precision(z, y, weights) == pytest.approx(
            oracle.average_precision_score(y, z, sample_weight=weights), abs=1e-12
        )
        expected = oracle.log_loss(y, special.expit(z), sample_weight=weights)
        assert log_loss(z, y, weights) == pytest.approx(expected, abs=1e-10)
        rate = np.average(y, weights=weights)
        base = oracle.log_loss(y, np.full(len(y), rate), sample_weight=weights)
        assert normalised_entropy(z, y, weights) == pytest.approx(expected / base, abs=1e-10)
        assert relative_information_gain(z, y, weights) == pytest.approx(1 - expected / base, abs=1e-10)


def test_auc_is_exact_with_ties() -> None:
    z = np.array([3.0, 2.0, 2.0, 2.0, 1.0])
    y = np.array([1, 1, 0, 0, 1])
    assert roc_auc(z, y) == 3 / 6  # pairs: 2 won by the first, 2 halves, 0 won by the last


def test_average_precision_is_no_trapezoid() -> None:
    assert average_precision(np.array([3.0, 2.0, 1.0]), np.array([0, 1, 1])) == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 3)


def test_log_loss_survives_extreme_logits() -> None:
    assert log_loss(np.array([800.0, -800.0]), np.array([0, 1])) == 800.0
    assert log_loss(np.array([800.0, -800.0]), np.array([1, 0])) == 0.0
    assert log_loss(np.array([40.0]), np.array([1])) == pytest.approx(np.exp(-40.0), rel=1e-12)


@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1, 1], [-1, -1, -1], [-1, 1, 1], [0, -1, 0]])
def test_degenerate_rows_give_none_and_a_reason(labels: list[int]) -> None:
    y = np.array(labels, dtype=np.int8)
    z = np.linspace(-1, 1, len(y))
    settled, positives = int((y >= 0).sum()), int((y == 1).sum())
    assert why_undefined(settled, positives)
    assert roc_auc(z, y) is None
    assert normalised_entropy(z, y) is None
    assert relative_information_gain(z, y) is None
    assert (average_precision(z, y) is None) == (lift(z, y) is None) == (recall_at(z, y) is None) == (positives == 0)
    assert (log_loss(z, y) is None) == (observed_expected(z, y) is None) == (settled == 0)


def test_why_undefined_says_nothing_of_two_classes() -> None:
    assert why_undefined(3, 1) is None


def test_the_interval_holds_1_for_rates_that_a_slice_taught() -> None:
    """A slice with some 100 positives teaches the rate; the test has 900. Without the slice's error 1 is missed too often."""
    draw = np.random.default_rng(5)
    held = []
    for taught, observed in zip(draw.poisson(100, 4000), draw.poisson(900, 4000), strict=True):
        alone = poisson_ratio(int(observed), 9 * float(taught))
        whole = with_error_of_slice(alone, int(taught))
        held.append((alone.low <= 1 <= alone.high, whole.low <= 1 <= whole.high))
        assert whole.value == alone.value
    alone_share, whole_share = np.mean(held, axis=0)
    assert alone_share < 0.6
    assert 0.935 < whole_share < 0.97
    same = poisson_ratio(50, 40.0)
    assert with_error_of_slice(same, 0) == same
    assert with_error_of_slice(poisson_ratio(0, 3.0), 10) == poisson_ratio(0, 3.0)


def test_observed_expected_has_the_exact_poisson_interval() -> None:
    z = np.full(1000, special.logit(0.01))
    y = np.zeros(1000, dtype=np.int8)
    y[:10] = 1
    found = observed_expected(z, y)
    assert found is not None
    # Garwood's interval of a count of 10 is 4.795 to 18.390.
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 0.4795, 1.8390), abs=1e-4)
    none = observed_expected(z, np.zeros(1000, dtype=np.int8))
    assert none is not None
    assert (none.value, none.low, none.high) == pytest.approx((0.0, 0.0, 0.36889), abs=1e-4)


def test_recall_takes_the_expected_share_of_a_tied_group() -> None:
    z = np.array([5.0] + [1.0] * 9 + [0.0] * 90)
    y = np.array([1] + [1, 1, 1] + [0] * 96)
    assert recall_at(z, y, [0.01, 0.04, 0.1, 1.0]) == pytest.approx([1 / 4, 2 / 4, 1.0, 1.0])


def test_lift_of_scores_that_say_nothing_is_one() -> None:
    y = np.array([1] * 20 + [0] * 80)
    assert lift(np.zeros(100), y) == pytest.approx(1.0)


def test_entropy_of_a_fair_coin() -> None:
    assert entropy(0.5) == pytest.approx(np.log(2))
    assert entropy(0.0) == 0.0


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_ranking_metrics_ignore_monotone_transforms_and_row_order(seed: int) -> None:
    z, y, _ = rows(seed, n=80)
    moved = np.exp(z / 3.0) * 5 - 2
    shuffle = np.random.default_rng(seed).permutation(len(z))
    for metric in (roc_auc, average_precision, lift):
        assert metric(moved, y) == metric(z, y)
        assert metric(z[shuffle], y[shuffle]) == pytest.approx(metric(z, y), abs=1e-12)
    assert recall_at(moved, y) == recall_at(z, y)


@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
@settings(max_examples=50, deadline=None)
def test_masked_rows_are_left_out(seed: int, share: float) -> None:
    z, y, w = rows(seed, n=80)
    mask = np.random.default_rng(seed).random(len(z)) < share
    masked = np.where(mask, -1, y).astype(np.int8)
    strange = np.where(mask, np.nan, z)
    for metric in (roc_auc, average_precision, log_loss, normalised_entropy):
        assert metric(strange, masked, w) == metric(z[~mask], y[~mask], w[~mask])
    assert observed_expected(strange, masked) == observed_expected(z[~mask], y[~mask])


@pytest.mark.parametrize(
    ("logits", "labels", "weights", "message"),
    [
        ([0.0, np.nan], [1, 0], None, "row 1: logit nan; expected a finite number"),
        ([0.0, 1.0], [1, 2], None, "row 1: label 2; expected 1, 0, or -1"),
        ([0.0, 1.0], [1], None, "one length"),
        ([0.0, 1.0], [1, 0], [1.0, -1.0], "a weight is negative"),
    ],
)
def test_says_what_is_wrong(logits: list[float], labels: list[int], weights: list[float] | None, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        log_loss(np.array(logits), np.array(labels), None if weights is None else np.array(weights))
