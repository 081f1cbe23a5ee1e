"""The prior towards the identity, beta calibration, and the choice among calibrators by cross-validation."""

import numpy as np
import pytest
from scipy import optimize, special

from ctr_pipeline.calibration import (
    BetaCalibrator,
    CalibrationError,
    IdentityCalibrator,
    IsotonicCalibrator,
    PlattCalibrator,
    calibrated_logits,
    calibrator_from_json,
    calibrator_to_json,
    fit_best,
    fit_beta,
    fit_calibrators,
    fit_platt,
)
from ctr_pipeline.spec.calibration import Beta, CrossValidated, Identity, Isotonic, Platt

Arrays = tuple[np.ndarray, np.ndarray]


def draw(seed: int, size: int, a: float = 1.0, b: float = 0.0, mean: float = -4.5) -> Arrays:
    rng = np.random.default_rng(seed)
    z = rng.normal(mean, 1.0, size)
    return z, (rng.random(size) < special.expit(a * z + b)).astype(np.int8)


def nll(values: np.ndarray, labels: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(labels == 1, -1, 1) * values).sum())


@pytest.mark.parametrize(("prior", "seed"), [(1.0, 0), (1.0, 1), (4.0, 2), (0.25, 3)])
def test_platt_with_a_prior_is_the_most_likely_line(prior: float, seed: int) -> None:
    z, y = draw(seed, 4000, 0.7, -0.4)
    weight = special.expit(z) * special.expit(-z)
    centre = (weight @ z) / weight.sum()

    def objective(point: np.ndarray) -> float:
        slope, offset = point
        values = centre + offset + slope * (z - centre)
        return nll(values, y) + prior * ((slope - 1) ** 2 / (2 * 0.15**2) + offset**2 / (2 * 0.3**2))

    best = optimize.minimize(objective, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}).x
    found = fit_platt(z, y, prior=prior)
    assert (found.a, found.b) == pytest.approx((best[0], centre + best[1] - best[0] * centre), abs=1e-5)


def test_a_prior_hardly_moves_many_positives_and_holds_few() -> None:
    z, y = draw(4, 400_000, 0.7, -1.0)
    free, drawn = fit_platt(z, y), fit_platt(z, y, prior=1.0)
    assert drawn.a == pytest.approx(free.a, abs=0.02)
    few = [(fit_platt(*draw(seed, 4000)), fit_platt(*draw(seed, 4000), prior=1.0)) for seed in range(20)]
    held, unheld = draw(99, 200_000)
    worse = [[nll(c.apply(held), unheld) - nll(held, unheld) for c in pair] for pair in few]
    # The logits are right: all that a fit on some 60 positives changes is its error, and about half of that is gone.
    assert 0 < np.mean(worse, axis=0)[1] < 0.6 * np.mean(worse, axis=0)[0]


def test_platt_without_a_prior_is_what_it_was() -> None:
    z, y = draw(5, 3000, 0.6, 0.3)
    assert fit_calibrators(Platt(prior=0), ["t"], z[:, None], y[:, None])["t"] == fit_platt(z, y)


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_beta_finds_its_least_loss(prior: float) -> None:
    rng = np.random.default_rng(6)
    z = rng.normal(0.5, 1.5, 60_000)
    curve = BetaCalibrator(a=0.6, b=1.5, c=0.2)
    y = (rng.random(len(z)) < special.expit(curve.apply(z))).astype(np.int8)
    found = fit_beta(z, y, prior)
    tolerance = 0.06 if prior == 0 else 0.25
    assert (found.a, found.b, found.c) == pytest.approx((curve.a, curve.b, curve.c), abs=tolerance)
    base = nll(found.apply(z), y)
    if prior == 0:
        for name in ("a", "b", "c"):
            for step in (-0.01, 0.01):
                moved = BetaCalibrator(**{"a": found.a, "b": found.b, "c": found.c, name: getattr(found, name) + step})
                assert nll(moved.apply(z), y) > base
    assert base < nll(fit_platt(z, y, prior=prior).apply(z), y)


def test_beta_leaves_what_defines_nothing() -> None:
    for labels, reason in (([0, 0, 0], "none of the 3"), ([0, 0, 1], "separate the classes")):
        found = fit_beta(np.array([1.0, 2.0, 3.0]), np.array(labels), 1.0)
        assert (found.a, found.b, found.c) == (1.0, 1.0, 0.0)
        assert reason in (found.reason or "")
    with pytest.raises(CalibrationError, match="expected finite a > 0, b > 0 and c; found a = 0"):
        BetaCalibrator.from_json({**BetaCalibrator().to_json(), "a": 0.0})


def bent(z: np.ndarray) -> np.ndarray:
    """A rate with a step, which no curve of few parameters follows."""
    return np.where(z < -1, -4.0, 0.0) + 0.1 * z


CHOICES = [
    ("right logits", lambda z: z, 4000, (IdentityCalibrator, PlattCalibrator, BetaCalibrator), 0.02),
    ("another rate", lambda z: z - 1.0, 60_000, (PlattCalibrator, BetaCalibrator), 0.002),
    ("a step", bent, 60_000, (IsotonicCalibrator,), 0.08),
]


@pytest.mark.parametrize(("name", "true", "size", "kinds", "limit"), CHOICES, ids=[c[0] for c in CHOICES])
def test_the_choice_is_near_the_best_on_other_rows(
    name: str, true: object, size: int, kinds: tuple[type, ...], limit: float
) -> None:
    assert callable(true)
    rng = np.random.default_rng(7)
    z, other = rng.normal(-2.0, 1.5, (2, size))
    y, held = ((rng.random(size) < special.expit(true(values))).astype(np.int8) for values in (z, other))
    found = fit_best(z, y, CrossValidated())
    assert isinstance(found, kinds)
    least = nll(true(other), held)
    assert nll(found.apply(other), held) / least - 1 < limit


def test_of_equally_good_candidates_the_first_is_chosen() -> None:
    z, y = draw(8, 3000)
    assert isinstance(fit_best(z, y, CrossValidated(candidates=[Identity(), Platt(prior=1e12)])), IdentityCalibrator)
    assert isinstance(fit_best(z, np.zeros_like(y), CrossValidated()), IdentityCalibrator)


@pytest.mark.parametrize("section", [Identity(), Platt(), Beta(), Isotonic(min_positives=20), CrossValidated()])
def test_every_kind_is_read_back(section: Platt) -> None:
    z, y = draw(9, 9000)
    [fitted] = fit_calibrators(section, ["t"], z[:, None], y[:, None]).values()
    assert calibrator_from_json(calibrator_to_json(fitted)) == fitted
    assert fitted.positives == int(y.sum())


def test_a_step_is_never_likelier_than_the_one_before_it() -> None:
    logits = np.array([[-2.0, -3.0, -3.5], [-2.0, -1.0, -3.0], [-2.0, -2.5, 1.0]])
    calibrators = [PlattCalibrator(), PlattCalibrator(b=0.5), IdentityCalibrator()]
    ids = np.zeros((3, 0), dtype=np.int64)
    found = calibrated_logits(calibrators, (-1, 0, 1), logits, ids)
    assert found.tolist() == [[-2.0, -2.5, -3.5], [-2.0, -2.0, -3.0], [-2.0, -2.0, -2.0]]
    assert calibrated_logits(calibrators, (-1, -1, -1), logits, ids)[1].tolist() == [-2.0, -0.5, -3.0]
