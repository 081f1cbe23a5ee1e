"""Quarantined rows that state an outcome are counted beside all that do."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.sources import Pseudonymiser, ReadResult, ReadTally, read_events, read_impressions

FIRST, SECOND, LAST = date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 8)
START = datetime(2026, 1, 5, tzinfo=UTC)
Maker = Callable[..., Any]
FLAG = [{"name": "click", "window": "0s", "label": {"column": "clicked"}}]
TIMED = [{"name": "sale", "window": "3d", "label": {"time_column": "sold"}}]
SOLD = [None, "2026-01-06", "2026-01-06", None]


@pytest.mark.parametrize(
    ("tasks", "columns", "outcomes"),
    [
        (FLAG, {"clicked": [0, 1, 1, 0]}, {FIRST: (0, 2)}),
        (FLAG, {"clicked": [0, 2, 1, None]}, {FIRST: (1, 2)}),
        (FLAG, {"clicked": ["no idea", "1", "true", "?"]}, {FIRST: (2, 4)}),
        (FLAG, {"clicked": [0, 1, 1, 0], "price": [-1.0, -1.0, 1.0, 1.0]}, {FIRST: (1, 2)}),
        (FLAG, {"clicked": [1, 1, 1, 0], "id": ["a", None, "c", ""]}, {FIRST: (1, 3)}),
        (FLAG, {"clicked": [1, 1, 1, 1], "id": ["a", "a", "c", "d"]}, {FIRST: (0, 3)}),
        (FLAG, {"clicked": [1, 1, 1, 1], "at": ["2026-01-05", "2026-01-06", "?", None]}, {FIRST: (0, 1), SECOND: (0, 1)}),
        (FLAG, {"clicked": [0, 0, 0, None]}, {}),
        (TIMED, {"sold": SOLD}, {FIRST: (0, 2)}),
        (TIMED, {"sold": ["soon", *SOLD[1:]], "price": [1.0, -1.0, 1.0, -1.0]}, {FIRST: (2, 3)}),
        (TIMED + FLAG, {"sold": SOLD, "clicked": [0, 0, 1, 3]}, {FIRST: (1, 3)}),
    ],
    ids=[
        "nothing broken", "an unreadable label", "unreadable texts", "another column", "no id", "repetitions",
        "no time", "no outcome", "outcome times", "a broken outcome time", "two tasks",
    ],
)  # fmt: skip
def test_impressions_with_an_outcome_are_counted(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Callable[..., ReadResult],
    tasks: list[dict[str, Any]],
    columns: dict[str, Any],
    outcomes: dict[date, tuple[int, int]],
) -> None:
    result = read(make_spec(tasks=tasks), write(make_log(rows=4, **columns)))
    assert result.outcomes == outcomes


def test_events_of_used_types_are_counted_and_labels_are_not_counted_twice(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    spec = make_spec(
        source={"events": [{"name": "actions"}]},
        tasks=[{"name": "order", "window": "1h", "label": {"event": "order"}}, *FLAG],
    )
    events = pl.DataFrame(
        {
            "impression_id": ["a", None, "c", None, None, "f"],
            "event_type": ["order", "order", "view", "view", None, "order"],
            "event_ts": ["2026-01-05", "2026-01-05", "2026-01-05", "2026-01-06", "2026-01-06", "2026-01-07"],
        }
    )
    shown, happened = write(make_log(rows=3, clicked=[1, 2, 0])), write(events, "actions.csv")
    whole = read_events(spec, [shown], {"actions": [happened]}, FIRST, LAST, pseudonymiser, FIRST)
    assert whole.outcomes == {FIRST: (1, 2), date(2026, 1, 7): (0, 1)}
    assert whole.quarantined.height == 3  # the label of the impression and an event without a type are the others
    tally = ReadTally()
    for day in pl.date_range(FIRST, LAST, eager=True):
        tally.add(read_events(spec, [shown], {"actions": [happened]}, day, day, pseudonymiser, FIRST))
    assert tally.outcomes == whole.outcomes


def test_days_read_apart_count_what_they_count_together(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    at = [START + timedelta(hours=9 * n) for n in range(8)]
    path = write(make_log(rows=8, at=at, clicked=[1, 2, 0, 1, 0, 5, 1, 0]))
    tally = ReadTally()
    for day in pl.date_range(FIRST, LAST, eager=True):
        tally.add(read_impressions(make_spec(), [path], day, day, pseudonymiser, FIRST))
    assert tally.outcomes == {FIRST: (1, 2), SECOND: (1, 2), date(2026, 1, 7): (0, 1)}
