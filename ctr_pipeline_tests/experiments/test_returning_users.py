"""Variance of a rate where the same users come again: that of simulated users, at other lengths than it was fitted on."""

import numpy as np
import pytest

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.returning_users import Halves, Returning, size_with_returning
from ctr_pipeline.experiments.sample_size import Rule

USERS = 3000


def world(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows a day and rate of each user."""
    return rng.lognormal(-1, 1, USERS), rng.beta(1.2, 20, USERS)


def drawn(rng: np.random.Generator, pace: np.ndarray, rate: np.ndarray, days: int) -> tuple[np.ndarray, np.ndarray]:
    trials = rng.poisson(pace * days)
    return rng.binomial(trials, rate).astype(float), trials.astype(float)


def fitted(rng: np.random.Generator, pace: np.ndarray, rate: np.ndarray) -> Returning:
    halves = [drawn(rng, pace, rate, 7) for _ in range(2)]
    there = np.array([np.sum(1 - np.exp(-pace * day)) for day in range(1, 15)])
    (outcomes, trials) = zip(*halves, strict=True)
    return Returning.of(Halves(outcomes=outcomes, trials=trials, days=(7, 7)), there)


def test_the_variance_is_that_of_two_arms_of_users_for_any_number_of_days() -> None:
    rng = np.random.default_rng(0)
    pace, rate = world(rng)
    users = fitted(rng, pace, rate)
    for days in (4, 14, 60):
        # The arms are drawn anew: the difference of their rates varies by 4 times the variance of the rate of all.
        differences = []
        for _ in range(800):
            treated = rng.random(USERS) < 0.5
            outcomes, trials = drawn(rng, pace, rate, days)
            one, other = (outcomes[own].sum() / trials[own].sum() for own in (treated, ~treated))
            differences.append(one - other)
        assert np.var(differences) / 4 == pytest.approx(users.variance(days), rel=0.2)


def test_more_days_help_less_than_more_users_and_some_differences_are_never_found() -> None:
    rng = np.random.default_rng(1)
    users = fitted(rng, *world(rng))
    size = size_with_returning(users, Rule(relative=0.3), explained=0.0)
    assert size.days is not None
    assert size.sequential_days is not None
    assert size.sequential_days > 1.9 * size.days
    never = size_with_returning(users, Rule(relative=0.01))
    assert (never.days, never.users, never.readable_days) == (None, None, None)
    assert size_with_returning(users, Rule(relative=0.3), explained=0.5).days < size.days  # type: ignore[operator]
    halved = size_with_returning(users, Rule(relative=0.3, share=0.5)).days
    assert halved is None or halved > 2 * size.days
    smallest = size.detectable[28]
    assert size_with_returning(users, Rule(relative=smallest * 1.0001)).days == 28


def test_the_past_explains_what_is_the_users_own_and_so_more_of_a_longer_test() -> None:
    rng = np.random.default_rng(3)
    users = fitted(rng, *world(rng))
    left = [users.variance(day, 0.2) / users.variance(day) for day in (3, 14, 60)]
    assert left[1] == pytest.approx(0.8)
    assert left[0] > left[1] > left[2] > 0
    # More than all that is the users' own cannot be explained.
    assert users.variance(14, 0.99) == pytest.approx(users.within / (users.rows * 14))


def test_users_by_day_are_those_counted_and_go_on_to_rise() -> None:
    rng = np.random.default_rng(2)
    pace, rate = world(rng)
    users = fitted(rng, pace, rate)
    assert users.users(7) == pytest.approx(np.sum(1 - np.exp(-7 * pace)))
    assert users.users(14) < users.users(28) < USERS * 1.3


def test_what_is_no_period_is_refused() -> None:
    one = np.ones(3)
    fine = Halves(outcomes=(one, one), trials=(one, one), days=(1, 1))
    for halves, there, message in (
        (Halves(outcomes=(one, one), trials=(one * 0, one * 0), days=(1, 1)), [1, 2], "expected rows"),
        (Halves(outcomes=(one, one), trials=(one, one), days=(0, 1)), [1], "two halves"),
        (fine, [2, 1], "do not fall"),
        (fine, [2], "do not fall"),
    ):
        with pytest.raises(EvaluationError, match=message):
            Returning.of(halves, np.array(there, dtype=float))
    users = Returning.of(fine, np.array([2.0, 3.0]))
    with pytest.raises(EvaluationError, match="explained"):
        size_with_returning(users, Rule(relative=0.1), explained=1.0)
    none = Returning.of(Halves(outcomes=(one * 0, one * 0), trials=(one, one), days=(1, 1)), np.array([2.0, 3.0]))
    with pytest.raises(EvaluationError, match="no outcome"):
        size_with_returning(none, Rule(relative=0.1))
