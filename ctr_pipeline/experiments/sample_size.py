"""How many users, and days, an online test of a rate needs."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Reals
from ctr_pipeline.evaluation.metrics import EvaluationError

LONGEST_DAYS = 3660
"""A test that would take longer is none."""

DETECTABLE_DAYS = (7, 14, 28)
"""Days of which the smallest difference that would be found is told: whole weeks, as weekdays differ."""


@dataclass(frozen=True, slots=True)
class UserTotals:
    """What the users of a period did, and optionally did in a period before it.

    Attributes:
        outcomes: [K] outcomes of each user, such as clicks.
        trials: [K] rows of each user, such as impressions; above 0.
        before: [K] what the user did before, as a number of any scale, such as outcomes per row or what :func:`deviations` gives;
            NaN for a user who was not there; None without such a period.
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
    # The normal equations: two columns of which one may be constant.
    found: Float64s = columns @ np.linalg.lstsq(columns.T @ columns, columns.T @ errors, rcond=None)[0]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a test must find, and how sure it must be.

    Attributes:
        relative: Smallest difference that must be found, as a share of the rate; not 0.
        alpha: Chance to find a difference where there is none.
        power: Chance to find the difference.
        sides: 2, or 1 where only a difference in the direction of ``relative`` is looked for.
        treated: Share of the treatment.
        share: Share of the users who take part.
        maturity_days: Days until the outcomes of a day are settled.
    """

    relative: float
    alpha: float = 0.05
    power: float = 0.8
    sides: int = 2
    treated: float = 0.5
    share: float = 1.0
    maturity_days: float = 0.0

    def __post_init__(self) -> None:
        for name in ("share", "alpha", "power", "treated"):
            value = getattr(self, name)
            if not 0 < value <= 1 or (name != "share" and value == 1):
                raise EvaluationError(f"{name}: expected a share between 0 and 1; found {value}")
        if self.alpha >= 0.5:
            raise EvaluationError(f"alpha: expected a level below 0.5; found {self.alpha}")
        if not (math.isfinite(self.relative) and self.relative):
            raise EvaluationError(f"relative: expected a difference that is not 0; found {self.relative}")
        if self.sides not in (1, 2):
            raise EvaluationError(f"sides: expected 1 or 2; found {self.sides}")
        if not (math.isfinite(self.maturity_days) and self.maturity_days >= 0):
            raise EvaluationError(f"maturity_days: expected at least 0; found {self.maturity_days}")

    @property
    def quantiles(self) -> float:
        """The difference over its standard error that is found with the stated power by a single look."""
        return float(special.ndtri(1 - self.alpha / self.sides) + special.ndtri(self.power))

    @property
    def sequential_quantiles(self) -> float:
        """The same by a confidence sequence at its planned end; looks before it can only find more."""
        # The confidence sequence has two sides: of one side it is that of twice the level.
        return planned_width(self.alpha * 2 / self.sides) + float(special.ndtri(self.power))


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeOfTest:
    """What a test of two arms needs.

    Attributes:
        rate: Of the users that it was planned with.
        difference: Smallest difference of the rates that must be found.
        users: Users of both arms together, where there is a single look at the end; None where it never ends.
        days: Days until the difference is found with the power; None where it never is.
        readable_days: Days until the outcomes of the last of these days are settled.
        sequential_users: Users by which a test that is looked at any number of times has found the difference with the power.
        sequential_days: Days of such a test.
        sequential_readable_days: Days until their outcomes are settled.
        explained: Share of the variance that the period before takes away.
        detectable: Smallest relative difference that is found with the power by a single look at the end of some days, by day.
        rule: What was asked for.
    """

    rate: float
    difference: float
    users: int | None
    days: int | None
    readable_days: int | None
    sequential_users: int | None
    sequential_days: int | None
    sequential_readable_days: int | None
    explained: float
    detectable: dict[int, float]
    rule: Rule

    @property
    def alpha(self) -> float:
        """Chance to find a difference where there is none."""
        return self.rule.alpha

    @property
    def power(self) -> float:
        """Chance to find the difference."""
        return self.rule.power

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        own = (field.name for field in fields(self) if field.name not in ("rule", "detectable"))
        detectable = {str(day): value for day, value in self.detectable.items()}
        return {**{name: getattr(self, name) for name in own}, "detectable": detectable, **asdict(self.rule)}


def size_of_test(totals: UserTotals, rule: Rule, users_by_day: Reals) -> SizeOfTest:
    """How many users and days a test of a difference of rates needs, users being assigned.

    A user's rows depend on each other, so the variance is that between users: of a rate of one row a user it is p(1 - p).

    Args:
        totals: Users of a period like that of the test.
        rule: What must be found.
        users_by_day: [D] different users until the end of each day since the start, not falling; after the last day the rise of
            that day goes on.

    Raises:
        EvaluationError: the users have no outcome, or numbers of users fall.
    """
    variance = float(np.var(totals.errors(), ddof=1)) if totals.rate else 0.0
    return size_of_rate(totals.rate, variance, rule, users_by_day, explained=totals.explained() if totals.rate else 0.0)


def size_of_rate(
    rate: float, variance: float, rule: Rule, users_by_day: Reals, *, explained: float = 0.0
) -> SizeOfTest:
    """As :func:`size_of_test`, from numbers.

    Args:
        rate: Of the control.
        variance: Of the rate, times the users: p(1 - p) for one row a user, see :func:`clustered_variance` for more.
        rule: What must be found.
        users_by_day: As for :func:`size_of_test`.
        explained: Share of the variance that the period before takes away.

    Raises:
        EvaluationError: there is no outcome or no variance, a share is none, or numbers of users fall.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise EvaluationError("the users have no outcome, so no difference of rates can be planned")
    if not (math.isfinite(variance) and variance > 0):
        raise EvaluationError(f"variance: expected a number above 0; found {variance}")
    if not 0 <= explained < 1:
        raise EvaluationError(f"explained: expected a share from 0, and below 1; found {explained}")
    there = np.asarray(users_by_day, dtype=np.float64)
    if not len(there) or not np.isfinite(there).all() or (np.diff(there, prepend=0.0) < 0).any():
        raise EvaluationError("users_by_day: expected numbers that do not fall, one a day")

    def after(day: int) -> tuple[float, float]:
        users = _users_after(there, day)
        return users, variance / users if users else math.inf

    found = sized(rate, after, rule, explained)
    # Of users who come once, how many there must be does not depend on when they come.
    spread = variance * (1.0 - explained) / (rule.treated * (1.0 - rule.treated))
    users, sequential = (
        max(2, math.ceil(spread * (quantiles / found.difference) ** 2))
        for quantiles in (rule.quantiles, rule.sequential_quantiles)
    )
    return replace(found, users=users, sequential_users=sequential)


