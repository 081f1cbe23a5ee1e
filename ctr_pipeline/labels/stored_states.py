"""Counts the states of all labels of a table, each day as of its own instant."""

from collections.abc import Iterable
from datetime import date

import polars as pl

from ctr_pipeline.labels.states import LabelState
from ctr_pipeline.labels.table import label_days, label_state_counts
from ctr_pipeline.spec import Spec


def stored_states(
    spec: Spec, impressions: pl.LazyFrame, labels: pl.LazyFrame, as_of: int | None = None
) -> dict[str, dict[str, int]]:
    """Number of impressions by task and state.

    Args:
        spec: Tasks and ingest lag.
        impressions: Rows of the impressions table.
        labels: Rows of the labels table for the same days.
        as_of: Instant as of which labels are seen, microseconds; days that were last labelled before it count as of
            then. None for each day as of the instant as of which it was labelled.
    """
    shown = impressions.select("day", "ts", "ingest_ts")
    by_instant: dict[int, list[date]] = {}
    for day, header in label_days(labels).items():
        by_instant.setdefault(header.as_of if as_of is None else min(as_of, header.as_of), []).append(day)
    return _sum(
        spec,
        (
            label_state_counts(
                shown.filter(pl.col("day").is_in(days)),
                labels.filter(pl.col("day").is_in(days)),
                spec.tasks,
                instant,
                spec.split.ingest_lag,
            )
            for instant, days in by_instant.items()
        ),
    )


def _sum(spec: Spec, counts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    total = {task.name: {state.value: 0 for state in LabelState} for task in spec.tasks}
    for found in counts:
        for task, states in found.items():
            for state, rows in states.items():
                total[task][state] += rows
    return total
