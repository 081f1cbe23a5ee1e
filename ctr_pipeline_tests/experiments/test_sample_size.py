"""Sizes of tests: the textbook's for one row a user, and the stated power and error on simulated users."""

import math

import numpy as np
import pytest
from scipy import stats

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.sample_size import (
    Rule,
    UserTotals,
    clustered_variance,
    deviations,
    size_of_rate,
    size_of_test,
)


def simulated(rng: np.random.Generator, users: int, lift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Outcomes, trials and the rate before of users who differ; ``lift`` raises the rates of this period."""
    rate, trials = rng.beta(1.5, 20, users), 1 + rng.poisson(8, users)
    before_trials = 1 + rng.poisson(30, users)
    before = rng.binomial(before_trials, rate) / before_trials
    return rng.binomial(trials, np.minimum(rate * (1 + lift), 1)), trials, before


def test_of_one_row_a_user_it_is_the_textbook_s() -> None:
    outcomes = np.repeat([0.0, 1.0], [9000, 1000])
    found = size_of_test(UserTotals.of(outcomes, np.ones(10_000)), Rule(relative=0.1), np.array([1000.0]))
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    variance = 0.1 * 0.9 * 10_000 / 9999
    assert found.users == math.ceil(4 * variance * (quantiles / 0.01) ** 2)
    assert found.rate == 0.1
    assert found.days == math.ceil(found.users / 1000)
    assert found.explained == 0


def test_the_planned_users_find_the_difference_with_the_stated_power() -> None:
    rng = np.random.default_rng(0)
    outcomes, trials, before = simulated(rng, 50_000)
    plain = size_of_test(UserTotals.of(outcomes, trials), Rule(relative=0.1), np.array([1e6]))
    reduced = size_of_test(UserTotals.of(outcomes, trials, before), Rule(relative=0.1), np.array([1e6]))
    assert 0.1 < reduced.explained < 0.9
    assert reduced.users == pytest.approx(plain.users * (1 - reduced.explained), rel=1e-3)

    assert plain.users is not None
    assert reduced.users is not None

    def found(lift: float, planned: int, adjusted: bool) -> bool:
        half = planned // 2
        own, other = simulated(rng, half, lift), simulated(rng, half)
        counts, rows, past = (np.concatenate(pair) for pair in zip(own, other, strict=True))
        errors = (counts - counts.sum() / rows.sum() * rows) / rows.mean()
        if adjusted:
            errors = errors - np.polyval(np.polyfit(past, errors, 1), past)
        return bool(stats.ttest_ind(errors[:half], errors[half:]).pvalue < 0.05)

    times = 600
    for planned, adjusted in ((plain.users, False), (reduced.users, True)):
        power = np.mean([found(0.1, planned, adjusted) for _ in range(times)])
        wrong = np.mean([found(0.0, planned, adjusted) for _ in range(times)])
        assert 0.74 <= power <= 0.86
        assert 0.02 <= wrong <= 0.08


def test_days_follow_the_rise_of_different_users() -> None:
    totals = UserTotals.of(np.repeat([0.0, 1.0], [900, 100]), np.ones(1000))

    def days(users_by_day: list[float], share: float = 1.0) -> int | None:
        return size_of_test(totals, Rule(relative=0.5, share=share), np.array(users_by_day)).days

    users = size_of_test(totals, Rule(relative=0.5), np.array([1000.0])).users
    assert users is not None
    assert days([users - 1.0, users + 1.0]) == 2
    assert days([users / 2, users / 2]) is None
    assert days([users / 4, users / 2]) == 4
    assert days([users + 1.0], share=0.5) == 2


def test_users_who_were_not_there_before_are_no_obstacle() -> None:
    rng = np.random.default_rng(1)
    outcomes, trials, before = simulated(rng, 20_000)
    before[::2] = np.nan
    half, none = UserTotals.of(outcomes, trials, before), UserTotals.of(outcomes, trials, np.full(20_000, np.nan))
    assert (
        0
        < half.explained()
        < UserTotals.of(outcomes, trials, simulated(rng, 20_000)[2] * 0 + outcomes / trials).explained()
    )
    assert none.explained() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative": 0.0}, "relative: expected a difference that is not 0"),
        ({"power": 1.0}, "power: expected a share between 0 and 1; found 1"),
        ({"alpha": 0.0}, "alpha: expected a share between 0 and 1; found 0"),
        ({"alpha": 0.6}, "alpha: expected a level below 0.5; found 0.6"),
        ({"share": 1.5}, "share: expected a share between 0 and 1; found 1.5"),
        ({"treated": 1.0}, "treated: expected a share between 0 and 1; found 1"),
        ({"sides": 3}, "sides: expected 1 or 2; found 3"),
        ({"maturity_days": -1.0}, "maturity_days: expected at least 0; found -1"),
    ],
)
def test_what_no_test_can_find_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        Rule(**({"relative": 0.1} | change))  # type: ignore[arg-type]


def test_what_cannot_be_planned_is_refused() -> None:
    totals, rule = UserTotals.of(np.array([0.0, 1.0, 0.0]), np.ones(3)), Rule(relative=0.1)
    with pytest.raises(EvaluationError, match="users_by_day: expected numbers that do not fall"):
        size_of_test(totals, rule, np.array([3.0, 2.0]))
    with pytest.raises(EvaluationError, match="the users have no outcome"):
        size_of_test(UserTotals.of(np.zeros(2), np.ones(2)), rule, np.array([3.0]))
    with pytest.raises(EvaluationError, match="variance: expected a number above 0; found 0"):
        size_of_rate(0.1, 0.0, rule, np.array([3.0]))
    with pytest.raises(EvaluationError, match="explained: expected a share from 0, and below 1; found 1"):
        size_of_rate(0.1, 0.1, rule, np.array([3.0]), explained=1.0)
    with pytest.raises(EvaluationError, match=r"rows of a user: expected at least 1; found 0\.5"):
        clustered_variance(0.1, 0.5, 0.0)
    with pytest.raises(EvaluationError, match="correlation: expected a number from 0 to 1; found 2"):
        clustered_variance(0.1, 2, 2)
    with pytest.raises(EvaluationError, match="at least two users"):
        UserTotals.of(np.zeros(1), np.ones(1))
    with pytest.raises(EvaluationError, match="at least one row for each user"):
        UserTotals.of(np.zeros(2), np.zeros(2))


def test_one_side_unequal_arms_and_maturity_are_those_of_the_textbook() -> None:
    there = np.array([1000.0])
    plain = size_of_rate(0.1, 0.09, Rule(relative=0.1), there)
    one = size_of_rate(0.1, 0.09, Rule(relative=0.1, sides=1), there)
    quantiles = stats.norm.ppf([0.95, 0.975]) + stats.norm.ppf(0.8)
    assert one.users == math.ceil(4 * 0.09 * (quantiles[0] / 0.01) ** 2)
    assert one.sequential_users < plain.sequential_users
    uneven = size_of_rate(0.1, 0.09, Rule(relative=0.1, treated=0.1), there)
    assert uneven.users == math.ceil((1 / 0.1 + 1 / 0.9) * 0.09 * (quantiles[1] / 0.01) ** 2)
    later = size_of_rate(0.1, 0.09, Rule(relative=0.1, maturity_days=14.3), there)
    assert (later.days, later.readable_days) == (plain.days, plain.days + 15 if plain.days else None)
    assert later.sequential_readable_days == (plain.sequential_days or 0) + 15
    assert plain.sequential_users / plain.users == pytest.approx(1.914, abs=0.002)
    # What is found with the power after 14 days is the smallest difference that needs 14 days.
    smallest = plain.detectable[14]
    assert size_of_rate(0.1, 0.09, Rule(relative=smallest), there).users == pytest.approx(14_000, abs=1)


def test_the_variance_of_clustered_rows_is_that_of_simulated_ones() -> None:
    rng, rows, users = np.random.default_rng(4), 6, 200_000
    rate = rng.beta(2, 18, users)
    outcomes = rng.binomial(rows, rate)
    # Of a beta-binomial the correlation of two rows is 1 / (a + b + 1).
    expected = clustered_variance(0.1, rows, 1 / 21)
    assert np.var(outcomes / rows) == pytest.approx(expected, rel=0.02)
    assert clustered_variance(0.1, 1, 0.5) == pytest.approx(0.09)


def test_deviations_explain_more_where_users_differ_in_rows() -> None:
    rng = np.random.default_rng(5)
    rate, often = rng.beta(1.5, 20, 30_000), rng.lognormal(1, 1, 30_000)
    before, now = (1 + rng.poisson(often * days) for days in (14, 14))
    past, outcomes = rng.binomial(before, rate), rng.binomial(now, rate)
    by_rate = UserTotals.of(outcomes, now, past / before).explained()
    by_deviation = UserTotals.of(outcomes, now, deviations(past, before)).explained()
    assert by_deviation > by_rate + 0.1
    assert np.isnan(deviations(np.array([0.0, 1.0]), np.array([0.0, 2.0]))).tolist() == [True, False]
