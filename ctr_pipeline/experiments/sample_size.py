"""How many users, and days, an online test of a rate needs."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Reals
from ctr_pipeline.evaluation.metrics import EvaluationError


@dataclass(frozen=True, slots=True)
class UserTotals:
    """What the users of a period did, and optionally did in a period before it.

    Attributes:
        outcomes: [K] outcomes of each user, such as clicks.
        trials: [K] rows of each user, such as impressions; above 0.
        before: [K] outcomes per row of the user before, NaN for a user who was not there; None without such a period.
    """

    outcomes: Float64s
    trials: Float64s
    before: Float64s | None = None

    @classmethod
    def of(cls, outcomes: Reals, trials: Reals, before: Reals | None = None) -> "UserTotals":
        """The totals, checked.

        Raises:
            EvaluationError: lengths differ, a user has no row, or there are fewer than two users.
        """
        arrays = [np.asarray(array, dtype=np.float64) for array in (outcomes, trials)]
        earlier = None if before is None else np.asarray(before, dtype=np.float64)
        shapes = {array.shape for array in (*arrays, *([] if earlier is None else [earlier]))}
        if len(shapes) > 1 or arrays[0].ndim != 1 or len(arrays[0]) < 2:
            raise EvaluationError(f"totals of users: expected arrays [K] of at least two users; found {sorted(shapes)}")
        if not (np.isfinite(arrays[0]).all() and (arrays[1] > 0).all() and np.isfinite(arrays[1]).all()):
            raise EvaluationError("totals of users: expected finite outcomes, and at least one row for each user")
        return cls(arrays[0], arrays[1], earlier)

    @property
    def rate(self) -> float:
        """Outcomes over rows."""
        return float(self.outcomes.sum() / self.trials.sum())

    def errors(self) -> Float64s:
        """[K] the linear part of the rate's error a user: their mean square is the variance of the rate times the users."""
        found: Float64s = (self.outcomes - self.rate * self.trials) / self.trials.mean()
        return found

    def explained(self) -> float:
        """Share of the variance that the period before explains (CUPED: Deng et al. 2013); 0 without one."""
        if self.before is None:
            return 0.0
        errors = self.errors()
        spread = float(np.var(errors))
        left = float(np.var(errors - explained_by_past(errors, self.before)))
        return float(np.clip(1.0 - left / spread, 0.0, 1.0)) if spread else 0.0


def explained_by_past(errors: Float64s, before: Float64s) -> Float64s:
    """[K] the part of ``errors`` [K] that follows from what the users did before, NaN for who was not there; its mean is 0."""
    there = np.isfinite(before)
    # Who was not there before is a group of its own.
    columns = np.column_stack([np.where(there, before, 0.0), there.astype(np.float64)])
    columns = columns - columns.mean(axis=0)
    found: Float64s = columns @ np.linalg.lstsq(columns, errors - errors.mean(), rcond=None)[0]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeOfTest:
    """What a test of two equally large arms needs.

    Attributes:
        rate: Of the users that it was planned with.
        difference: Smallest difference of the rates that must be found.
        users: Users of both arms together.
        days: Days until so many users were there; None where they never will be.
        explained: Share of the variance that the period before takes away.
        alpha: Chance to find a difference where there is none.
        power: Chance to find the difference.
    """

    rate: float
    difference: float
    users: int
    days: int | None
    explained: float
    alpha: float
    power: float

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        names = ("rate", "difference", "users", "days", "explained", "alpha", "power")
        return {name: getattr(self, name) for name in names}


def size_of_test(
    totals: UserTotals,
    *,
    relative: float,
    users_by_day: Reals,
    share: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> SizeOfTest:
    """How many users and days a two-sided test of a difference of rates needs, users being assigned.

    A user's rows depend on each other, so the variance is that between users: of a rate of one row a user it is p(1 - p).

    Args:
        totals: Users of a period like that of the test.
        relative: Smallest difference that must be found, as a share of the rate; not 0.
        users_by_day: [D] different users until the end of each day since the start, not falling; after the last day the rise of
            that day goes on.
        share: Share of the users who take part.
        alpha: Chance to find a difference where there is none.
        power: Chance to find the difference.

    Raises:
        EvaluationError: an argument is outside its range.
    """
    for name, value in (("share", share), ("alpha", alpha), ("power", power)):
        if not 0 < value <= 1 or (name != "share" and value == 1):
            raise EvaluationError(f"{name}: expected a share between 0 and 1; found {value}")
    if not (math.isfinite(relative) and relative):
        raise EvaluationError(f"relative: expected a difference that is not 0; found {relative}")
    if not totals.rate:
        raise EvaluationError("the users have no outcome, so no difference of rates can be planned")
    explained, difference = totals.explained(), totals.rate * relative
    variance = float(np.var(totals.errors(), ddof=1)) * (1.0 - explained)
    quantiles = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    # Each arm has half of the users: the variance of the difference is 4 · variance / users.
    users = max(2, math.ceil(4 * variance * (quantiles / difference) ** 2))
    return SizeOfTest(
        rate=totals.rate,
        difference=difference,
        users=users,
        days=_days(np.asarray(users_by_day, dtype=np.float64) * share, users),
        explained=explained,
        alpha=alpha,
        power=power,
    )


def _days(users_by_day: Float64s, users: int) -> int | None:
    if not len(users_by_day) or not np.isfinite(users_by_day).all() or (np.diff(users_by_day, prepend=0.0) < 0).any():
        raise EvaluationError("users_by_day: expected numbers that do not fall, one a day")
    reached = np.flatnonzero(users_by_day >= users)
    if len(reached):
        return int(reached[0]) + 1
    rise = float(np.diff(users_by_day, prepend=0.0)[-1])
    return len(users_by_day) + math.ceil((users - float(users_by_day[-1])) / rise) if rise > 0 else None
