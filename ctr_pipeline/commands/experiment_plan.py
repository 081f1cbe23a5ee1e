"""`ctr experiment plan`: users and days that an experiment needs, from a log or from numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl

from ctr_pipeline.commands.experiment_rows import (
    ExperimentError,
    maturity_days,
    settled_rows,
    terms_of,
    totals_by_user,
    user_totals,
    users_by_day,
    with_past,
)
from ctr_pipeline.deployment.deployment import Deployment, declared_last_day
from ctr_pipeline.experiments.declared_plan import Looks, Plan, Term, Unit
from ctr_pipeline.experiments.design import Design
from ctr_pipeline.experiments.returning_users import Halves, Returning, size_with_returning
from ctr_pipeline.experiments.sample_size import Rule, SizeOfTest, clustered_variance, size_of_rate, size_of_test
from ctr_pipeline.labels import label_days
from ctr_pipeline.lake import Lake

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        design: Who is in which arm.
        relative: Smallest relative difference that must be found.
        alpha: Chance of a wrong decision.
        power: Chance of the right one.
        sides: 1 or 2.
        looks: When a decision may be taken.
        unit: Over what outcomes are counted.
        first: First day, where it is known.
    """

    design: Design
    relative: float
    alpha: float
    power: float
    sides: int
    looks: Looks
    unit: Unit
    first: date | None

    def rule(self, maturity: float) -> Rule:
        """What the test must find, whose outcomes are settled after ``maturity`` days."""
        return Rule(
            relative=self.relative,
            alpha=self.alpha,
            power=self.power,
            sides=self.sides,
            treated=self.design.treated,
            share=self.design.taking_part,
            maturity_days=maturity,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """An experiment without a log.

    Attributes:
        task: Name of the outcome.
        rate: Outcomes over rows of the control.
        users_by_day: New users a day.
        rows: Rows of a user over the test.
        correlation: Of the outcomes of two rows of a user.
        explained: Share of the variance that the period before takes away.
        maturity_days: Days until an outcome is settled.
    """

    task: str
    rate: float
    users_by_day: float
    rows: float = 1.0
    correlation: float = 0.0
    explained: float = 0.0
    maturity_days: float = 0.0


def plan_from_numbers(wanted: Wanted, numbers: Numbers) -> dict[str, Any]:
    """The plan from numbers; see :func:`plan_from_log`."""
    rows = 1.0 if wanted.unit is Unit.USER else numbers.rows
    variance = clustered_variance(numbers.rate, rows, numbers.correlation)
    size = size_of_rate(
        numbers.rate, variance, wanted.rule(numbers.maturity_days), np.array([numbers.users_by_day]),
        explained=numbers.explained,
    )  # fmt: skip
    return _content(wanted, (Term(numbers.task),), size, None, before_days=0)


def plan_from_log(
    deployment: Deployment,
    wanted: Wanted,
    *,
    task: str | None = None,
    value: str | None = None,
    score: bool = False,
    days: int | None = None,
    before_days: int = 14,
) -> dict[str, Any]:
    """Users and days of an experiment, planned with the last settled days of a log.

    Args:
        deployment: The data root.
        wanted: What is asked for.
        task: Outcome that is counted; the first one of the spec by default.
        value: Column that each outcome counts with.
        score: Count what `serving.score` declares instead.
        days: Days of the log that the test is planned with; by default 14, or half of what is settled where that is less.
        before_days: Days before those, whose outcomes are taken away from the variance; 0 for none.

    Returns:
        ``plan``, which ``ctr experiment read`` takes, ``size``, and what was found in the ``log``.

    Raises:
        ExperimentError: the log has no user or no settled outcome.
        EvaluationError: a number is outside its range.
    """
    terms = terms_of(deployment.spec, task, value, score)
    maturity = maturity_days(deployment.spec, terms)
    first, last = _settled_range(deployment, terms)
    length = (last - first).days + 1
    taken = min(days or 14, length if days else max(1, length // 2))
    begin = last - timedelta(days=taken - 1)
    found = settled_rows(deployment, terms, begin, last)
    totals = totals_by_user(found.frame, wanted.unit)
    earlier = min(before_days, (begin - first).days)
    if earlier > 0:
        past = settled_rows(deployment, terms, begin - timedelta(days=earlier), begin - timedelta(days=1))
        totals = with_past(totals, totals_by_user(past.frame, wanted.unit))
    rule, together = wanted.rule(maturity), user_totals(totals)
    there = np.array(users_by_day(found.frame, begin, last), dtype=np.float64)
    if wanted.unit is Unit.USER or taken < 2:
        # What a user does in all is asked for: that of a longer test is not known from a shorter one.
        size = size_of_test(together, rule, there)
    else:
        returning = Returning.of(_halves(found.frame, wanted.unit, begin, taken), there)
        size = size_with_returning(returning, rule, explained=together.explained())
    log = {
        "first": begin.isoformat(),
        "last": last.isoformat(),
        "impressions": found.frame.height,
        "users": totals.height,
        "rows_by_user": found.frame.height / totals.height,
        "users_with_one_row": int(found.frame.group_by("user").len()["len"].eq(1).sum()),
        "impressions_by_day": found.frame.height / taken,
        "users_by_day": users_by_day(found.frame, begin, last),
        "without_user": found.without_user,
        "without_value": found.without_value,
        "before_days": max(0, earlier),
    }
    return _content(wanted, terms, size, log, before_days=before_days)


def _halves(frame: pl.DataFrame, unit: Unit, begin: date, days: int) -> Halves:
    """What each user did in the first and in the second half of the period."""
    early = days // 2
    middle = begin + timedelta(days=early)
    sides = [totals_by_user(frame.filter(own), unit) for own in (pl.col("day") < middle, pl.col("day") >= middle)]
    both = sides[0].join(sides[1], on="user", how="full", coalesce=True, suffix="_late").fill_null(0.0)
    columns = [both[name].to_numpy() for name in ("outcomes", "outcomes_late", "trials", "trials_late")]
    return Halves(outcomes=(columns[0], columns[1]), trials=(columns[2], columns[3]), days=(early, days - early))


def _settled_range(deployment: Deployment, terms: Sequence[Term]) -> tuple[date, date]:
    """First and last day all of whose impressions are settled."""
    lake = Lake(deployment.paths.lake)
    if not lake.exists("labels"):
        raise ExperimentError("there are no labelled impressions yet: run `ctr run` first")
    known = sorted(label_days(lake.scan("labels")))
    reach = math.ceil(maturity_days(deployment.spec, terms))
    newest = known[-1] if known else None
    # The day after an as-of at the end of the newest day less the maturity has rows that are not settled.
    fine = [day for day in known if newest is not None and (newest - day).days >= reach]
    if not fine:
        raise ExperimentError(
            f"no day of the log is settled: outcomes take {reach} days, and the log has {len(known)} days"
            + (f" (until {newest})" if newest else "")
            + ". Give numbers with --rate and --users-per-day, or a longer log."
        )
    last = declared_last_day(deployment.spec)
    return fine[0], min(fine[-1], last) if last is not None else fine[-1]


def _content(
    wanted: Wanted, terms: tuple[Term, ...], size: SizeOfTest, log: dict[str, Any] | None, *, before_days: int
) -> dict[str, Any]:
    users = size.sequential_users if wanted.looks is Looks.ANY else size.users
    plan = Plan(
        design=wanted.design,
        terms=terms,
        unit=wanted.unit,
        rule=size.rule,
        looks=wanted.looks,
        first=wanted.first,
        rate=None if wanted.unit is Unit.USER else size.rate,
        users=users,
        before_days=before_days,
    )
    return {"format": FORMAT, "plan": plan.to_json(), "size": size.to_json(), "log": log}
