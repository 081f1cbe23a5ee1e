"""The stored labels: facts of the few impressions of which something is known, and one header row a day.

Beside immutable impressions this table is small: rewriting a day while it matures costs little, and all labels, as of
any instant up to the newest, follow from the two tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.labels.labelling import FACT_COLUMNS, label_facts
from ctr_pipeline.labels.states import (
    NEVER,
    LabelState,
    label_maturity,
    mature_ts,
    settles_without_events,
    state_at,
    value_at,
)
from ctr_pipeline.spec.tasks import Task

TABLE_COLUMNS = (*FACT_COLUMNS, "impressions")
"""Columns of the labels table, in order."""

TABLE_ORDER = ("ts", "impression_id", "task")
"""Order of the rows of a day."""

Frame: TypeAlias = nw.LazyFrame[Any]

_KEY = ["day", "impression_id", "ts"]


@dataclass(frozen=True, slots=True)
class LabelDay:
    """The header of a day."""

    as_of: int
    """Instant as of which the day was labelled, microseconds since 1970-01-01 UTC."""
    impressions: int
    """Number of its impressions that had arrived by then."""


def label_column(task: str) -> str:
    """Name of the column with the label of ``task``: 1, 0, or null while it is not settled."""
    return f"y_{task}"


def label_table(
    impressions: IntoLazyFrameT,
    events: IntoLazyFrameT,
    tasks: Sequence[Task],
    as_of: int,
    ingest_lag: int = 0,
    max_early: int = 0,
) -> IntoLazyFrameT:
    """The rows of the labels table for the days of ``impressions``; arguments as for ``label_impressions``.

    Returns:
        Rows with :data:`TABLE_COLUMNS`: the facts, and for each day with impressions a header whose impression_id, ts
        and task are null. Without headers, a day that was never labelled would look like one without outcomes.
    """
    facts = nw.from_native(label_facts(impressions, events, tasks, as_of, ingest_lag, max_early=max_early))
    days = nw.from_native(impressions).filter(nw.col("ingest_ts") <= as_of).group_by("day").agg(impressions=nw.len())
    text = nw.lit(None).cast(nw.String)
    header = days.select(
        "day",
        **{name: text if name in ("impression_id", "task") else NEVER for name in FACT_COLUMNS[1:-1]},
        as_of=nw.lit(as_of).cast(nw.Int64),
        impressions=nw.col("impressions").cast(nw.Int64),
    )
    rows: IntoLazyFrameT = nw.concat(
        [header.select(TABLE_COLUMNS), facts.with_columns(impressions=NEVER).select(TABLE_COLUMNS)], how="vertical"
    ).to_native()
    return rows


def facts_in(table: IntoLazyFrameT) -> IntoLazyFrameT:
    """The rows of a labels table that are facts of impressions."""
    facts: IntoLazyFrameT = nw.from_native(table).filter(~nw.col("impression_id").is_null()).to_native()
    return facts


def label_days(table: IntoLazyFrameT) -> dict[date, LabelDay]:
    """The headers of a labels table, by day; days without impressions have none."""
    headers = nw.from_native(table).filter(nw.col("impression_id").is_null()).select("day", "as_of", "impressions")
    rows = headers.collect(backend="polars").iter_rows()
    return {day: LabelDay(int(as_of), int(impressions)) for day, as_of, impressions in sorted(rows)}


def join_labels(
    impressions: IntoLazyFrameT,
    table: IntoLazyFrameT,
    tasks: Sequence[Task],
    names: Sequence[str],
    as_of: int,
    ingest_lag: int = 0,
    watermarks: Mapping[str, int] | None = None,
) -> IntoLazyFrameT:
    """``impressions`` with the label of each of the tasks ``names`` as of ``as_of``.

    Args:
        impressions: Rows of the impressions table that had arrived by ``as_of``.
        table: Rows of the labels table for the same days, labelled as of ``as_of`` or later (or once all their
            windows had closed).
        tasks: Tasks of the spec, parents first.
        names: The tasks whose labels are wanted.
        as_of: Microseconds since 1970-01-01 UTC.
        ingest_lag: Microseconds added to every maturity.
        watermarks: By task, up to when its outcomes had surely been delivered
            (:func:`~ctr_pipeline.labels.watermark.task_watermarks`). A 0 that only means that no event arrived is then
            null where the maturity lies after it: the outcome may lie in a log that has stopped. None for ``as_of``.

    Returns:
        The columns of ``impressions`` and :func:`label_column` of each task (Int8).
    """
    joined = nw.from_native(impressions)
    facts = nw.from_native(facts_in(table))
    for name in names:
        own = facts.filter(nw.col("task") == name)
        values = own.with_columns(mature_ts=mature_ts(tasks, name, ingest_lag))
        closed = nw.when(nw.col("closed_ts") <= as_of).then(nw.lit(1)).otherwise(nw.lit(0))
        values = values.select(*_KEY, _value=value_at(as_of), _closed=closed, _found=nw.lit(True))
        by_time = nw.lit(None).cast(nw.Int8)
        if settles_without_events(tasks, name):
            by_time = nw.when(mature_ts(tasks, name, ingest_lag) <= as_of).then(nw.lit(0)).otherwise(nw.lit(None))
            by_time = by_time.cast(nw.Int8)
        label = nw.when(nw.col("_found").is_null()).then(by_time).otherwise(nw.col("_value"))
        if watermarks is not None:
            due = nw.col("ts") + label_maturity(tasks, name)
            stated = (due <= watermarks[name]) | (nw.col("_value") == 1) | (nw.col("_closed") == 1)
            label = nw.when(stated).then(label).otherwise(nw.lit(None).cast(nw.Int8))
        joined = joined.join(values, on=_KEY, how="left").with_columns(label.alias(label_column(name)))
        joined = joined.drop("_value", "_closed", "_found")
    result: IntoLazyFrameT = joined.to_native()
    return result


def join_known(impressions: IntoLazyFrameT, table: IntoLazyFrameT, name: str, as_of: int) -> IntoLazyFrameT:
    """``impressions`` with the column ``known``: when the outcome of task ``name`` was known; null by ``as_of`` none was.

    Args:
        impressions: Rows of the impressions table.
        table: Rows of the labels table for the same days, labelled as of ``as_of`` or later.
        name: The task.
        as_of: Microseconds since 1970-01-01 UTC.
    """
    facts = nw.from_native(facts_in(table)).filter(nw.col("task") == name, nw.col("known_ts") <= as_of)
    known = facts.select(*_KEY, known=nw.col("known_ts"))
    joined: IntoLazyFrameT = nw.from_native(impressions).join(known, on=_KEY, how="left").to_native()
    return joined


def label_state_counts(
    impressions: IntoLazyFrameT,
    table: IntoLazyFrameT,
    tasks: Sequence[Task],
    as_of: int,
    ingest_lag: int = 0,
    names: Sequence[str] | None = None,
) -> dict[str, dict[str, int]]:
    """Number of impressions by task and state as of ``as_of``; states without any count 0.

    Args:
        impressions: Rows of the impressions table.
        table: Rows of the labels table for the same impressions.
        tasks: Tasks of the spec, parents first.
        as_of: Microseconds since 1970-01-01 UTC, no later than that of ``table``.
        ingest_lag: Microseconds added to every maturity.
        names: The tasks to count; all when None.
    """
    wanted = [task for task in tasks if names is None or task.name in names]
    shown = nw.from_native(impressions).filter(nw.col("ingest_ts") <= as_of)
    facts = nw.from_native(facts_in(table)).filter(nw.col("ingest_ts") <= as_of)
    counts: dict[str, dict[str, int]] = {}
    rows, mature = _rows_and_mature(shown, wanted, as_of, ingest_lag, tasks)
    for task in wanted:
        own = facts.filter(nw.col("task") == task.name)
        with_facts, mature_with_facts = _rows_and_mature(own, [task], as_of, ingest_lag, tasks)
        settled = mature[task.name] - mature_with_facts[task.name] if settles_without_events(tasks, task.name) else 0
        states = own.with_columns(mature_ts=mature_ts(tasks, task.name, ingest_lag)).select(state=state_at(as_of))
        found = states.group_by("state").agg(rows=nw.len()).collect(backend="polars").iter_rows()
        counts[task.name] = {state.value: 0 for state in LabelState} | {str(state): int(n) for state, n in found}
        counts[task.name][LabelState.NEGATIVE.value] += settled
        counts[task.name][LabelState.CENSORED.value] += rows - with_facts - settled
    return counts


def _rows_and_mature(
    rows: Frame, tasks: Sequence[Task], as_of: int, ingest_lag: int, of: Sequence[Task] | None = None
) -> tuple[int, Mapping[str, int]]:
    """Number of rows, and for each task the number of those that are mature."""
    flags = {
        task.name: nw.when(mature_ts(of or tasks, task.name, ingest_lag) <= as_of).then(nw.lit(1)).otherwise(nw.lit(0))
        for task in tasks
    }
    counted = rows.select("ts", **flags).select(nw.col("ts").count().alias("rows"), *(nw.col(n).sum() for n in flags))
    found = counted.collect(backend="polars").row(0)
    return int(found[0] or 0), {name: int(n or 0) for name, n in zip(flags, found[1:], strict=True)}
