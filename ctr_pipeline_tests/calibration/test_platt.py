import json

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from ctr_pipeline.calibration import CalibrationError, PlattCalibrator, fit_platt


def draw(seed: int, n: int, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(-3, 1.5, n)
    return z, (rng.random(n) < special.expit(a * z + b)).astype(np.int8)


@pytest.mark.parametrize(("a", "b"), [(0.6, -1.0), (1.0, 0.0), (1.7, 2.0)])
def test_recovers_slope_and_offset(a: float, b: float) -> None:
    z, y = draw(0, 400_000, a, b)
    found = fit_platt(z, y)
    assert found.reason is None
    assert (found.a, found.b) == pytest.approx((a, b), abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_sklearn_with_and_without_weights(seed: int) -> None:
    z, y = draw(seed, 2000, 0.8, 0.5)
    for weights in (None, np.random.default_rng(seed).uniform(0.1, 3.0, 2000)):
        oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y, sample_weight=weights)
        found = fit_platt(z, y, weights)
        assert (found.a, found.b) == pytest.approx((oracle.coef_[0, 0], oracle.intercept_[0]), abs=1e-4)


@pytest.mark.parametrize("seed", range(40))
def test_calibrated_rates_add_up_to_the_positives(seed: int) -> None:
    """At the minimum; a step short of it, where the loss is flat to the last bits, they are off by 1e-8."""
    z, y = draw(seed, 5000, 0.5, -1.0)
    assert special.expit(fit_platt(z, y).apply(z)).sum() == pytest.approx(y.sum(), rel=1e-9)


def test_survives_wild_logits() -> None:
    z, y = draw(2, 5000, 0.001, 3.0)
    found = fit_platt(1000 * z - 4000, y)
    assert found.reason is None
    assert np.isfinite([found.a, found.b]).all()
    assert special.expit(found.apply(1000 * z - 4000)).sum() == pytest.approx(y.sum(), rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        ([], [], "no row has a settled label"),
        ([1.0, 2.0], [0, 0], "none of the 2 labelled rows is positive"),
        ([1.0, 2.0], [1, 1], "all 2 labelled rows are positive"),
        ([1.0, 2.0, 3.0], [0, 0, 1], "separate the classes"),
        ([1.0, 2.0, 2.0, 3.0], [0, 0, 1, 1], "separate the classes"),
        ([3.0, 2.0, 1.0], [0, 0, 1], "separate the classes"),
    ],
)
def test_is_the_identity_where_no_slope_exists(logits: list[float], labels: list[int], reason: str) -> None:
    found = fit_platt(np.array(logits), np.array(labels, dtype=np.int8))
    assert (found.a, found.b) == (1.0, 0.0)
    assert found.reason is not None
    assert reason in found.reason


def test_fits_the_offset_alone_where_the_order_would_turn() -> None:
    z, y = draw(3, 5000, 1.0, 0.0)
    for logits in (-z, np.full(len(z), 4.0)):
        found = fit_platt(logits, y)
        assert found.a == 1.0
        assert found.reason is not None
        assert "only the offset is fitted" in found.reason
        assert special.expit(found.apply(logits)).sum() == pytest.approx(y.sum(), rel=1e-6)


def test_rows_without_weight_and_masked_rows_do_not_count() -> None:
    z, y = draw(4, 3000, 1.0, 0.0)
    weights = np.where(np.arange(3000) < 2000, 1.0, 0.0)
    masked = np.where(np.arange(3000) < 2000, y, -1)
    first = fit_platt(z[:2000], y[:2000])
    assert fit_platt(z, masked) == first
    assert (fit_platt(z, y, weights).a, fit_platt(z, y, weights).rows) == (pytest.approx(first.a), 2000)


def test_json_round_trip_and_refusal() -> None:
    z, y = draw(5, 3000, 0.7, 0.2)
    found = fit_platt(z, y)
    assert PlattCalibrator.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert PlattCalibrator.from_json(PlattCalibrator(reason="x").to_json()).reason == "x"
    with pytest.raises(CalibrationError, match="expected a, b, rows, positives and reason"):
        PlattCalibrator.from_json({"a": 1.0})
    with pytest.raises(CalibrationError, match="a = -1"):
        PlattCalibrator.from_json({**found.to_json(), "a": -1.0})
