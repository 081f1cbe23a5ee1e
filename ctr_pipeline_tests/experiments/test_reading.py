"""Readings of simulated tests: coverage, power, and no more wrong decisions than stated however often one looks."""

import numpy as np
import pytest
from scipy import stats

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.reading import Decision, Reading, read_test
from ctr_pipeline.experiments.sample_ratio import sample_ratio_p_value
from ctr_pipeline.experiments.sample_size import Rule, UserTotals, size_of_test


class Users:
    """Users who come one after another, in both arms by turns."""

    def __init__(self, rng: np.random.Generator, users: int, lift: float) -> None:
        rate = rng.beta(1.5, 20, users)
        self.treated = np.arange(users) % 2 == 0
        self.trials = 1 + rng.poisson(8, users)
        seen = 1 + rng.poisson(30, users)
        self.before = np.where(rng.random(users) < 0.2, np.nan, rng.binomial(seen, rate) / seen)
        self.outcomes = rng.binomial(self.trials, np.where(self.treated, rate * (1 + lift), rate))

    def arm(self, treated: bool, until: int, past: bool) -> UserTotals:
        chosen = (self.treated == treated) & (np.arange(len(self.trials)) < until)
        before = self.before[chosen] if past else None
        return UserTotals.of(self.outcomes[chosen], self.trials[chosen], before)

    def read(self, until: int, planned: int, past: bool = True) -> Reading:
        """The reading after ``until`` users, where the end was planned for ``planned``."""
        arms = self.arm(True, until, past), self.arm(False, until, past)
        error = np.sqrt(sum(np.var(arm.errors(), ddof=1) / len(arm.trials) for arm in arms) * until / planned)
        return read_test(*arms, planned_error=float(error))


TRUE_RATE = 1.5 / 21.5


def test_intervals_hold_the_truth_as_often_as_they_say_and_the_past_makes_them_narrow() -> None:
    rng, lift = np.random.default_rng(0), 0.1
    held = dict.fromkeys(("difference", "relative", "plain"), 0)
    for _ in range(500):
        users = Users(rng, 4000, lift)
        found, plain = users.read(4000, 4000), users.read(4000, 4000, past=False)
        assert found.difference.high - found.difference.low < plain.difference.high - plain.difference.low
        assert 0.02 < found.explained < 0.9
        assert plain.explained == 0
        truth = lift * TRUE_RATE
        held["difference"] += found.difference.low <= truth <= found.difference.high
        held["plain"] += plain.difference.low <= truth <= plain.difference.high
        held["relative"] += found.relative.low <= lift <= found.relative.high
        assert found.always.low < found.difference.low
    assert all(0.92 <= count / 500 <= 0.98 for count in held.values()), held
    assert users.read(4000, 8000, past=False).information == pytest.approx(0.5, rel=0.1)


def test_twenty_looks_make_no_more_wrong_decisions_than_stated_and_find_the_planned_difference() -> None:
    rng, looks = np.random.default_rng(1), 20
    of_past = Users(rng, 20_000, 0.0)
    planned = size_of_test(of_past.arm(True, 20_000, past=True), Rule(relative=0.2), np.array([1000.0])).users
    assert planned is not None
    wrong = found = naive = 0
    for _ in range(400):
        none, lifted = Users(rng, planned, 0.0), Users(rng, 2 * planned, 0.2)
        readings = [none.read(planned * look // looks, planned) for look in range(2, looks + 1)]
        wrong += any(reading.decision is not Decision.GO_ON for reading in readings)
        naive += any(not reading.difference.low <= 0 <= reading.difference.high for reading in readings)
        found += any(
            lifted.read(2 * planned * look // looks, planned).decision is Decision.BETTER
            for look in range(2, looks + 1)
        )
    assert wrong / 400 <= 0.05
    # What the same looks do with the interval of a single one.
    assert naive / 400 > 0.12
    assert found / 400 >= 0.8


def test_worse_is_said_and_a_wrong_ratio_before_all() -> None:
    rng = np.random.default_rng(2)
    users = Users(rng, 20_000, -0.5)
    assert users.read(20_000, 20_000).decision is Decision.WORSE
    treated, control = users.arm(True, 20_000, past=True), users.arm(False, 18_000, past=True)
    found = read_test(treated, control, planned_error=0.001)
    assert found.ratio_p_value < 1e-3
    assert found.decision is Decision.UNEVEN_ARMS


def test_the_ratio_is_seldom_doubted_where_it_holds_and_found_where_it_does_not() -> None:
    rng = np.random.default_rng(3)
    doubted = 0
    for _ in range(400):
        arms = np.cumsum(rng.random(20_000) < 0.3)
        looks = range(200, 20_001, 200)
        doubted += any(sample_ratio_p_value([arms[n - 1], n - arms[n - 1]], [3, 7]) < 0.05 for n in looks)
    assert doubted / 400 <= 0.05
    wrong = rng.binomial(100_000, 0.31)
    assert sample_ratio_p_value([wrong, 100_000 - wrong], [0.3, 0.7]) < 1e-4
    assert stats.binomtest(int(wrong), 100_000, 0.3).pvalue < 1e-4
    assert sample_ratio_p_value([0, 0], [1, 1]) == 1
    # What is wrong by much is found with few users.
    assert sample_ratio_p_value([150, 250], [1, 1]) < 1e-3


@pytest.mark.parametrize(
    ("users", "shares"), [([1], [1.0]), ([1, 2], [1.0, 0.0]), ([1, -2], [1.0, 1.0]), ([1, 2, 3], [1.0, 1.0])]
)
def test_arms_that_cannot_be_compared_are_refused(users: list[int], shares: list[float]) -> None:
    with pytest.raises(EvaluationError, match="sample ratio"):
        sample_ratio_p_value(users, shares)


def test_what_cannot_be_read_is_refused() -> None:
    some, none = UserTotals.of(np.array([1.0, 0.0]), np.ones(2)), UserTotals.of(np.zeros(2), np.ones(2))
    past = UserTotals.of(np.array([1.0, 0.0]), np.ones(2), np.zeros(2))
    for arms, options, message in (
        ((some, past), {}, "one arm alone has a period before"),
        ((some, none), {}, "the control has no outcome"),
        ((some, some), {"alpha": 1.0}, "alpha"),
        ((some, some), {"share": 0.0}, "share"),
        ((some, some), {"planned_error": 0.0}, "planned_error"),
    ):
        with pytest.raises(EvaluationError, match=message):
            read_test(*arms, **({"planned_error": 0.1} | options))  # type: ignore[arg-type]
