import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.isotonic import IsotonicRegression

from ctr_pipeline.calibration import CalibrationError, IsotonicCalibrator, fit_isotonic, fit_platt


def draw(seed: int, n: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose true calibrated logit bends at -3: half the slope below, one and a half times above."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-3, 1.5, n)
    z = z if levels is None else np.round(z * levels) / levels
    return z, (rng.random(n) < special.expit(bent(z))).astype(np.int8)


def bent(z: np.ndarray) -> np.ndarray:
    return np.where(z < -3, 0.5, 1.5) * (z + 3) - 2


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -logits, logits))))


def test_follows_a_line_that_bends() -> None:
    z, y = draw(0, 400_000)
    found = fit_isotonic(z, y, 2000)
    assert found.reason is None
    assert 10 < len(found.logits) <= y.sum() // 2000
    middle = np.linspace(-5, -0.5, 50)
    assert np.abs(found.apply(middle) - bent(middle)).max() < 0.15
    fresh, outcomes = draw(1, 100_000)
    best = log_loss(bent(fresh), outcomes)
    assert log_loss(found.apply(fresh), outcomes) - best < 0.3 * (
        log_loss(fit_platt(z, y).apply(fresh), outcomes) - best
    )


def test_knots_have_the_rates_of_isotonic_regression() -> None:
    """With bins of one positive the pools are those of the regression of single rows, which begin with a positive.

    Here they end with one instead, so that no rate is 0. That changes the first and the last rate only. Beside the rates
    there is one offset for all.
    """
    z, y = draw(2, 3000)
    heights = np.array(fit_isotonic(z, y, 1).calibrated)[1:-1]
    rates = np.unique(IsotonicRegression().fit_transform(z, y))[-len(heights) - 1 : -1]
    assert len(heights) > 20
    assert np.ptp(heights - special.logit(rates)) < 1e-9


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("seed", range(10))
def test_calibrated_rates_add_up_to_the_positives(seed: int, levels: int | None) -> None:
    z, y = draw(seed, 5000, levels)
    assert special.expit(fit_isotonic(z, y, 50).apply(z)).sum() == pytest.approx(y.sum(), rel=1e-9)


@pytest.mark.parametrize("levels", [None, 1, 4])
def test_each_knot_rests_on_enough_positives(levels: int | None) -> None:
    z, y = draw(3, 4000, levels)
    for least in (1, 30, 100, 400):
        knots = fit_isotonic(z, y, least).logits
        assert len(knots) <= max(1, y.sum() // least)


@given(st.integers(0, 10_000), st.integers(2, 300), st.integers(1, 20), st.sampled_from([None, 1, 3]))
@settings(max_examples=150, deadline=None)
def test_no_two_rows_are_turned_around_or_made_equal(seed: int, n: int, least: int, levels: int | None) -> None:
    rng = np.random.default_rng(seed)
    z, _ = draw(seed, n, levels)
    y = (rng.random(n) < rng.uniform(0, 1)).astype(np.int8)
    known = np.unique(np.concatenate([z, rng.normal(-3, 10, 20)]))
    calibrated = fit_isotonic(z, y, least).apply(known)
    assert np.isfinite(calibrated).all()
    assert np.all(np.diff(calibrated) > 0)


@given(st.integers(0, 10_000), st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_the_module_computes_the_same(seed: int, least: int) -> None:
    fitted = [fit_isotonic(*draw(seed + task, 600 * (task + 1)), least) for task in range(3)]
    logits = np.random.default_rng(seed).normal(-3, 4, (400, 3)).astype(np.float32)
    found = IsotonicCalibrator.module(fitted)(torch.from_numpy(logits)).numpy()
    for task, calibrator in enumerate(fitted):
        expected = special.expit(calibrator.apply(logits[:, task]))
        assert np.abs(special.expit(found[:, task].astype(np.float64)) - expected).max() < 5e-6
        order = np.argsort(logits[:, task])
        assert np.all(np.diff(found[order, task]) >= 0)


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        ([], [], "left as it is: no row has a settled label"),
        ([1.0, 2.0], [0, 0], "left as it is: none of the 2 labelled rows is positive"),
        ([1.0, 2.0], [1, 1], "left as it is: all 2 labelled rows are positive"),
        ([1.0, 2.0, 3.0], [0, 1, -1], "only the offset is fitted: 1 positives, 2 bins need 4"),
        ([1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0], [1, 1, 0, 1, 1, 0, 0], "only the offset is fitted: the rate does not rise"),
        ([2.0] * 12, [1, 0] * 6, "only the offset is fitted: the rate does not rise"),
    ],
)  # fmt: skip
def test_too_little_for_a_line(logits: list[float], labels: list[int], reason: str) -> None:
    z, y = np.array(logits), np.array(labels, dtype=np.int8)
    found = fit_isotonic(z, y, 2)
    assert found.reason == reason
    assert found.apply(np.array([3.5])) - found.apply(np.array([-7.5])) == pytest.approx(11)
    if reason.startswith("only"):
        assert special.expit(found.apply(z[y >= 0])).sum() == pytest.approx((y == 1).sum())
    else:
        assert found.apply(np.array([3.5])) == 3.5


def test_masked_rows_do_not_count() -> None:
    z, y = draw(4, 3000)
    masked = np.where(np.arange(3000) < 2000, y, -1)
    assert fit_isotonic(z, masked, 20) == fit_isotonic(z[:2000], y[:2000], 20)


def test_a_pool_without_negatives_stays_finite_and_above_the_others() -> None:
    z = np.arange(400.0)
    y = np.where(z < 350, z % 2, 1).astype(np.int8)
    found = fit_isotonic(z, y, 20)
    assert np.isfinite(found.calibrated).all()
    assert len(found.logits) >= 2


def test_json_round_trip() -> None:
    found = fit_isotonic(*draw(5, 3000), 30)
    assert len(found.logits) > 3
    assert IsotonicCalibrator.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": None}, "expected logits, calibrated, rows, positives and reason"),
        ({"logits": [0.0, 0.0]}, "as many rising finite numbers"),
        ({"calibrated": [1.0, 0.5]}, "as many rising finite numbers"),
        ({"calibrated": [1.0, float("inf")]}, "as many rising finite numbers"),
        ({"calibrated": [1.0]}, "as many rising finite numbers"),
        ({"logits": [], "calibrated": []}, "as many rising finite numbers"),
    ],
)
def test_json_that_is_no_line_is_refused(change: dict[str, Any], message: str) -> None:
    content = {"logits": [0.0, 1.0], "calibrated": [-1.0, 2.0], "rows": 9, "positives": 3, "reason": None}
    IsotonicCalibrator.from_json(content)
    with pytest.raises(CalibrationError, match=message):
        IsotonicCalibrator.from_json({**content, **change})
