"""The watermark of a log of outcomes."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.labels import (
    arrival_watermark,
    join_labels,
    label_maturity,
    label_table,
    log_watermarks,
    task_watermarks,
)
from ctr_pipeline.spec.tasks import Label, Task
from ctr_pipeline_tests.example_counts import costly
from ctr_pipeline_tests.labels.worlds import CASES, COLUMNS, FUNNEL, World, worlds

instants = st.lists(st.integers(0, 10**6), max_size=30).map(lambda values: np.array(values, dtype=np.int64))


def test_a_log_in_its_usual_rhythm_is_complete() -> None:
    assert arrival_watermark(np.array([0, 10, 30, 40]), as_of=55) == 55


def test_a_log_that_stopped_is_complete_up_to_its_longest_silence_after_the_last_arrival() -> None:
    assert arrival_watermark(np.array([40, 30, 0, 10]), as_of=100) == 60


def test_without_arrivals_nothing_can_be_said_against_the_log() -> None:
    assert arrival_watermark(np.array([], dtype=np.int64), as_of=7) == 7
    assert arrival_watermark(np.array([9]), as_of=7) == 7
    assert arrival_watermark(np.array([3]), as_of=7) == 3


@given(arrivals=instants, as_of=st.integers(0, 10**6), later=instants)
def test_later_arrivals_never_change_it_and_it_never_passes_the_instant(
    arrivals: np.ndarray, as_of: int, later: np.ndarray
) -> None:
    watermark = arrival_watermark(arrivals, as_of)
    assert watermark <= as_of
    assert watermark == arrival_watermark(np.concatenate([arrivals, later[later > as_of]]), as_of)


def arrived(*rows: tuple[str, str, int]) -> pl.LazyFrame:
    """Outcomes as (log, task, ingest time)."""
    return pl.LazyFrame(rows, schema={"source_log": pl.String, "event": pl.String, "ingest_ts": pl.Int64}, orient="row")


TWO_LOGS = arrived(
    *(("site", "click", instant) for instant in range(0, 100, 10)),
    *(("site", "cart", instant) for instant in range(5, 100, 20)),
    *(("shop", "buy", instant) for instant in (3, 23, 33, 43)),
)


def test_each_log_has_a_watermark_of_its_own() -> None:
    assert log_watermarks(TWO_LOGS, as_of=98) == {"shop": 63, "site": 98}
    assert log_watermarks(TWO_LOGS, as_of=50) == {"shop": 50, "site": 50}
    assert log_watermarks(TWO_LOGS, as_of=-1) == {}


def test_a_task_waits_for_its_own_logs_and_those_of_its_ancestors() -> None:
    assert task_watermarks(TWO_LOGS, FUNNEL, as_of=98) == {"click": 98, "cart": 98, "buy": 63}
    stopped = TWO_LOGS.filter((pl.col("source_log") == "shop") | (pl.col("ingest_ts") < 40))
    assert task_watermarks(stopped, FUNNEL, as_of=98) == {"click": 40, "cart": 40, "buy": 40}


def test_a_task_of_which_nothing_was_found_yet_waits_for_every_log() -> None:
    unseen = Task(name="refund", parent="buy", window=4, window_from="click", label=Label(event="refund"))
    assert task_watermarks(TWO_LOGS, (*FUNNEL, unseen), as_of=98)["refund"] == 63


def test_a_column_is_always_complete() -> None:
    rows = arrived(*(("impressions", "click", instant) for instant in (1, 2)))
    assert task_watermarks(rows, COLUMNS, as_of=98) == {"click": 98, "buy": 98}


@settings(max_examples=costly(100))
@given(world=worlds(FUNNEL), as_of=st.integers(0, 40), reach=st.integers(0, 40))
def test_beyond_the_watermark_only_what_was_said_is_a_label(world: World, as_of: int, reach: int) -> None:
    """Positives stay, negatives stay up to the watermark, and nothing else changes."""
    check_masks(world, FUNNEL, as_of, reach)


@settings(max_examples=costly(100))
@given(world=worlds(CASES), as_of=st.integers(0, 40), reach=st.integers(0, 40))
def test_a_closed_case_needs_no_watermark(world: World, as_of: int, reach: int) -> None:
    check_masks(world, CASES, as_of, reach)


def check_masks(world: World, tasks: tuple[Task, ...], as_of: int, reach: int) -> None:
    shown, events = (frame.lazy() for frame in world.frames())
    table = label_table(shown, events, tasks, as_of)
    names = [task.name for task in tasks]
    seen = shown.filter(pl.col("ingest_ts") <= as_of)
    plain = join_labels(seen, table, tasks, names, as_of).collect().sort("impression_id")
    marks = dict.fromkeys(names, reach)
    masked = join_labels(seen, table, tasks, names, as_of, 0, marks).collect().sort("impression_id")
    for task in tasks:
        closed = {
            event.impression
            for event in world.events
            if (event.task, event.kind) == (task.name, "closed")
            and event.ingest_ts <= as_of
            # One before its impression never counts.
            and any(i.name == event.impression and i.ts <= event.event_ts for i in world.impressions)
        }
        for before, after in zip(plain.iter_rows(named=True), masked.iter_rows(named=True), strict=True):
            label = before[f"y_{task.name}"]
            beyond = before["ts"] + label_maturity(tasks, task.name) > reach
            unsaid = label == 0 and beyond and before["impression_id"] not in closed
            assert after[f"y_{task.name}"] == (None if unsaid else label)
