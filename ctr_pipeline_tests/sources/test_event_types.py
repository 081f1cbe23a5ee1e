"""Types of events are counted by day, and named unless they may be ids."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import Pseudonymiser, ReadTally, read_events
from ctr_pipeline.sources.event_types import UNNAMED, count_types, ignored_types

FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
START = datetime(2026, 1, 5, tzinfo=UTC)


def frame(*rows: tuple[int | None, str | None]) -> pl.DataFrame:
    days = [None if day is None else FIRST + timedelta(days=day) for day, _ in rows]
    return pl.DataFrame({"day": days, "type": [kind for _, kind in rows]}, schema={"day": pl.Date, "type": pl.String})


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([], {}),
        ([frame((0, "click"), (0, "click"), (1, "view"), (1, "view"))], {0: {"click": 2}, 1: {"view": 2}}),
        ([frame((0, "click")), frame((0, "click"), (0, "Click"))], {0: {"click": 2, "Click": 1}}),
        ([frame((None, "click"), (0, None), (0, "click"))], {0: {"click": 1}}),
        ([frame((0, "a"), (0, "b"), (0, "click"))], {0: {"click": 1, UNNAMED: 2}}),
        ([frame(*[(0, "x" * 60)] * 2)], {0: {"x" * 39 + "…": 2}}),
    ],
    ids=["no event", "two days", "two files", "nothing missing counts", "each value once", "a long name"],
)
def test_events_are_counted_by_day_and_type(frames: list[pl.DataFrame], found: dict[int, dict[str, int]]) -> None:
    assert count_types(frames, {"click"}) == {FIRST + timedelta(days=day): types for day, types in found.items()}


@pytest.mark.parametrize(("values", "named"), [(50, 50), (60, 50), (100, 50), (101, 0), (3000, 0)])
def test_many_values_are_not_named(values: int, named: int) -> None:
    rows = [(0, f"type {n}") for n in range(values)] * 3 + [(0, "click")]
    types = count_types([frame(*rows)], {"click"})[FIRST]
    assert sum(types.values()) == 3 * values + 1
    assert len([kind for kind in types if kind not in ("click", UNNAMED)]) == named


def test_ignored_types_are_those_of_no_task_most_frequent_first() -> None:
    counts = {FIRST: {"click": 9, "view": 2, UNNAMED: 50}, LAST: {"view": 3, "scroll": 7, "Click": 5}}
    assert list(ignored_types(counts, {"click"}).items()) == [("scroll", 7), ("Click", 5), ("view", 5), (UNNAMED, 50)]


@pytest.mark.parametrize("column", ["what", "case"], ids=["a type column", "a column of ids"])
def test_days_read_apart_count_what_they_count_together(
    make_spec: Callable[..., Any], write: Callable[..., Any], pseudonymiser: Pseudonymiser, column: str
) -> None:
    spec = make_spec(
        source={"events": [{"name": "actions", "impression_id": "case", "type": column, "time": "at"}]},
        tasks=[
            {"name": "click", "window": "1h", "label": {"event": "click"}},
            {"name": "late_click", "window": "24h", "label": {"event": "click"}},
        ],
    )
    path = write(
        pl.DataFrame(
            {
                "case": ["click", "view"] * 10,
                "what": ["click", "view"] * 10,
                "at": [START + timedelta(hours=4 * n) for n in range(20)],
            }
        )
    )
    tallies = []
    for intervals in ([(FIRST, LAST)], [(day, day) for day in pl.date_range(FIRST, LAST, eager=True)]):
        tally = ReadTally()
        for first, last in intervals:
            tally.add(read_events(spec, [], {"actions": [path]}, first, last, pseudonymiser, FIRST))
        tallies.append(tally.event_types)
    assert tallies[0] == tallies[1]
    assert sum(sum(types.values()) for types in tallies[0].values()) == (20 if column == "what" else 0)
