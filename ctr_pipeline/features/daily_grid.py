"""What the features of the past share: days as instants, and their grid on any engine."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.labels import held, label_facts
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US

HISTORY_COLUMNS = ("day", "feature", "key", "value", "item")
"""Columns of the history table, in order."""

Frame: TypeAlias = nw.LazyFrame[Any]

NO_ITEM = nw.lit(None).cast(nw.String)


def start_of(day: date) -> int:
    """00:00 UTC of ``day`` in microseconds."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return int((datetime(day.year, day.month, day.day, tzinfo=UTC) - epoch) / timedelta(microseconds=1))


def midnight(instant: str) -> nw.Expr:
    """00:00 UTC of the day of an instant."""
    return nw.col(instant) - nw.col(instant) % DAY_US


def on_grid(cells: Frame, days: Sequence[date], reach: int, lag: int = 0) -> Frame:
    """Each cell beside the ``start`` (00:00 UTC) of those of ``days`` that may look at it.

    Args:
        cells: Rows with ``at`` and ``known``: 00:00 UTC of the days on which they happened and became known.
        days: The days.
        reach: Microseconds before the start of a day that it looks back to, from ``lag`` before it on.
        lag: Microseconds before the start of a day at which its look begins.
    """
    start, starts = nw.col("start"), [start_of(day) for day in days]
    if len(days) <= reach // DAY_US:
        listed = nw.lit(",".join(map(str, starts))).str.split(",")
        # The maximum of nothing is still one row: a frame of the same engine to hold the days.
        grid = cells.select(nw.col("at").max()).with_columns(start=listed).explode("start")
        beside = cells.join(grid.select(start=start.cast(nw.Int64)), how="cross")
    else:
        # The days that may look at a cell are fewer than all days.
        later = nw.lit(",".join(str(lag + n * DAY_US) for n in range(1, reach // DAY_US + 1))).str.split(",")
        beside = (
            cells.with_columns(start=later).explode("start").with_columns(start=nw.col("at") + start.cast(nw.Int64))
        )
        beside = beside.filter(start >= min(starts), start <= max(starts), start.is_in(starts))
    return beside.filter(nw.col("at") + (reach + lag) >= start, nw.col("at") + lag < start, nw.col("known") < start)


def day_of_start(days: Sequence[date]) -> nw.Expr:
    """The one of ``days`` that begins at ``start``, found by halving them: there is a limit to how deep a text nests."""
    if len(days) == 1:
        return nw.lit(days[0])
    ordered = sorted(days)
    middle = len(ordered) // 2
    earlier, later = day_of_start(ordered[:middle]), day_of_start(ordered[middle:])
    return nw.when(nw.col("start") < start_of(ordered[middle])).then(earlier).otherwise(later)


def long_values(wide: Frame, values: Mapping[str, nw.Expr], there: nw.Expr, days: Sequence[date]) -> Frame:
    """Rows with HISTORY_COLUMNS for each day, key and feature of which a value is ``there``, of one row a day and key."""
    rows = wide.with_columns(**{f"value:{name}": value for name, value in values.items()})
    rows = rows.with_columns(feature=nw.lit(",".join(values)).str.split(",")).explode("feature")
    value = nw.lit(None).cast(nw.Float64)
    for name in values:
        value = nw.when(nw.col("feature") == name).then(nw.col(f"value:{name}")).otherwise(value)
    found = rows.with_columns(value=value).filter(there)
    return found.select(day=day_of_start(days), feature="feature", key="key", value="value", item=NO_ITEM)


def facts_with_keys(
    spec: Spec, shown: Frame, events: IntoLazyFrameT, tasks: Collection[str], columns: Collection[str], known_by: int
) -> dict[str, Frame]:
    """What is known by ``known_by`` of the outcomes of each of ``tasks``, beside ``columns`` of the impression."""
    if not tasks:
        return {}
    native, lag, early = shown.to_native(), spec.split.ingest_lag, spec.source.max_early
    facts = label_facts(native, events, spec.tasks, known_by, lag, beside=sorted(columns), max_early=early)
    found = nw.from_native(facts)
    wanted = held(
        found.filter(nw.col("task").is_in(sorted(tasks))).select(
            "impression_id", "ts", "ingest_ts", "event_ts", "known_ts", "settled_ts",
            *(nw.col(f"beside:{name}").alias(name) for name in sorted(columns)), _task=nw.col("task"),
        )
    )  # fmt: skip
    return {task: wanted.filter(nw.col("_task") == task).drop("_task") for task in sorted(tasks)}
