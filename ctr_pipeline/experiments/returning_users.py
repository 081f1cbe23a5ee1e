"""How the variance of a rate falls while the same users come again."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ctr_pipeline.calibration.labelled import Float64s, Reals
from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.sample_size import LONGEST_DAYS, Rule, SizeOfTest, sized


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """What the users of a period did in each of its halves, an array [K] each.

    Attributes:
        outcomes: Outcomes of the first and of the second half.
        trials: Rows of the first and of the second half.
        days: Days of each half.
    """

    outcomes: tuple[Float64s, Float64s]
    trials: tuple[Float64s, Float64s]
    days: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Returning:
    """Users of whom each has rows at a pace and a rate of his own.

    After d days there are L·d rows, and the variance of their common rate is (within + between) / (L·d) + between · S / L²: the
    second part, of the users themselves, does not fall with time, as the same users come again.

    Attributes:
        rate: Outcomes over rows.
        rows: L, rows a day.
        squares: S, sum over users of their squared rows a day.
        within: Variance of a row about its user's rate; rows of a session may depend on each other.
        between: Variance of the users' rates, weighted by their rows.
        users_by_day: Different users until the end of each day.
    """

    rate: float
    rows: float
    squares: float
    within: float
    between: float
    users_by_day: Float64s

    @classmethod
    def of(cls, halves: Halves, users_by_day: Reals) -> "Returning":
        """The users of a period.

        What a user's deviations in the two halves have in common is the user's own; the rest is not.

        Raises:
            EvaluationError: there are no rows, or numbers of users fall.
        """
        (early, late), (first, second) = halves.trials, halves.outcomes
        trials, outcomes = early + late, first + second
        total = float(trials.sum())
        if total <= 0 or min(halves.days) < 1:
            raise EvaluationError("users who return: expected rows, and two halves of at least a day each")
        rate = float(outcomes.sum()) / total
        together = float((early * late).sum())
        common = float(((first - rate * early) * (second - rate * late)).sum())
        between = max(0.0, common / together) if together else 0.0
        # Of a rate the squared deviations cannot fall below those of independent rows by chance alone.
        spread = float(((outcomes - rate * trials) ** 2).sum())
        within = max(0.0, (spread - between * float((trials**2).sum())) / total)
        there = np.asarray(users_by_day, dtype=np.float64)
        if len(there) != sum(halves.days) or (np.diff(there, prepend=0.0) < 0).any():
            raise EvaluationError("users_by_day: expected numbers that do not fall, one a day")
        return cls(rate, total / sum(halves.days), together / math.prod(halves.days), within, between, there)

    def variance(self, day: int, explained: float = 0.0) -> float:
        """Of the rate of all users after ``day`` days.

        Args:
            day: Days.
            explained: Share of the variance that the period before took away in the period that the users are known from. It
                takes away of what is the users' own, which is a smaller part of a shorter test and a larger one of a longer.
        """
        own = self._own(day)
        period = len(self.users_by_day)
        known = self._own(period)
        taken = min(1.0, explained * (self._rest(period) + known) / known) if known else 0.0
        return self._rest(day) + own * (1.0 - taken)

    def _own(self, day: int) -> float:
        """What the users' own rates add to the variance after ``day`` days."""
        return float(self.between * (self.squares / self.rows**2 + 1.0 / (self.rows * day)))

    def _rest(self, day: int) -> float:
        return float(self.within / (self.rows * day))

    def users(self, day: int) -> float:
        """Different users after ``day`` days; beyond the period by the power law of its second half."""
        there = self.users_by_day
        if day <= len(there):
            return float(there[day - 1])
        half = max(1, len(there) // 2)
        slope = math.log(there[-1] / there[half - 1]) / math.log(len(there) / half) if half < len(there) else 1.0
        return float(there[-1] * (min(day, LONGEST_DAYS) / len(there)) ** slope)


def size_with_returning(users: Returning, rule: Rule, *, explained: float = 0.0) -> SizeOfTest:
    """How many days a test needs where users come again; arguments as for :func:`~.sample_size.size_of_rate`.

    Raises:
        EvaluationError: there is no outcome, or a share is none.
    """
    if not users.rate > 0:
        raise EvaluationError("the users have no outcome, so no difference of rates can be planned")
    if not 0 <= explained < 1:
        raise EvaluationError(f"explained: expected a share from 0, and below 1; found {explained}")
    found = sized(users.rate, lambda day: (users.users(day), users.variance(day, explained)), rule)
    return replace(found, explained=explained)
