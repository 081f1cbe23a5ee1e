import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from ctr_pipeline.evaluation.reliability import calibration_error, reliability, wilson


def draw(seed: int, n: int, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(-3, 1.5, n)
    return z, (rng.random(n) < special.expit(a * z + b)).astype(np.int8)


def test_wilson_known_values() -> None:
    low, high = wilson(np.array([0.0, 10.0, 50.0]), np.array([20.0, 100.0, 50.0]))
    assert low == pytest.approx([0.0, 0.05523, 0.92865], abs=1e-4)
    assert high == pytest.approx([0.16113, 0.17437, 1.0], abs=1e-4)


def test_bins_share_the_positives_and_hold_all_rows() -> None:
    z, y = draw(6, 50_000, 1.0, 0.0)
    bins = reliability(z, y, bins=10)
    assert len(bins) == 10
    assert sum(b.rows for b in bins) == 50_000
    assert sum(b.positives for b in bins) == y.sum()
    assert max(b.positives for b in bins) - min(b.positives for b in bins) <= 1
    assert [b.predicted for b in bins] == sorted(b.predicted for b in bins)
    assert sum(b.rows * b.predicted for b in bins) == pytest.approx(special.expit(z).sum())
    assert all(b.low <= b.observed <= b.high for b in bins)
    inside = sum(b.low <= b.predicted <= b.high for b in bins)
    assert inside >= 8
    error = calibration_error(bins)
    wrong = calibration_error(reliability(z + 1, y))
    assert error is not None
    assert wrong is not None
    assert error < 0.06 < 0.8 < wrong
    assert bins[0].observed_expected == pytest.approx(bins[0].observed / bins[0].predicted)


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_bins_never_split_equal_scores(seed: int, count: int) -> None:
    z, y = draw(seed, 120, 1.0, 1.0)
    z = np.round(z)
    bins = reliability(z, y, bins=count)
    assert len(bins) <= min(count, len(np.unique(z)))
    assert sum(b.rows for b in bins) == (120 if y.any() else 0)


def test_no_positives_no_bins() -> None:
    assert reliability(np.zeros(3), np.zeros(3, dtype=np.int8)) == ()
    assert calibration_error(()) is None


def test_rows_of_a_user_that_are_alike_tell_a_rate_no_better_than_one() -> None:
    rng = np.random.default_rng(8)
    z = rng.normal(-2, 0.2, 2000)
    y = (rng.random(2000) < special.expit(z)).astype(np.int8)
    once = reliability(z, y, np.arange(2000))
    z, y, user = (np.repeat(of, 4) for of in (z, y, np.arange(2000)))
    for one, four, independent in zip(once, reliability(z, y, user), reliability(z, y), strict=True):
        assert four.observed == one.observed
        # Users are taken to differ in their logits, by which copies of one row at a high rate seem to vary more than they do.
        assert 0.97 < (four.high - four.low) / (one.high - one.low) < 1.2
        assert independent.high - independent.low < 0.6 * (one.high - one.low)
