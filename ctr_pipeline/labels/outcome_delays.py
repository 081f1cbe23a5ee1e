"""How long outcomes take: counts by delay since the start of their window, of impressions whose windows have closed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.labels.states import label_maturity
from ctr_pipeline.labels.table import facts_in
from ctr_pipeline.spec.fields import MICROSECONDS
from ctr_pipeline.spec.tasks import Task

STEPS_A_DECADE = 10
EDGES: NDArray[np.float64] = np.concatenate([[0.0], np.logspace(0, 8, 8 * STEPS_A_DECADE + 1)])
"""Bounds of the intervals of delay in seconds: below one second, then ten a power of ten, to three years."""
INTERVAL_DAYS = 7
"""Days that are read at a time: bounds memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeDelays:
    """Delays of the outcomes of one task.

    Attributes:
        start: What the window, and so the delay, starts at: ``impression``, or the task whose outcome it is.
        window: Length of the window in seconds.
        counts: Outcomes by interval of :data:`EDGES`, those after the window included; without the empty intervals at the end.
        outside: How many of them came after the window, and so do not count as positives.
    """

    start: str
    window: float
    counts: tuple[int, ...]
    outside: int

    @property
    def outcomes(self) -> int:
        """All outcomes."""
        return sum(self.counts)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"start": self.start, "window": self.window, "counts": list(self.counts), "outside": self.outside}


def outcome_delays(
    labels: pl.LazyFrame, days: Iterable[date], tasks: Sequence[Task], as_of: int, ingest_lag: int = 0
) -> dict[str, OutcomeDelays]:
    """Delays by task, of impressions of ``days`` that are mature: of younger ones only the quick outcomes are known.

    An outcome that comes before its start, since clocks differ, has no delay. Where a window may start at several outcomes, the
    delay is since the one that was known first. Tasks whose label is logged with the impression are left out.

    Args:
        labels: Rows of the labels table.
        days: Days of the impressions that are looked at.
        tasks: Tasks of the spec, parents first.
        as_of: Instant as of which labels are seen, microseconds.
        ingest_lag: Microseconds added to every maturity.
    """
    timed = [task for task in tasks if task.window]
    counts = {task.name: np.zeros(len(EDGES) - 1, dtype=np.int64) for task in timed}
    outside = dict.fromkeys(counts, 0)
    for first, last in _intervals(days):
        facts = facts_in(labels).filter(pl.col("day").is_between(first, last))
        for task in timed:
            for place, late, rows in _counted(
                facts, task, as_of - label_maturity(tasks, task.name) - ingest_lag, as_of
            ):
                counts[task.name][min(place, len(EDGES) - 2)] += rows
                outside[task.name] += rows * late
    return {
        task.name: OutcomeDelays(
            start=task.window_from,
            window=task.window / MICROSECONDS["s"],
            counts=tuple(map(int, np.trim_zeros(counts[task.name], "b"))),
            outside=outside[task.name],
        )
        for task in timed
    }


def delays_from_json(content: Mapping[str, Mapping[str, Any]]) -> dict[str, OutcomeDelays]:
    """The delays by task that :meth:`OutcomeDelays.to_json` described."""
    return {
        task: OutcomeDelays(
            start=str(of["start"]), window=float(of["window"]), counts=tuple(of["counts"]), outside=int(of["outside"])
        )
        for task, of in content.items()
    }


def _counted(facts: pl.LazyFrame, task: Task, latest: int, as_of: int) -> list[tuple[int, int, int]]:
    """Interval of delay, whether after the window, and number of the outcomes of impressions up to ``latest``."""
    inside, after = pl.col("known_ts") <= as_of, pl.col("out_of_window_known_ts") <= as_of
    own = facts.filter(pl.col("task") == task.name, pl.col("ts") <= latest, inside | after).select(
        "impression_id",
        "ts",
        happened=pl.when(inside).then("event_ts").otherwise("out_of_window_ts"),
        late=pl.when(inside).then(0).otherwise(1),
    )
    if task.window_from == "impression":
        own = own.with_columns(start=pl.col("ts"))
    else:
        starts = facts.filter(pl.col("task") == task.window_from, inside)
        own = own.join(
            starts.select("impression_id", "ts", start="event_ts"), on=["impression_id", "ts"], how="inner"
        )  # fmt: skip
    seconds = ((pl.col("happened") - pl.col("start")) / MICROSECONDS["s"]).clip(lower_bound=0)
    place = pl.when(seconds < 1).then(0).otherwise(1 + (seconds.log10() * STEPS_A_DECADE).floor()).cast(pl.Int64)
    grouped = own.select(place.alias("place"), "late").drop_nulls().group_by("place", "late").len()
    return [(int(at), int(late), int(rows)) for at, late, rows in grouped.collect(engine="streaming").iter_rows()]


def _intervals(days: Iterable[date]) -> list[tuple[date, date]]:
    """Up to :data:`INTERVAL_DAYS` days each, which hold all ``days``."""
    found: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if found and day - found[-1][0] < timedelta(days=INTERVAL_DAYS):
            found[-1] = found[-1][0], day
        else:
            found.append((day, day))
    return found
