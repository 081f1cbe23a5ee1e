"""Up to when a log of outcomes can be trusted to be complete."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.spec.tasks import Task


def arrival_watermark(arrivals: NDArray[np.integer[Any]], as_of: int) -> int:
    """The instant up to which outcomes have surely been delivered, as of ``as_of``.

    A log that has been silent for longer than ever before has probably stopped. So the watermark is the last arrival
    plus the longest silence between two arrivals, and never later than ``as_of``. A log with fewer than two arrivals
    has no rhythm: then it is the last arrival, or ``as_of`` where there is none.

    Args:
        arrivals: [N] ingest times of outcomes, microseconds since 1970-01-01 UTC, in any order.
        as_of: Instant up to which arrivals were read, microseconds.
    """
    seen = np.unique(arrivals[arrivals <= as_of])
    if not len(seen):
        return as_of
    silence = int(np.diff(seen).max()) if len(seen) > 1 else 0
    return min(as_of, int(seen[-1]) + silence)


def log_watermarks(events: pl.LazyFrame, as_of: int) -> dict[str, int]:
    """The :func:`arrival_watermark` of each log of outcomes from which anything had arrived, by its name.

    Args:
        events: Rows of the outcome_events table.
        as_of: Microseconds since 1970-01-01 UTC.
    """
    arrived = events.filter(pl.col("ingest_ts") <= as_of).select("source_log", "ingest_ts").unique()
    by_log = arrived.collect(engine="streaming").partition_by("source_log", as_dict=True)
    return {str(log): arrival_watermark(rows["ingest_ts"].to_numpy(), as_of) for (log,), rows in sorted(by_log.items())}


def task_watermarks(events: pl.LazyFrame, tasks: Sequence[Task], as_of: int) -> dict[str, int]:
    """The instant up to which the events of each task have surely been delivered, as of ``as_of``.

    The earliest of the watermarks of the logs in which outcomes of the task or of its ancestors had been found by
    then; of all logs where none had. An impression that was shown before it by the task's whole maturity, and of which
    no event arrived, is a negative; a later one may be a positive whose outcome lies in a log that has stopped. A 0/1
    column comes with its impression, so its zeros prove as much as its ones, and it is always complete.

    Args:
        events: Rows of the outcome_events table.
        tasks: Tasks of the spec, parents first.
        as_of: Microseconds since 1970-01-01 UTC.
    """
    logs = log_watermarks(events, as_of)
    arrived = events.filter(pl.col("ingest_ts") <= as_of).select("source_log", "event").unique().collect()
    found: dict[str, int] = {}
    for task in tasks:
        if task.label.column is not None:
            own = as_of
        else:
            mine = arrived.filter(pl.col("event") == task.name)["source_log"].to_list()
            own = min((logs[str(log)] for log in mine or logs), default=as_of)
        found[task.name] = min(own, found[task.parent]) if task.parent is not None else own
    return found
