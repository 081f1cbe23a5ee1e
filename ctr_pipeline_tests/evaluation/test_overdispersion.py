import numpy as np
import pytest
from scipy import optimize, special, stats

from ctr_pipeline.evaluation.metrics import Z95, EvaluationError
from ctr_pipeline.evaluation.overdispersion import (
    effective_outcomes,
    mid_p_bounds,
    mid_p_values,
    spread_of_users,
)


def mid_p_above(count: int, mean: float) -> float:
    return float(stats.poisson.sf(count, mean) + stats.poisson.pmf(count, mean) / 2)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40, 900])
def test_mid_p_bounds_are_those_of_the_poisson_distribution(count: int) -> None:
    low, high = (float(bound[0]) for bound in mid_p_bounds(np.array([float(count)])))
    assert mid_p_above(count, high) == pytest.approx(0.975)
    if count:
        assert low == pytest.approx(optimize.brentq(lambda mean: mid_p_above(count, mean) - 0.025, 1e-9, count))
    else:
        assert (low, high) == (0.0, pytest.approx(np.log(20)))


def test_mid_p_values_are_those_of_the_poisson_distribution() -> None:
    for count, mean in ((0, 3.0), (2, 7.0), (7, 2.0), (12, 12.0), (500, 400.0)):
        above = mid_p_above(count, mean)
        found = mid_p_values(np.array([float(count)]), np.array([mean]))
        assert found[0] == pytest.approx(min(1.0, 2 * min(above, 1 - above)))
    assert mid_p_values(np.array([0.0, 3.0]), np.zeros(2)).tolist() == [1.0, 0.0]


def test_bounds_of_counts_that_are_not_whole_rise_with_them() -> None:
    counts = np.concatenate([np.geomspace(1e-3, 0.9, 50), np.linspace(1, 29, 200), np.geomspace(30, 1e7, 50)])
    low, high = mid_p_bounds(counts)
    assert np.all(np.diff(low) >= 0)
    assert np.all(np.diff(high) > 0)
    assert np.all((low < counts) & (counts < high))


def outcomes(seed: int, users: int, rows: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rows)
    rate = 0.03 * rng.gamma(1 / spread, spread, users)[user] if spread else np.full(len(user), 0.03)
    return np.full(len(user), special.logit(0.03)), (rng.random(len(user)) < rate).astype(np.int8), user


def test_the_spread_of_users_is_the_variance_of_their_rates() -> None:
    for spread in (0.0, 0.5, 1.0):
        found = []
        for seed in range(40):
            z, y, user = outcomes(seed, 300, 40, spread)
            found.append(spread_of_users(y == 1, special.expit(z), user))
        assert np.mean(found) * 0.97**2 == pytest.approx(spread, abs=0.08)


def test_independent_outcomes_count_fully_and_those_of_users_who_differ_as_their_rates_vary() -> None:
    for spread in (0.0, 1.0):
        sums = [outcomes(seed, 300, 40, spread) for seed in range(300)]
        variance = np.var([np.log(y.sum()) for _, y, _ in sums])
        effective = np.mean([effective_outcomes(*of) for of in sums])
        assert effective == pytest.approx(1 / variance, rel=0.25)
    z, y, _ = outcomes(1, 300, 40, 0.0)
    count = int(y.sum())
    student = (Z95 / stats.t.ppf(0.975, count)) ** 2
    assert effective_outcomes(z, y) == pytest.approx(count / 0.97 * student, rel=0.02)


def test_copies_of_a_row_count_once_and_rows_without_a_label_not_at_all() -> None:
    z, y, user = outcomes(2, 2000, 1, 0.0)
    once = effective_outcomes(z, y, user)
    assert effective_outcomes(*(np.repeat(of, 7) for of in (z, y, user))) == pytest.approx(once)
    masked = np.concatenate([z, z]), np.concatenate([y, np.full(len(y), -1, np.int8)]), np.concatenate([user, user])
    assert effective_outcomes(*masked) == pytest.approx(once)


def test_no_outcome_teaches_nothing_and_one_user_little() -> None:
    z = np.zeros(6)
    assert effective_outcomes(z, np.zeros(6, np.int8), np.arange(6)) == 0
    assert effective_outcomes(z, np.array([0, 1, 0, 1, 0, 0], np.int8), np.zeros(6, np.int64)) == 1
    with pytest.raises(EvaluationError, match="clusters: expected shape"):
        effective_outcomes(z, np.zeros(6, np.int8), np.arange(5))
