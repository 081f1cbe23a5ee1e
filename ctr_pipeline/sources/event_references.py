"""Do events belong to impressions that the log holds, and come after them?"""

from collections.abc import Iterable

import polars as pl

from ctr_pipeline.sources.quarantine import QUARANTINE_SCHEMA
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.source import EventLog, LabelLog
from ctr_pipeline.spec.tasks import Task

ORPHAN, EARLY = "orphan_event", "event_before_impression"
"""Reasons: the impression is not there; the event comes before it."""

_RULES = {
    ORPHAN: (
        "an event belongs to an impression in the table `impressions`, which lacks those before the log's first day, "
        "those that have not arrived, and those that were quarantined"
    ),
    EARLY: "an event does not come before its impression, or by no more than `source.max_early`",
}
_EVENT = ("day", "impression_id", "event", "event_ts", "source_file", "source_row")
_INDEX = "__index"


def refers(spec: Spec) -> bool:
    """Whether any outcome names its impression. A 0/1 column of the impressions is a part of them, and refers to nothing else."""
    return bool(_referring(spec))


def referring(spec: Spec, events: pl.LazyFrame) -> pl.LazyFrame:
    """Those rows of the outcome_events table that name an impression."""
    tasks = [task.name for task in _referring(spec)]
    return events.filter(pl.col("event").is_in(tasks), pl.col("kind") != "unknown")


def find_broken_references(
    events: pl.DataFrame, impressions: Iterable[pl.LazyFrame], max_early: int = 0
) -> pl.DataFrame:
    """The events that can never count for a label, because of their impression.

    Exact, whatever the order of the pieces. Memory holds the events and the impressions that they belong to; the
    pieces are streamed, and as soon as every event has found its impression no further one is read.

    Args:
        events: Rows of the outcome_events table that name an impression (:func:`referring`).
        impressions: Rows of the impressions table in pieces, the likeliest first; ``impression_id`` and ``ts`` are
            read. An id stands in one piece only.
        max_early: Microseconds by which an event may come before its impression and still count.

    Returns:
        Columns of ``events`` and ``reason``, in the order of ``events``.
    """
    rows = events.with_row_index(_INDEX)
    left = rows.select(_INDEX, "impression_id", "event_ts")
    early = left.clear()
    for piece in impressions if left.height else ():
        ids = left.lazy().select("impression_id").unique()
        shown = (
            piece.select("impression_id", "ts").join(ids, on="impression_id", how="semi").collect(engine="streaming")
        )
        found = left.join(shown.group_by("impression_id").agg(pl.col("ts").min()), on="impression_id", how="inner")
        early = pl.concat([early, found.filter(pl.col("event_ts") < pl.col("ts") - max_early).select(left.columns)])
        left = left.join(found, on=_INDEX, how="anti")
        if left.is_empty():
            break
    reasons = [rows.select(_INDEX, reason=pl.lit(reason)) for rows, reason in ((left, ORPHAN), (early, EARLY))]
    return rows.join(pl.concat(reasons), on=_INDEX, how="inner", maintain_order="left").drop(_INDEX)


def reference_quarantine(spec: Spec, broken: pl.DataFrame) -> pl.DataFrame:
    """What :func:`find_broken_references` found, as rows of a quarantine. Ids are private, so no value is shown."""
    columns = {task.name: _columns_of(spec, task) for task in _referring(spec)}
    lines = [
        {"event": event, "reason": reason, "rule": _RULES[reason], "column": column}
        for event, of_reason in columns.items()
        for reason, column in of_reason.items()
    ]
    texts = dict.fromkeys(("event", "reason", "rule", "column"), pl.String)
    rows = broken.select(*_EVENT, "reason").join(
        pl.DataFrame(lines, schema=texts), on=["event", "reason"], how="left", maintain_order="left"
    )
    shown = rows.with_columns(pl.lit("outcome_events").alias("table"), pl.lit(None, pl.String).alias("value"))
    return (
        shown.select(QUARANTINE_SCHEMA.names())
        .cast(QUARANTINE_SCHEMA)
        .sort("day", "source_file", "source_row", "reason")
    )


def _referring(spec: Spec) -> list[Task]:
    return [task for task in spec.tasks if task.label.impression_column is None]


def _columns_of(spec: Spec, task: Task) -> dict[str, str | None]:
    """The log's column that breaks the rule, by reason; None where event logs name it differently."""
    if task.label.time_column is not None:
        return {ORPHAN: spec.impression.id, EARLY: task.label.time_column}

    def common(names: set[str | None]) -> str | None:
        return names.pop() if len(names) == 1 else None

    labels = [log for log in spec.source.labels if log.name == task.label.log]
    logs: list[EventLog | LabelLog] = [*labels] if labels else [*spec.source.events]
    return {ORPHAN: common({log.impression_id for log in logs}), EARLY: common({log.time for log in logs})}
