"""The population of rates against brute force and quadrature; z under no noise; delays against resampling."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats

from ctr_pipeline.labels.population import (
    LARGEST_OUTLIER_SHARE,
    LEAST_DELAY_SCALE,
    RatePopulation,
    compare_delays,
    fit_rates,
)

TRIALS = np.array([82, 130, 98, 155, 141, 120, 117, 190, 133, 126, 114, 160, 125, 148, 137, 122, 119, 171, 140, 128])
POSITIVES = np.array([35, 44, 52, 81, 45, 69, 117, 80, 42, 65, 36, 91, 59, 54, 3, 51, 67, 60, 83, 52])
"""Twenty keys near .45; of the seventh all trials are positive, of the fifteenth three of 137."""

populations = st.builds(
    RatePopulation,
    alpha=st.floats(0.3, 500.0),
    beta=st.floats(0.3, 500.0),
    outlier_share=st.floats(0.0, LARGEST_OUTLIER_SHARE),
)
counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


def log_likelihood(alpha: float, beta: float, share: float, trials: np.ndarray, positives: np.ndarray) -> float:
    """Of the mixture, by scipy's beta-binomial."""
    honest = stats.betabinom.logpmf(positives, trials, alpha, beta)
    outlier = stats.betabinom.logpmf(positives, trials, 0.5, 0.5)
    return float(np.logaddexp(np.log1p(-share) + honest, np.log(share) + outlier).sum())


def brute_force(trials: np.ndarray, positives: np.ndarray) -> tuple[float, float, float]:
    """The maximum over a grid of means, precisions and shares, refined without derivatives."""
    grid = [
        (mean, precision, share)
        for mean in np.linspace(0.1, 0.9, 17)
        for precision in np.geomspace(1, 1000, 10)
        for share in (1e-3, 0.05, 0.2)
    ]

    def loss(point: Sequence[float]) -> float:
        mean, precision, share = (
            special.expit(point[0]),
            math.exp(point[1]),
            LARGEST_OUTLIER_SHARE * special.expit(point[2]),
        )
        return -log_likelihood(mean * precision, (1 - mean) * precision, share, trials, positives)

    best = max(grid, key=lambda g: log_likelihood(g[0] * g[1], (1 - g[0]) * g[1], g[2], trials, positives))
    start = [special.logit(best[0]), math.log(best[1]), special.logit(best[2] / LARGEST_OUTLIER_SHARE)]
    point = optimize.minimize(
        loss, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 5000}
    ).x
    mean, precision = special.expit(point[0]), math.exp(point[1])
    return mean * precision, (1 - mean) * precision, LARGEST_OUTLIER_SHARE * special.expit(point[2])


def test_the_fit_is_the_maximum_that_brute_force_finds() -> None:
    found = fit_rates(TRIALS, POSITIVES)
    oracle = brute_force(TRIALS, POSITIVES)
    assert (found.alpha, found.beta, found.outlier_share) == pytest.approx(oracle, rel=1e-5)


def test_golden_numbers_of_the_fit() -> None:
    found = fit_rates(TRIALS, POSITIVES)
    golden = (14.83228, 18.50350, 0.1373542)
    assert (found.alpha, found.beta, found.outlier_share) == pytest.approx(golden, rel=1e-5)
    z = found.z(TRIALS, POSITIVES)
    assert np.flatnonzero(np.abs(z) > 2.5).tolist() == [6, 14]
    assert (z[6], z[14], z[0]) == pytest.approx((5.661658, -5.531466, -0.1581110), rel=1e-5)


@pytest.mark.parametrize(("mean", "precision"), [(0.5, 8.0), (0.03, 40.0), (0.8, 3.0), (0.45, 900.0)])
def test_centre_and_spread_are_those_of_the_logit(mean: float, precision: float) -> None:
    found = RatePopulation(alpha=mean * precision, beta=(1 - mean) * precision, outlier_share=0.0)
    density = stats.beta(found.alpha, found.beta).pdf

    def moment(power: int) -> float:
        def integrand(logit: float) -> float:
            rate = special.expit(logit)
            return float(logit**power * density(rate) * rate * (1 - rate))

        return float(integrate.quad(integrand, -60, 30, points=[special.logit(mean)], limit=500)[0])

    assert moment(0) == pytest.approx(1, abs=1e-7)
    assert found.centre == pytest.approx(moment(1), rel=1e-6)
    assert found.spread == pytest.approx(math.sqrt(moment(2) - moment(1) ** 2), rel=1e-5)
    assert found.rate == pytest.approx(mean)