def sized(rate: float, after: Callable[[int], tuple[float, float]], rule: Rule, explained: float = 0.0) -> SizeOfTest:
    """The size by what all users have done after each number of days: their number, and the variance of their rate."""
    difference = rate * rule.relative
    factor = (1.0 - explained) / (rule.treated * (1.0 - rule.treated)) / rule.share

    def error(day: int) -> float:
        return math.sqrt(factor * after(day)[1])

    def days(quantiles: float) -> int | None:
        return _first_day(lambda day: error(day) * quantiles <= abs(difference))

    single, longer = days(rule.quantiles), days(rule.sequential_quantiles)
    return SizeOfTest(
        rate=rate,
        difference=difference,
        users=None if single is None else math.ceil(after(single)[0] * rule.share),
        days=single,
        readable_days=_settled(single, rule),
        sequential_users=None if longer is None else math.ceil(after(longer)[0] * rule.share),
        sequential_days=longer,
        sequential_readable_days=_settled(longer, rule),
        explained=explained,
        detectable={
            day: rule.quantiles * error(day) / rate for day in DETECTABLE_DAYS if after(day)[0] * rule.share >= 2
        },
        rule=rule,
    )


def clustered_variance(rate: float, rows: float, correlation: float) -> float:
    """Variance of a rate times the users, where each has ``rows`` rows whose outcomes are correlated (Kish 1965).

    Args:
        rate: Between 0 and 1.
        rows: Rows of a user, at least 1.
        correlation: Of two rows of a user: 0 where they are independent, 1 where one says all about the others.

    Raises:
        EvaluationError: an argument is outside its range.
    """
    if not 0 < rate < 1:
        raise EvaluationError(f"rate: expected a share between 0 and 1; found {rate}")
    if not rows >= 1:
        raise EvaluationError(f"rows of a user: expected at least 1; found {rows}")
    if not 0 <= correlation <= 1:
        raise EvaluationError(f"correlation: expected a number from 0 to 1; found {correlation}")
    return rate * (1 - rate) / rows * (1 + (rows - 1) * correlation)


def planned_width(alpha: float) -> float:
    """Half width of the confidence sequence at its planned end, in standard errors; 1.96 is that of a single look at 5 %."""
    return sequence_width(1.0, alpha)


def sequence_width(information: float, alpha: float) -> float:
    """Half width of a confidence sequence, in standard errors (Waudby-Smith et al. 2024).

    Args:
        information: One over the squared standard error, as a share of that at the planned end, where the sequence is narrowest.
        alpha: Chance that the sequence ever leaves the truth out.
    """
    scaled = information * (-2 * math.log(alpha) + math.log(-2 * math.log(alpha)) + 1)
    return math.sqrt(2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / alpha))


def deviations(outcomes: Float64s, trials: Float64s) -> Float64s:
    """[K] by how much the outcomes of each user differ from the common rate times the rows; NaN for users without rows.

    Of the period before, it explains more of a rate than the users' own rates do where some have many rows and others few.
    """
    rate = float(outcomes.sum() / trials.sum()) if trials.sum() else 0.0
    return np.where(trials > 0, outcomes - rate * trials, np.nan)


def _settled(days: int | None, rule: Rule) -> int | None:
    return None if days is None else days + math.ceil(rule.maturity_days)


def _first_day(enough: Callable[[int], bool]) -> int | None:
    """The first day of at most :data:`LONGEST_DAYS` on which there is enough; None where there is not on the last one."""
    if not enough(LONGEST_DAYS):
        return None
    low, high = 0, LONGEST_DAYS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _users_after(users_by_day: Float64s, day: int) -> float:
    if day <= len(users_by_day):
        return float(users_by_day[day - 1])
    rise = float(np.diff(users_by_day, prepend=0.0)[-1])
    return float(users_by_day[-1]) + rise * (day - len(users_by_day))
