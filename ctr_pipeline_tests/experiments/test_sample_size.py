"""Sizes of tests: the textbook's for one row a user, and the stated power and error on simulated users."""

import math

import numpy as np
import pytest
from scipy import stats

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.sample_size import UserTotals, size_of_test


def simulated(rng: np.random.Generator, users: int, lift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Outcomes, trials and the rate before of users who differ; ``lift`` raises the rates of this period."""
    rate, trials = rng.beta(1.5, 20, users), 1 + rng.poisson(8, users)
    before_trials = 1 + rng.poisson(30, users)
    before = rng.binomial(before_trials, rate) / before_trials
    return rng.binomial(trials, np.minimum(rate * (1 + lift), 1)), trials, before


def test_of_one_row_a_user_it_is_the_textbook_s() -> None:
    outcomes = np.repeat([0.0, 1.0], [9000, 1000])
    found = size_of_test(UserTotals.of(outcomes, np.ones(10_000)), relative=0.1, users_by_day=np.array([1000.0]))
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    variance = 0.1 * 0.9 * 10_000 / 9999
    assert found.users == math.ceil(4 * variance * (quantiles / 0.01) ** 2)
    assert found.rate == 0.1
    assert found.days == math.ceil(found.users / 1000)
    assert found.explained == 0


def test_the_planned_users_find_the_difference_with_the_stated_power() -> None:
    rng = np.random.default_rng(0)
    outcomes, trials, before = simulated(rng, 50_000)
    plain = size_of_test(UserTotals.of(outcomes, trials), relative=0.1, users_by_day=np.array([1e6]))
    reduced = size_of_test(UserTotals.of(outcomes, trials, before), relative=0.1, users_by_day=np.array([1e6]))
    assert 0.1 < reduced.explained < 0.9
    assert reduced.users == pytest.approx(plain.users * (1 - reduced.explained), rel=1e-3)

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
        return size_of_test(totals, relative=0.5, users_by_day=np.array(users_by_day), share=share).days

    users = size_of_test(totals, relative=0.5, users_by_day=np.array([1.0])).users
    assert days([users - 1.0, users]) == 2
    assert days([users / 2, users / 2]) is None
    assert days([users / 4, users / 2]) == 4
    assert days([float(users)], share=0.5) == 2


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
        ({"share": 1.5}, "share: expected a share between 0 and 1; found 1.5"),
        ({"users_by_day": np.array([3.0, 2.0])}, "users_by_day: expected numbers that do not fall"),
        ({"totals": UserTotals.of(np.zeros(2), np.ones(2))}, "the users have no outcome"),
    ],
)
def test_what_cannot_be_planned_is_refused(change: dict[str, object], message: str) -> None:
    fine: dict[str, object] = {
        "totals": UserTotals.of(np.array([0.0, 1.0, 0.0]), np.ones(3)), "relative": 0.1, "users_by_day": np.array([10.0]),
    }  # fmt: skip
    with pytest.raises(EvaluationError, match=message):
        size_of_test(**(fine | change))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="at least two users"):
        UserTotals.of(np.zeros(1), np.ones(1))
    with pytest.raises(EvaluationError, match="at least one row for each user"):
        UserTotals.of(np.zeros(2), np.zeros(2))