def test_z_by_hand() -> None:
    half = RatePopulation(alpha=50.0, beta=50.0, outlier_share=0.0)
    spread = 2 * special.polygamma(1, 50.0)
    expected = math.log(18.5 / 2.5) / math.sqrt(spread + 1 / 19 + 1 / 3)
    assert half.z(np.array([20]), np.array([18]))[0] == pytest.approx(expected)
    # At a centre of one fifth, half an outcome is added with two of the other kind.
    fifth = RatePopulation(alpha=2e5, beta=8e5, outlier_share=0.0)
    expected = (math.log(0.5 / 32) - math.log(1 / 4)) / math.sqrt(1 / 1 + 1 / 34)
    assert fifth.z(np.array([30]), np.array([0]))[0] == pytest.approx(expected, rel=1e-3)


@given(population=populations, count=counts)
def test_z_is_finite_and_on_the_side_of_the_rate(population: RatePopulation, count: tuple[int, int]) -> None:
    trials, positives = count
    z = float(population.z(np.array([trials]), np.array([positives]))[0])
    assert math.isfinite(z)
    away = positives / trials - special.expit(population.centre)
    if abs(away) > 1e-6:
        assert z * away > 0
    assert population.z(np.array([0]), np.array([0]))[0] == 0


@given(population=populations, count=counts, more=st.integers(2, 50))
def test_more_trials_at_the_same_rate_are_farther_away(
    population: RatePopulation, count: tuple[int, int], more: int
) -> None:
    trials, positives = np.array([count[0], count[0] * more]), np.array([count[1], count[1] * more])
    few, many = np.abs(population.z(trials, positives))
    assert many > few or count[1] / count[0] == pytest.approx(special.expit(population.centre), abs=1e-6)


@given(population=populations, count=counts)
def test_more_outcomes_of_the_same_trials_raise_z(population: RatePopulation, count: tuple[int, int]) -> None:
    trials = count[0]
    z = population.z(np.full(trials + 1, trials), np.arange(trials + 1))
    # Far out the error of the smallest counts grows faster than their distance; there both are flagged.
    assert (np.diff(z) > 0)[np.abs(z[:-1]) < 3.5].all()
    plausible = np.abs(z) <= 2.5
    low, high = population.limits(np.array([trials]), 2.5)
    if plausible.any():
        inside = np.flatnonzero(plausible)
        assert plausible[inside[0] : inside[-1] + 1].all()
        assert (low[0], high[0]) == (inside[0] / trials, inside[-1] / trials)


