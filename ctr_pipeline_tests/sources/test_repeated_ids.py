"""Of impressions with one id the first to arrive is kept, however the log is read and whatever arrives later."""

from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, read_events, read_impressions
from ctr_pipeline_tests.example_counts import costly

FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
MIDNIGHT_US = 1_767_571_200_000_000
HOUR_US = 3_600_000_000

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]


def test_the_earliest_row_of_a_repeated_id_is_kept(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    ids = ["a", "b", "a", "b", "c"]
    times = [MIDNIGHT_US + n * HOUR_US for n in (3, 0, 1, 0, 2)]
    result = read(make_spec(), write(make_log(rows=5, id=ids, at=times, item=["0", "1", "2", "3", "4"])))
    assert result.kept["item"].to_list() == ["1", "2", "4"]
    broken = result.quarantined
    assert broken["source_row"].to_list() == [0, 3]
    assert broken["reason"].unique().to_list() == ["duplicate_id"]
    assert broken["value"].to_list() == [None, None]


def test_a_repetition_that_arrives_later_with_an_earlier_time_takes_nothing_back(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    spec = make_spec(impression={"id": "id", "time": "at", "ingest_time": "got"})
    times = [MIDNIGHT_US + n * HOUR_US for n in (3, 1)]
    got = [MIDNIGHT_US + n * HOUR_US for n in (4, 30)]
    result = read(spec, write(make_log(rows=2, id=["a", "a"], at=times, got=got, item=["first", "again"])))
    assert result.kept["item"].to_list() == ["first"]
    assert result.quarantined["source_row"].to_list() == [1]


@settings(max_examples=costly(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.sampled_from([0, 0, 1, 5, 30])), min_size=1, max_size=8
    ),
    now=st.integers(0, 70),
)
def test_what_arrives_later_changes_nothing_that_was_known(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, rows: list[tuple[str, int, int]], now: int
) -> None:
    """Impressions and labels, as of an instant, whatever the log holds of later arrivals."""
    spec = make_spec(impression={"id": "id", "time": "at", "ingest_time": "got"})
    log = make_log(
        rows=len(rows),
        id=[identity for identity, _, _ in rows],
        at=[MIDNIGHT_US + hour * HOUR_US for _, hour, _ in rows],
        got=[MIDNIGHT_US + (hour + lag) * HOUR_US for _, hour, lag in rows],
        clicked=[1] * len(rows),
    )
    instant = MIDNIGHT_US + now * HOUR_US
    arrived = log.filter(pl.col("got") <= instant)
    if arrived.is_empty():
        return
    first, last = date(2026, 1, 5), date(2026, 1, 9)
    whole, cut = (write(frame, name) for frame, name in ((log, "whole.csv"), (arrived, "cut.csv")))
    known = pl.col("ingest_ts") <= instant
    assert (
        read(spec, whole, first=first, last=last)
        .kept.filter(known)
        .equals(read(spec, cut, first=first, last=last).kept)
    )
    pseudonymiser = Pseudonymiser(b"0123456789abcdef")
    events = [
        read_events(spec, [path], {}, first, last, pseudonymiser, first)
        .kept.filter(known)
        .drop("source_file", "source_row")
        for path in (whole, cut)
    ]
    assert events[0].equals(events[1])


def test_an_id_of_a_later_day_that_is_stored_is_repeated(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    """A day is read again after a repetition of an id of the day after it has arrived."""
    spec = make_spec(impression={"id": "id", "time": "at", "ingest_time": "got"})
    times = [MIDNIGHT_US + n * HOUR_US for n in (1, 2, 26)]
    got = [MIDNIGHT_US + n * HOUR_US for n in (1, 70, 26)]
    log = make_log(rows=3, id=["a", "b", "b"], at=times, got=got, clicked=[1] * 3)
    path = write(log)
    second = date(2026, 1, 6)
    stored = read(spec, path, first=second, last=second).kept.lazy()
    again = read_impressions(spec, [path], FIRST, FIRST, pseudonymiser, FIRST, None, stored)
    assert again.kept["ts"].to_list() == times[:1]
    together = read(spec, path)
    assert together.kept["ts"].to_list() == [times[0], times[2]]


def test_an_id_of_an_earlier_day_is_repeated_when_days_are_read_apart(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    times = [MIDNIGHT_US + n * 16 * HOUR_US for n in range(5)]
    got = [time + 10 * HOUR_US for time in times]  # most labels arrive the day after their impression
    path = write(make_log(rows=5, id=["a", "b", "c", "a", "d"], at=times, got=got, clicked=[1] * 5))
    spec = make_spec(impression={"id": "id", "time": "at", "ingest_time": "got"})
    together = read(spec, path)
    parts: list[ReadResult] = []
    outcomes = []
    for day in pl.date_range(FIRST, LAST, eager=True):
        known = pl.concat([part.kept for part in parts]).lazy() if parts else None
        scope = (day, day, pseudonymiser, FIRST, None, known)
        parts.append(read_impressions(spec, [path], *scope))
        outcomes.append(read_events(spec, [path], {}, *scope))
    assert pl.concat([part.kept for part in parts]).equals(together.kept)
    assert pl.concat([part.quarantined for part in parts]).equals(together.quarantined)
    assert together.quarantined["source_row"].to_list() == [3]
    whole = read_events(spec, [path], {}, FIRST, LAST, pseudonymiser, FIRST)
    assert pl.concat([part.kept for part in outcomes]).equals(whole.kept)
    assert [part.kept.height for part in outcomes] == [1, 2, 0, 1]


def test_a_repeated_id_is_refused_even_after_a_broken_row(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    result = read(make_spec(), write(make_log(rows=2, id=["a", "a"], price=["x", "1"])))
    assert result.quarantined["reason"].to_list() == ["not_a_number", "duplicate_id"]
