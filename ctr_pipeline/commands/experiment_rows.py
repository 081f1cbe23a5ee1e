"""The settled rows of a data root, and what its users did in them: what experiments are planned with and read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.errors import UserError
from ctr_pipeline.experiments.declared_plan import Term, Unit
from ctr_pipeline.experiments.sample_size import UserTotals, deviations
from ctr_pipeline.labels import join_known, join_settled, label_column, label_days, task_watermarks
from ctr_pipeline.lake import Lake
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US

OUTCOME = "outcome"
"""Column of a settled row: what it adds to the metric; null where it is not settled."""

OUTCOME_THEN = "outcome_then"
"""Column of a settled row: what was known to add to the metric at an earlier instant; an outcome that was not known yet adds 0."""


class ExperimentError(UserError):
    """The data root has not what an experiment is planned with or read from."""


@dataclass(frozen=True, slots=True)
class SettledRows:
    """Impressions of users in a period.

    Attributes:
        frame: Those whose outcomes are settled: user, session, day, the further columns, and :data:`OUTCOME`.
        shown: All impressions of the period.
        without_user: Those that no user is known of; they are in no arm.
        without_value: Settled ones that lack a number of the metric, and are left out.
        settled: Last day on which any row is settled; None without one.
    """

    frame: pl.DataFrame
    shown: int
    without_user: int
    without_value: int
    settled: date | None

    @property
    def share(self) -> float:
        """Share of the impressions of users that are settled."""
        of_users = self.shown - self.without_user
        return (self.frame.height + self.without_value) / of_users if of_users else 0.0


def settled_rows(
    deployment: Deployment,
    terms: Sequence[Term],
    first: date,
    last: date,
    columns: Sequence[str] = (),
    *,
    users: bool = True,
    known_by: int | None = None,
) -> SettledRows:
    """The impressions of the days ``first`` to ``last`` whose outcomes are settled.

    Whether a row is settled depends on its time alone, so arms are compared at the same maturity.

    Args:
        deployment: The data root.
        terms: The metric.
        first: First day.
        last: Last day.
        columns: Further columns of the table `impressions`.
        users: Whether rows without a user are left out.
        known_by: Instant of :data:`OUTCOME_THEN`, microseconds since 1970 UTC; without it there is no such column.

    Raises:
        ExperimentError: the log has no user and they are needed, or a column or task is not there.
    """
    spec, lake = deployment.spec, Lake(deployment.paths.lake)
    _refuse_absent(spec, lake, terms, columns, users=users)
    names = list(dict.fromkeys(term.task for term in terms))
    values = list(dict.fromkeys(term.value for term in terms if term.value is not None))
    taken = list(dict.fromkeys(("day", "impression_id", "ts", "ingest_ts", "user", "session", *columns, *values)))
    marks: dict[int, Mapping[str, int]] = {}
    parts, shown_rows = [], 0
    for day, header in label_days(lake.scan("labels", first=first, last=last)).items():
        if header.as_of not in marks:
            marks[header.as_of] = task_watermarks(lake.scan("outcome_events"), spec.tasks, header.as_of)
        rows = lake.scan("impressions", first=day, last=day).filter(pl.col("ingest_ts") <= header.as_of)
        labelled = join_settled(
            rows.select(taken), lake.scan("labels", first=day, last=day), spec.tasks, names, header.as_of,
            spec.split.ingest_lag, marks[header.as_of],
        )  # fmt: skip
        for name in names if known_by is not None else ():
            early = join_known(labelled.lazy(), lake.scan("labels", first=day, last=day), name, known_by or 0)
            labelled = early.rename({"known": f"known_{name}"}).collect()
        shown_rows += labelled.height
        parts.append(labelled)
    if not shown_rows:
        raise ExperimentError(
            f"there are no labelled impressions from {first} to {last} in {deployment.data_root.name}: run `ctr run` first, or "
            "name other days."
        )
    frame = pl.concat(parts)
    over = pl.all_horizontal(pl.col(label_column(name)).is_not_null() for name in names)
    has_value = pl.all_horizontal(pl.lit(True), *(pl.col(name).is_finite().fill_null(False) for name in values))
    labels = {name: pl.col(label_column(name)).cast(pl.Float64) for name in names}
    outcomes = [_sum_of(terms, labels).alias(OUTCOME)]
    if known_by is not None:
        by_then = {name: label * pl.col(f"known_{name}").is_not_null() for name, label in labels.items()}
        outcomes.append(_sum_of(terms, by_then).alias(OUTCOME_THEN))
    known = frame.filter(pl.col("user").is_not_null()) if users else frame
    mature = known.filter(over)
    kept = mature.filter(has_value).with_columns(outcomes)
    settled = mature["day"].max()
    return SettledRows(
        kept.select(
            list(dict.fromkeys(("user", "session", "day", *columns, *(one.meta.output_name() for one in outcomes))))
        ),
        shown_rows,
        shown_rows - known.height,
        mature.height - kept.height,
        settled if isinstance(settled, date) else None,
    )


def _sum_of(terms: Sequence[Term], labels: Mapping[str, pl.Expr]) -> pl.Expr:
    """The metric of a row from the labels of its tasks."""
    return pl.sum_horizontal(
        labels[term.task] * (term.weight if term.value is None else term.weight * pl.col(term.value)) for term in terms
    )


def totals_by_user(frame: pl.DataFrame, unit: Unit) -> pl.DataFrame:
    """Columns user, outcomes and trials: what each user did in rows of :func:`settled_rows`."""
    trials = {
        Unit.IMPRESSION: pl.len(),
        # A row without a session is one by itself.
        Unit.SESSION: pl.col("session").n_unique() - pl.col("session").is_null().any() + pl.col("session").null_count(),
        Unit.USER: pl.lit(1),
    }[unit]
    return frame.group_by("user").agg(outcomes=pl.col(OUTCOME).sum(), trials=trials.cast(pl.Float64)).sort("user")


def with_past(totals: pl.DataFrame, past: pl.DataFrame) -> pl.DataFrame:
    """``totals`` with the column before: by how much the user deviated in the period before, NaN for who was not there."""
    before = deviations(past["outcomes"].to_numpy(), past["trials"].to_numpy())
    joined = totals.join(past.select("user").with_columns(before=pl.Series(before)), on="user", how="left")
    return joined.with_columns(pl.col("before").fill_null(np.nan))


def user_totals(totals: pl.DataFrame) -> UserTotals:
    """The totals as the statistics take them."""
    before = totals["before"].to_numpy() if "before" in totals.columns else None
    return UserTotals.of(totals["outcomes"].to_numpy(), totals["trials"].to_numpy(), before)


def users_by_day(frame: pl.DataFrame, first: date, last: date) -> list[int]:
    """Different users until the end of each day from ``first`` to ``last``."""
    new = dict(frame.group_by("user").agg(pl.col("day").min()).group_by("day").len().iter_rows())
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [int(total) for total in np.cumsum([new.get(day, 0) for day in days])]


def maturity_days(spec: Spec, terms: Sequence[Term]) -> float:
    """Days after an impression at which the slowest outcome of the metric is settled."""
    return max(spec.maturity(term.task) for term in terms) / DAY_US


def terms_of(spec: Spec, task: str | None, value: str | None, score: bool) -> tuple[Term, ...]:
    """The metric: outcomes of ``task`` (the first one by default), times the column ``value``; or the ranking score.

    Raises:
        ExperimentError: there is no such task, or the score is wanted and the spec declares none.
    """
    tasks = [one.name for one in spec.tasks]
    if task is not None and task not in tasks:
        raise ExperimentError(f"task {task!r}: the spec has no such task; its tasks are {', '.join(tasks)}")
    if not score:
        return (Term(task or spec.tasks[0].name, 1.0, value),)
    if spec.serving.score is None:
        raise ExperimentError(
            "the value of outcomes is what `serving.score` declares, and the spec has no such section: add it, or name a "
            "--task, with a --value column where outcomes have one"
        )
    return tuple(Term(term.task, term.weight, term.bid) for term in spec.serving.score)


def _refuse_absent(spec: Spec, lake: Lake, terms: Sequence[Term], columns: Sequence[str], *, users: bool) -> None:
    tasks = [task.name for task in spec.tasks]
    for term in terms:
        if term.task not in tasks:
            raise ExperimentError(f"task {term.task!r}: the spec has no such task; its tasks are {', '.join(tasks)}")
    if users and spec.impression.user is None:
        raise ExperimentError(
            "users are assigned to arms, and the log has none: name their column in `impression.user`"
        )
    if not lake.exists("impressions") or not lake.exists("labels"):
        raise ExperimentError("there are no labelled impressions yet: run `ctr run` first")
    stored = lake.scan("impressions").collect_schema()
    numbers = [name for name, kind in stored.items() if kind == pl.Float64]
    for term in terms:
        if term.value is not None and term.value not in numbers:
            raise ExperimentError(
                f"value {term.value!r} is no number that is stored of impressions; stored are {', '.join(numbers)}"
            )
    for name in columns:
        if name not in stored:
            raise ExperimentError(f"column {name!r} is not stored of impressions; stored are {', '.join(stored)}")