@settings(max_examples=25)
@given(
    keys=st.lists(counts, min_size=2, max_size=12).filter(
        lambda c: 0 < sum(k for _, k in c) < sum(n for n, _ in c)
    ),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_the_order_of_the_keys_changes_no_bit(keys: list[tuple[int, int]], order: object) -> None:
    other = list(keys)
    order.shuffle(other)  # type: ignore[attr-defined]
    found = [fit_rates(*(np.array(column) for column in zip(*c, strict=True))) for c in (keys, other)]
    assert found[0] == found[1]
    assert math.isfinite(found[0].spread)


@pytest.mark.parametrize(
    ("mean", "spread", "trials"), [(0.45, 0.3, 20), (0.45, 0.0, 100), (0.2, 0.15, 60), (0.05, 0.3, 400)]
)
def test_without_noise_about_one_in_eighty_is_flagged(mean: float, spread: float, trials: int) -> None:
    """Normal |z| is above 2.5 for 1.24 %.

    Counts are discrete, so .3 to 2 % are let pass; of 5,000 keys, a test that is right fails with probability below
    1e-4 in each of the four cases.
    """
    random = np.random.default_rng(5)
    rates = special.expit(random.normal(special.logit(mean), spread, 5000))
    positives = random.binomial(trials, rates)
    found = fit_rates(np.full(5000, trials), positives)
    z = found.z(np.full(5000, trials), positives)
    assert 0.003 < float((np.abs(z) > 2.5).mean()) < 0.02
    assert float(np.std(z)) == pytest.approx(1, abs=0.07)
    assert found.outlier_share < 0.01
    assert found.spread == pytest.approx(spread, abs=0.06)


@pytest.mark.parametrize("share", [0.03, 0.08])
def test_outliers_do_not_hide_themselves(share: float) -> None:
    """Beside as many that fire every conversion and that drop four of five, the spread of the honest keys is found.

    A fit without outliers finds .8 and more. Probability of a false failure below 1e-3 (spread of the estimate .02).
    """
    random = np.random.default_rng(8)
    keys, each = 800, round(800 * share)
    rates = special.expit(random.normal(special.logit(0.45), 0.3, keys))
    rates[:each] = np.minimum(1, rates[:each] * random.uniform(5, 10, each))
    rates[each : 2 * each] *= 0.2
    trials = np.full(keys, 100)
    positives = random.binomial(trials, rates)
    found = fit_rates(trials, positives)
    assert found.spread == pytest.approx(0.3, abs=0.06)
    assert found.outlier_share == pytest.approx(2 * share, abs=0.08)
    z = found.z(trials, positives)
    assert (z[:each] > 2.5).all()
    assert (z[each : 2 * each] < -2.5).mean() > 0.95
    assert (np.abs(z[2 * each :]) > 2.5).mean() < 0.03


def delays_of(medians: Sequence[float], size: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """``size`` Weibull(.65) delays of each key, with these medians in hours."""
    random = np.random.default_rng(seed)
    unit = random.weibull(0.65, (len(medians), size)) / math.log(2) ** (1 / 0.65)
    return np.repeat(np.arange(len(medians)), size), (unit * np.array(medians)[:, None]).ravel()


def test_late_keys_stand_out_and_the_others_are_about_normal() -> None:
    """400 honest keys; their |z| exceed 2.5 with 1.24 %, so more than 4 % have probability below 1e-4."""
    random = np.random.default_rng(4)
    honest = 24 * np.exp(random.normal(0, 0.25, 400))
    key, delay = delays_of([*honest, *[200.0] * 10], 60)
    found = compare_delays(key, delay, 410)
    assert np.std(found.z[:400]) == pytest.approx(1, abs=0.15)
    assert (np.abs(found.z[:400]) > 2.5).mean() < 0.04
    assert (found.z[400:] > 2.5).all()
    assert np.median(found.median[:400]) == pytest.approx(24, rel=0.05)


def test_delays_by_hand() -> None:
    # Two keys of ten, one of nine; an even number of delays has a geometric mid.
    key = np.array([0] * 10 + [1] * 10 + [2] * 9)
    delay = np.array(
        [1.0, 2, 3, 4, 4, 9, 10, 11, 12, 13, *[e * 2.0 for e in (1, 2, 3, 4, 4, 9, 10, 11, 12, 13)], *[5.0] * 9]
    )
    found = compare_delays(key, delay, 4)
    assert found.median[:3] == pytest.approx([6, 12, 5])
    assert math.isnan(found.median[3])
    assert np.isnan(found.z).tolist() == [False, False, True, True]
    assert found.z[0] == pytest.approx(-found.z[1])
    # Keys that are equal are not late, whatever the scale; and one key alone is compared with nobody.
    same = compare_delays(np.repeat([0, 1, 2], 10), np.full(30, 7.0), 3)
    assert same.z.tolist() == [0, 0, 0]
    assert np.isnan(compare_delays(np.zeros(10, np.int64), np.arange(1.0, 11), 1).z).all()


def test_small_differences_of_punctual_keys_are_no_lateness() -> None:
    found = compare_delays(np.repeat([0, 1, 2], 10), np.repeat([7.0, 7.0, 7.7], 10), 3)
    assert found.z[2] == pytest.approx(math.log(1.1) / LEAST_DELAY_SCALE)
    assert abs(found.z[2]) < 2.5


def test_the_error_of_a_median_is_that_of_resampling() -> None:
    """One key of 40 against many large ones with the same law: z is scaled by the spread of medians of 40."""
    key, delay = delays_of([24.0] * 200, 40, seed=6)
    found = compare_delays(key, delay, 200)
    medians = np.log([np.median(np.random.default_rng(seed).weibull(0.65, 40)) for seed in range(2000)])
    assert np.std(np.log(found.median)) == pytest.approx(float(np.std(medians)), rel=0.15)
    assert np.std(found.z) == pytest.approx(1, abs=0.2)


@given(
    delays=st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 1e4)), min_size=40, max_size=90),
    unit=st.floats(0.01, 100),
    order=st.randoms(use_true_random=False),
)
def test_delays_depend_on_neither_order_nor_unit(delays: list[tuple[int, float]], unit: float, order: object) -> None:
    other = list(delays)
    order.shuffle(other)  # type: ignore[attr-defined]
    first, second = (compare_delays(*(np.array(c) for c in zip(*d, strict=True)), 4) for d in (delays, other))
    np.testing.assert_array_equal(first.z, second.z)
    scaled = compare_delays(np.array([k for k, _ in delays]), unit * np.array([d for _, d in delays]), 4)
    np.testing.assert_allclose(scaled.z, first.z, atol=1e-6)
    np.testing.assert_allclose(scaled.median, unit * first.median)
