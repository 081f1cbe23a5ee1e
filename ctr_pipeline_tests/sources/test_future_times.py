"""A time that the log cannot know yet is set aside: it gives a row no day, and the log no end."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, log_range, read_events, read_impressions
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.example_counts import costly

FIRST = date(2026, 1, 5)
START = datetime(2026, 1, 5, tzinfo=UTC)
FAR = datetime(2150, 1, 1, tzinfo=UTC)
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
START_US = 1_767_571_200_000_000
NOW = START_US + 3 * DAY_US
"""Noon of nothing in particular: 2026-01-08 00:00 UTC. Times up to 2026-01-09 00:00 pass."""

Maker = Callable[..., Any]


def hours(*places: float | None) -> list[datetime | None]:
    return [None if place is None else START + timedelta(hours=place) for place in places]


def timed(make_spec: Maker, **columns: Any) -> Spec:
    return make_spec(impression={"id": "id", "time": "at", "user": "who", **columns})  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["log.parquet", "log.csv", "log.ndjson"])
def test_one_row_of_the_far_future_does_not_lengthen_the_log(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser, name: str
) -> None:
    path = write(make_log(rows=5, at=[*hours(1, 2), FAR, *hours(30, 31)]), name)
    last = date(2026, 1, 6)
    assert log_range(make_spec(), [path], NOW) == (FIRST, last)
    whole = read_impressions(make_spec(), [path], FIRST, last, pseudonymiser, FIRST, NOW)
    assert whole.rows_in_by_day == {FIRST: 3, last: 2}
    assert whole.quarantined.select("day", "reason", "column", "source_row").rows() == [(FIRST, "future_time", "at", 2)]
    assert whole.quarantined["value"][0].startswith("2150-01-01")
    assert "later than one day after this reading" in whole.quarantined["rule"][0]


def test_declared_days_are_no_future(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    """Who declares the last day knows of it: times that were made up may lie ahead of the clock."""
    last = FIRST + timedelta(days=30)
    path = write(make_log(rows=4, at=[*hours(1, 24 * 30 + 23.9, 24 * 31), FAR]))
    spec = make_spec(days={"last": last})
    assert log_range(spec, [path], NOW) == (FIRST, last)
    result = read_impressions(spec, [path], FIRST, last, pseudonymiser, FIRST, NOW)
    assert (result.kept.height, result.quarantined["source_row"].to_list()) == (2, [2, 3])


def test_made_up_times_have_no_limit(make_spec: Maker, make_log: Maker, write: Maker) -> None:
    path = write(make_log(rows=2, at=hours(1, 24 * 400)))
    assert log_range(make_spec(), [path], NOW)[1] == FIRST
    assert log_range(make_spec(), [path])[1] == FIRST + timedelta(days=400)


def test_the_limit_is_one_day_after_now(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    limit = NOW + DAY_US
    path = write(make_log(rows=3, at=[START_US, limit, limit + 1]))
    result = read_impressions(make_spec(), [path], FIRST, date(2026, 1, 9), pseudonymiser, FIRST, NOW)
    assert result.kept["ts"].to_list() == [START_US, limit]
    assert result.quarantined["source_row"].to_list() == [2]


def test_a_time_after_its_own_ingest_is_of_the_future_beyond_the_tolerance(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    skews = [-HOUR_US, 0, 1, 5 * MINUTE_US, 5 * MINUTE_US + 1]
    ingest = [START_US + n * HOUR_US for n in range(1, 6)]
    path = write(make_log(rows=5, at=[got + skew for got, skew in zip(ingest, skews, strict=True)], got=ingest))
    spec = timed(make_spec, ingest_time="got")
    result = read_impressions(spec, [path], FIRST, FIRST, pseudonymiser, FIRST)
    assert result.kept["ts"].to_list() == [got + skew for got, skew in zip(ingest[:4], skews, strict=False)]
    assert result.kept["ingest_ts"].to_list() == [ingest[0], ingest[1], ingest[2] + 1, ingest[3] + 5 * MINUTE_US]
    assert result.notices["clock_skew"] == 2
    assert result.quarantined.select("reason", "column", "source_row").rows() == [("future_time", "at", 4)]
    assert "`at` is at most 5m after `got`" in result.quarantined["rule"][0]
    strict = spec.model_copy(update={"source": spec.source.model_copy(update={"max_clock_skew": 0})})
    assert read_impressions(strict, [path], FIRST, FIRST, pseudonymiser, FIRST).quarantined.height == 3


def test_a_row_from_the_future_is_counted_on_the_first_day_only(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    """Its claimed day, here the third, is not its own, nor is that of its ingest time, the second."""
    spec = timed(make_spec, ingest_time="got")
    log = make_log(rows=4, at=hours(1, 25, 49, 50), got=hours(1, 25, 30, 50))
    for name in ("log.parquet", "log.csv"):
        path = write(log, name)
        found = {}
        for day in pl.date_range(FIRST, date(2026, 1, 7), eager=True):
            part = read_impressions(spec, [path], day, day, pseudonymiser, FIRST)
            found[day.day] = (part.kept.height, part.quarantined["reason"].to_list())
        assert found == {5: (1, ["future_time"]), 6: (1, []), 7: (1, [])}


def test_the_range_of_a_log_leaves_out_times_after_their_ingest(
    make_spec: Maker, make_log: Maker, write: Maker
) -> None:
    path = write(make_log(rows=3, at=[*hours(1, 2), FAR], got=hours(1, 2, 3)))
    assert log_range(timed(make_spec, ingest_time="got"), [path]) == (FIRST, FIRST)


def test_an_ingest_time_of_the_future_would_hide_its_row_for_ever(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    spec = timed(make_spec, ingest_time="got")
    path = write(make_log(rows=2, at=hours(1, 2), got=[START + timedelta(hours=3), FAR]))
    result = read_impressions(spec, [path], FIRST, FIRST, pseudonymiser, FIRST, NOW)
    assert result.quarantined.select("reason", "column", "source_row").rows() == [("future_time", "got", 1)]
    event_spec = make_spec(
        source={"events": [{"name": "actions", "ingest_time": "got"}]},
        tasks=[{"name": "click", "window": "1h", "label": {"event": "click"}}],
    )
    events = write(
        pl.DataFrame({"impression_id": ["a", "b"], "event_type": ["click"] * 2, "event_ts": hours(1, 2),
                      "got": [START + timedelta(hours=3), FAR]}), "actions.parquet"
    )  # fmt: skip
    read = read_events(event_spec, [], {"actions": [events]}, FIRST, FIRST, pseudonymiser, FIRST, NOW)
    assert (read.kept.height, read.quarantined["reason"].to_list()) == (1, ["future_time"])


def test_an_outcome_time_of_the_future_sets_aside_its_impression(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    """It is no known outcome, and without it the row would count as a negative. A closing may be planned ahead."""
    label = {"time_column": "sold", "closed_by": ["expires"]}
    spec = make_spec(tasks=[{"name": "sale", "window": "3d", "label": label}])
    path = write(make_log(rows=3, sold=[*hours(30, None), FAR], expires=[None, FAR, None]))
    shown = read_impressions(spec, [path], FIRST, FIRST, pseudonymiser, FIRST, NOW)
    assert shown.quarantined.select("day", "reason", "column", "source_row").rows() == [
        (FIRST, "future_time", "sold", 2)
    ]
    assert shown.kept.height == 2
    outcomes = read_events(spec, [path], {}, FIRST, date(2160, 1, 1), pseudonymiser, FIRST, NOW)
    assert outcomes.kept.select("event", "kind").rows() == [("sale", "outcome"), ("sale", "closed")]


def test_a_log_without_a_clock_knows_no_future(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    order = {"column": "n", "rows_per_day": 2, "first_day": "2100-01-01"}
    spec = make_spec(impression={"id": "id", "order": order})
    path = write(make_log(rows=4, n=[1, 2, 3, 4]))
    first, last = log_range(spec, [path], NOW)
    assert (first, last) == (date(2100, 1, 1), date(2100, 1, 2))
    assert read_impressions(spec, [path], first, last, pseudonymiser, first, NOW).kept.height == 4
    assert read_events(spec, [path], {}, first, last, pseudonymiser, first, NOW).kept.height == 2


def test_a_log_that_lies_in_the_future_as_a_whole_is_refused(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    path = write(make_log(rows=24))
    before = START_US - 40 * DAY_US
    with pytest.raises(SourceError, match=r"all 24 times of column `at` lie in the future.*clock of this machine"):
        log_range(make_spec(), [path], before)
    with pytest.raises(SourceError, match=r"none of the 24 values of column `at` can be used .*`at` is not later than"):
        read_impressions(make_spec(), [path], FIRST, FIRST, pseudonymiser, FIRST, before)


def test_times_of_another_zone_are_a_wrong_column_and_not_wrong_rows(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    spec = timed(make_spec, ingest_time="got")
    path = write(make_log(rows=12, at=hours(*range(2, 14)), got=hours(*range(1, 13))))
    with pytest.raises(
        SourceError, match=r"none of the 12 values of column `at` can be used.*at most 5m after `got`.*zone"
    ):
        read_impressions(spec, [path], FIRST, FIRST, pseudonymiser, FIRST)


def test_a_log_of_more_than_ten_years_names_its_ends(make_spec: Maker, make_log: Maker, write: Maker) -> None:
    """A device whose clock was never set says 1980: the log then has sixteen thousand empty days."""
    early = write(make_log(rows=3, at=[START, datetime(1980, 1, 6, tzinfo=UTC), START]), "b.csv")
    usual = write(make_log(rows=3), "a.csv")
    with pytest.raises(SourceError) as caught:
        log_range(make_spec(), [usual, early], NOW)
    message = str(caught.value)
    assert message.startswith(f"{early}: row 1 of column `at` is of 1980-01-06")
    assert "2026-01-05" in message
    assert "`days.first`" in message
    declared = make_spec(days={"first": "2026-01-05"})
    assert log_range(declared, [usual, early], NOW)[1] == FIRST


MOMENTS = st.one_of(
    st.none(),
    st.sampled_from(["?", "2150-06-01"]),
    st.integers(0, 200).map(lambda h: f"{START + timedelta(hours=h):%F %T}"),
)


@settings(max_examples=costly(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(MOMENTS, MOMENTS), min_size=1, max_size=8),
    typed=st.booleans(),
    with_ingest=st.booleans(),
)
def test_days_add_up_whatever_the_clocks_say(
    make_spec: Maker,
    make_log: Maker,
    pseudonymiser: Pseudonymiser,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str | None, str | None]],
    typed: bool,
    with_ingest: bool,
) -> None:
    at, got = (pl.Series([row[side] for row in rows], dtype=pl.String) for side in (0, 1))
    if typed:  # Parquet's statistics then skip row groups, and must skip none that is needed.
        at, got = (series.str.to_datetime("%F %T", strict=False) for series in (at, got))
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    make_log(rows=len(rows), at=at, got=got).write_parquet(path, row_group_size=1)
    spec = timed(make_spec, **({"ingest_time": "got"} if with_ingest else {}))
    first, last = FIRST, date(2026, 1, 9)

    def read(start: date, end: date) -> tuple[ReadResult, ReadResult]:
        return (
            read_impressions(spec, [path], start, end, pseudonymiser, first, NOW),
            read_events(spec, [path], {}, start, end, pseudonymiser, first, NOW),
        )

    whole, outcomes = read(first, last)
    assert whole.rows_in == len(rows) == whole.kept.height + whole.quarantined.height
    assert (whole.kept["ts"] <= NOW + DAY_US).all()
    assert (whole.kept["ingest_ts"] <= NOW + DAY_US).all()
    parts = [read(day, day) for day in pl.date_range(first, last, eager=True)]
    assert pl.concat([part.kept for part, _ in parts]).equals(whole.kept)
    assert pl.concat([part.quarantined for part, _ in parts]).equals(whole.quarantined)
    assert pl.concat([part.kept for _, part in parts]).equals(outcomes.kept)
    assert set(outcomes.kept["impression_id"]) <= set(whole.kept["impression_id"])
