"""Outcomes: events, 0/1 columns and time columns end in the same rows, by day of arrival."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, read_events, read_impressions
from ctr_pipeline.spec import Spec
from ctr_pipeline_tests.example_counts import costly

FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
DAYS = pl.date_range(FIRST, LAST, eager=True).to_list()
START = datetime(2026, 1, 5, tzinfo=UTC)
MIDNIGHT_US = 1_767_571_200_000_000
HOUR_US = 3_600_000_000

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]


@pytest.fixture
def read(pseudonymiser: Pseudonymiser) -> Reader:
    def call(
        spec: Spec,
        impressions: Sequence[Path] = (),
        events: Mapping[str, Sequence[Path]] | None = None,
        first: date = FIRST,
        last: date = LAST,
    ) -> ReadResult:
        result = read_events(spec, impressions, events or {}, first, last, pseudonymiser, FIRST)
        assert result.rows_in == result.kept.height + result.quarantined.height + result.ignored
        assert sum(result.rows_in_by_day.values()) == result.rows_in
        assert result.kept["day"].is_between(first, last).all()
        return result

    return call


def event_spec(make_spec: Maker, **log: Any) -> Spec:
    return make_spec(  # type: ignore[no-any-return]
        source={"events": [{"name": "actions", **log}]},
        tasks=[
            {"name": "click", "window": "1h", "label": {"event": "click"}},
            {"name": "late_click", "window": "24h", "label": {"event": "click"}},
            {"name": "order", "window": "3d", "parent": "click", "label": {"event": "7"}},
        ],
    )


def events(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame(columns)


def test_events_become_outcomes_of_every_task_that_uses_their_type(
    make_spec: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    path = write(
        events(
            impression_id=["a", "b", "b", "c"],
            event_type=["click", "7", "scroll", "click"],
            event_ts=[MIDNIGHT_US + n for n in (3, 2, 1, 0)],
        )
    )
    result = read(event_spec(make_spec), events={"actions": [path]})
    a, b, c = pl.DataFrame({"id": ["a", "b", "c"]}).select(pseudonymiser.expr("id"))["id"]
    assert result.kept.select("impression_id", "event", "kind", "event_ts", "ingest_ts").rows() == [
        (c, "click", "outcome", MIDNIGHT_US, MIDNIGHT_US),
        (c, "late_click", "outcome", MIDNIGHT_US, MIDNIGHT_US),
        (b, "order", "outcome", MIDNIGHT_US + 2, MIDNIGHT_US + 2),
        (a, "click", "outcome", MIDNIGHT_US + 3, MIDNIGHT_US + 3),
        (a, "late_click", "outcome", MIDNIGHT_US + 3, MIDNIGHT_US + 3),
    ]
    assert result.kept.select("source_file", "source_row").rows() == [("log.parquet", row) for row in (3, 3, 1, 0, 0)]
    assert (result.rows_in, result.ignored) == (6, 1)


def test_events_belong_to_the_day_on_which_they_arrive(make_spec: Maker, write: Maker, read: Reader) -> None:
    spec = event_spec(make_spec, ingest_time="got", time="happened")
    path = write(
        events(
            impression_id=["a", "b", "c", "d", "e"],
            event_type=["7"] * 5,
            happened=[START + timedelta(hours=h) for h in (1, 23, 24 + 1 / 60, 60, 200)],
            got=[START + timedelta(hours=h) for h in (2, 25, 24 - 1 / 60, 300, 201)],
        )
    )
    for day in DAYS:
        assert read(spec, events={"actions": [path]}, first=day, last=day).rows_in == {5: 1, 6: 2}.get(day.day, 0)
    result = read(spec, events={"actions": [path]})
    assert result.kept["day"].to_list() == [DAYS[0], DAYS[1], DAYS[1]]
    assert result.kept["ingest_ts"].to_list() == [MIDNIGHT_US + h * HOUR_US // 60 for h in (120, 24 * 60 + 1, 25 * 60)]
    assert result.notices == {"clock_skew": 1, "duplicate_event": 0, "empty_file": 0}


def test_broken_events_are_set_aside(make_spec: Maker, write: Maker, read: Reader) -> None:
    path = write(
        events(
            impression_id=["a", "", "c", "d", "e", "", None],
            event_type=["click", "click", None, "click", "click", "scroll", "7"],
            event_ts=["2026-01-05", "2026-01-05", "2026-01-06", "?", None, "?", "2026-01-07"],
        ),
        "actions.csv",
    )
    result = read(event_spec(make_spec), events={"actions": [path]})
    found = (
        result.quarantined.select("day", "reason", "column", "source_row", "value").unique().sort("source_row").rows()
    )
    assert found == [
        (FIRST, "missing_id", "impression_id", 1, None),
        (DAYS[1], "missing_type", "event_type", 2, None),
        (FIRST, "bad_time", "event_ts", 3, "?"),
        (FIRST, "missing_time", "event_ts", 4, None),
        (DAYS[2], "missing_id", "impression_id", 6, None),
    ]
    assert result.ignored == 1


def test_exact_repetitions_are_kept_and_counted(make_spec: Maker, write: Maker, read: Reader) -> None:
    log = events(
        impression_id=["a", "a", "a"], event_type=["7"] * 3, event_ts=[START, START, START + timedelta(hours=1)]
    )
    result = read(event_spec(make_spec), events={"actions": [write(log)]})
    assert result.kept.height == 3
    assert result.notices["duplicate_event"] == 1


def test_malformed_event_lines_are_set_aside(make_spec: Maker, tmp_path: Path, read: Reader) -> None:
    path = tmp_path / "actions.csv"
    path.write_text("impression_id,event_type,event_ts\na,7,2026-01-06\na,7\n")
    result = read(event_spec(make_spec), events={"actions": [path]})
    assert result.quarantined.select("day", "reason", "source_row").rows() == [(FIRST, "malformed_row", 1)]
    assert read(event_spec(make_spec), events={"actions": [path]}, first=DAYS[1], last=DAYS[1]).rows_in == 1


def test_a_flag_column_gives_outcomes_and_unknowns(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    spec = make_spec(impression={"id": "id", "time": "at", "ingest_time": "got"})
    times = [START + timedelta(hours=n) for n in range(5)]
    log = make_log(
        rows=5, got=[time + timedelta(hours=22) for time in times], clicked=["1", "0", None, "true", "False"]
    )
    path = write(log)
    result = read(spec, [path])
    ids = read_impressions(spec, [path], FIRST, LAST, pseudonymiser, FIRST).kept["impression_id"]
    hours = [MIDNIGHT_US + n * HOUR_US for n in range(30)]
    assert result.kept.drop("source_log", "source_file", "source_row").rows() == [
        (DAYS[0], ids[0], "click", "outcome", hours[0], hours[22]),
        (DAYS[1], ids[2], "click", "unknown", hours[2], hours[24]),
        (DAYS[1], ids[3], "click", "outcome", hours[3], hours[25]),
    ]
    assert (result.rows_in, result.ignored) == (5, 2)
    assert read(spec, [path], first=DAYS[1], last=DAYS[1]).kept.equals(result.kept[1:])


def test_a_bad_flag_sets_aside_the_impression_and_its_label(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    path = write(make_log(rows=3, clicked=[0, 5, 1]))
    result = read(make_spec(), [path])
    assert result.quarantined.select("table", "reason", "column", "source_row", "value").rows() == [
        ("outcome_events", "bad_label", "clicked", 1, "5")
    ]
    assert read_impressions(make_spec(), [path], FIRST, LAST, pseudonymiser, FIRST).kept.height == 2


def test_labels_of_rows_that_are_no_impressions_are_ignored(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader
) -> None:
    result = read(make_spec(), [write(make_log(rows=4, id=["a", None, "a", "b"], clicked=[0, 1, 1, 1]))])
    assert result.kept.height == 1
    assert (result.ignored, result.quarantined.height) == (3, 0)


def test_time_columns_give_outcomes_and_closings_when_they_happen(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    label = {"time_column": "sold", "closed_by": ["refused", "withdrawn"]}
    spec = make_spec(tasks=[{"name": "sale", "window": "3d", "label": label}])
    at = lambda *hours: [None if h is None else START + timedelta(hours=h) for h in hours]  # noqa: E731
    log = make_log(
        rows=5,
        id=["a", "b", "c", "", "e"],
        sold=at(30, None, None, 3, 500),
        refused=at(None, 50, None, None, None),
        withdrawn=at(40, 49, None, None, 1000),
    )
    result = read(spec, [write(log)])
    a, b = pl.DataFrame({"id": ["a", "b"]}).select(pseudonymiser.expr("id"))["id"]
    assert result.kept.drop("source_log", "source_file", "source_row").rows() == [
        (DAYS[1], a, "sale", "outcome", MIDNIGHT_US + 30 * HOUR_US, MIDNIGHT_US + 30 * HOUR_US),
        (DAYS[1], a, "sale", "closed", MIDNIGHT_US + 40 * HOUR_US, MIDNIGHT_US + 40 * HOUR_US),
        (DAYS[2], b, "sale", "closed", MIDNIGHT_US + 49 * HOUR_US, MIDNIGHT_US + 49 * HOUR_US),
    ]
    assert (result.rows_in, result.ignored) == (4, 1)


@pytest.mark.parametrize(
    ("days", "used"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"first": "2026-01-06"}, ["b", "c", "d"]),
        ({"first": "2026-01-07"}, ["d"]),
        ({"first": "2026-01-06", "last": "2026-01-06"}, ["b", "c"]),
        ({"last": "2026-01-05"}, ["a"]),
    ],
    ids=["no limits", "one day left out", "two days left out", "one day used", "the end left out"],
)
def test_outcome_times_of_impressions_outside_the_days_are_ignored(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Reader,
    pseudonymiser: Pseudonymiser,
    days: dict[str, str],
    used: list[str],
) -> None:
    """All happen on the last day; those of impressions that are left out would have no impression."""
    label = {"time_column": "sold", "closed_by": ["closed"]}
    spec = make_spec(days=days, tasks=[{"name": "sale", "window": "3d", "label": label}])
    at = [START + timedelta(hours=h) for h in (23, 24, 47, 48)]
    late = [START + timedelta(hours=80)] * 4
    log = make_log(rows=4, id=["a", "b", "c", "d"], at=at, sold=late, closed=late)
    result = read(spec, [write(log)], first=date.fromisoformat(days.get("first", str(FIRST))))
    wanted = pl.DataFrame({"id": used}).select(pseudonymiser.expr("id"))["id"]
    assert sorted(result.kept.filter(kind="outcome")["impression_id"]) == sorted(wanted)
    assert sorted(result.kept.filter(kind="closed")["impression_id"]) == sorted(wanted)
    assert result.ignored == 2 * (4 - len(used))


def test_an_unreadable_outcome_time_sets_aside_the_impression(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    spec = make_spec(tasks=[{"name": "sale", "window": "3d", "label": {"time_column": "sold"}}])
    path = write(make_log(rows=3, sold=["2026-01-06", "soon", None]))
    broken = read_impressions(spec, [path], FIRST, LAST, pseudonymiser, FIRST).quarantined
    assert broken.select("reason", "column", "value").rows() == [("bad_time", "sold", "soon")]
    assert read(spec, [path]).kept.height == 1


def test_an_order_log_has_flags_at_the_made_up_times(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    spec = make_spec(impression={"id": None, "order": {"column": "n", "rows_per_day": 2, "first_day": "2026-01-05"}})
    path = write(make_log(rows=6, n=[5, 4, 3, 2, 1, 0], clicked=[1, 0, 1, 0, 1, 0]))
    kept = read(spec, [path]).kept
    impressions = read_impressions(spec, [path], FIRST, LAST, pseudonymiser, FIRST).kept
    assert (
        kept.select("day", "impression_id", "event_ts").rows()
        == impressions.select("day", "impression_id", "ts")[1::2].rows()
    )
    assert read(spec, [path], first=DAYS[1], last=DAYS[1]).kept.equals(kept[1:2])


DIRTY_EVENT = st.fixed_dictionaries(
    {
        "impression_id": st.none() | st.sampled_from(["", "a", "b"]),
        "event_type": st.none() | st.sampled_from(["", "click", "7", "scroll"]),
        "event_ts": st.none() | st.sampled_from(["", "2026-01-05T01:00:00Z", "2026-01-06", "2026-02-20", "?"]),
        "got": st.none() | st.sampled_from(["", "2026-01-05T02:00:00Z", "2026-01-07", "2026-02-20", "?"]),
    }
)


@settings(max_examples=costly(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(DIRTY_EVENT, min_size=1, max_size=9))
def test_each_event_is_counted_on_one_day(
    make_spec: Maker, pseudonymiser: Pseudonymiser, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    schema = dict.fromkeys(["impression_id", "event_type", "event_ts", "got"], pl.String)
    path = tmp_path_factory.mktemp("log") / "actions.parquet"
    pl.DataFrame(rows, schema=schema).write_parquet(path)
    spec = event_spec(make_spec, ingest_time="got")

    def result(first: date, last: date) -> ReadResult:
        return read_events(spec, [], {"actions": [path]}, first, last, pseudonymiser, FIRST)

    whole = result(FIRST, date(2026, 2, 28))
    statements = sum(2 if row["event_type"] == "click" else 1 for row in rows)
    assert whole.rows_in == whole.kept.height + whole.quarantined.height + whole.ignored == statements
    parts = [result(day, day) for day in (*DAYS, date(2026, 2, 20))]
    assert pl.concat([part.kept for part in parts]).equals(whole.kept)
    assert sum(part.quarantined.height for part in parts) == whole.quarantined.height
    assert sum(part.ignored for part in parts) == whole.ignored == sum(row["event_type"] == "scroll" for row in rows)
