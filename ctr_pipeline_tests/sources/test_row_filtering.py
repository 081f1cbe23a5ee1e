"""Rows that the spec leaves out: compared by value in every format, counted, and of no influence on anything else."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources import Pseudonymiser, ReadResult, SourceError, log_range, read_events, read_impressions

Maker = Callable[..., Any]
Reader = Callable[..., ReadResult]

FORMATS = ["log.csv", "log.ndjson", "log.parquet"]


def kept_rows(result: ReadResult) -> list[float]:
    """The numbers of the rows that were kept: the base log has them as prices."""
    assert result.rows_in == result.kept.height + result.quarantined.height + result.filtered
    return [int(price) for price in result.kept["price"]]


def source(rows: Any, **fields: Any) -> dict[str, Any]:
    return {"impressions": {"paths": ["log"], "rows": rows, **fields}}


CASES: dict[str, tuple[list[Any], Any, list[int]]] = {
    "words": (["US", " US", "us", None, "DE"], {"keep": ["US", "DE"]}, [0, 1, 4]),
    "numbers": ([3.0, 4.0, None, 3.5, 30.0], {"keep": [3, "3.5"]}, [0, 3]),
    "truth values": ([True, False, None, True, False], {"drop": [False]}, [0, 2, 3]),
    "a missing one kept": (["US", None, "", "FR", "DE"], {"keep": ["US", None]}, [0, 1, 2]),
    "a missing one left out": (["US", None, "", "FR", "DE"], {"drop": ["US", None]}, [3, 4]),
    "a range": ([1, 2, 3, 4, None], {"at_least": 2, "below": 4}, [1, 2]),
    "one end": ([-1.5, 0.0, None, 1e9, -0.0], {"at_least": 0}, [1, 3, 4]),
    "texts that are codes": (["007", "7", "7.0", "07", None], {"keep": [7]}, [1, 2]),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("values", "declared", "kept"), CASES.values(), ids=CASES)
def test_which_rows_are_kept(
    make_spec: Maker,
    make_log: Maker,
    write: Maker,
    read: Reader,
    name: str,
    values: list[Any],
    declared: Any,
    kept: list[int],
) -> None:
    log = write(make_log(rows=5, kind=values), name)
    result = read(make_spec(source=source({"column": "kind", **declared})), log)
    assert kept_rows(result) == kept
    assert (result.rows_in, result.quarantined.height) == (5, 0)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("first", "end", "kept"),
    [
        ("2026-01-05T02:00:00Z", None, [2, 3, 4, 5]),
        ("2026-01-05 03:00:00", "2026-01-05T05:00", [2, 3]),
        (None, date(2026, 1, 5), []),
        (date(2026, 1, 5), datetime(2026, 1, 5, 3, tzinfo=UTC), [0, 1, 2]),
    ],
)
def test_ranges_of_time(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, name: str, first: Any, end: Any, kept: list[int]
) -> None:
    """Bounds without an offset are local times of the log, as its own are; here an hour before UTC."""
    log = make_log(rows=6).with_columns(pl.col("at").dt.offset_by("1h").dt.to_string("%Y-%m-%d %H:%M:%S").alias("seen"))
    declared = [
        {"column": "seen", "at_least": first, "below": end},
        {"column": "item", "drop": ["never"]},
    ]
    if not kept:
        with pytest.raises(SourceError, match=r"`seen`: below .*; its values are 2026-01-05T00:00:00\+00:00 to 2026"):
            read(make_spec(source=source(declared, time_zone="Europe/Amsterdam")), write(log, name))
        return
    assert kept_rows(read(make_spec(source=source(declared, time_zone="Europe/Amsterdam")), write(log, name))) == kept


def test_a_row_left_out_breaks_no_rule(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    log = make_log(rows=24, kind=["x"] * 12 + ["keep"] * 12, price=[-5.0] * 12 + [float(n) for n in range(12, 24)])
    log = log.with_columns(
        pl.when(pl.int_range(24) < 2).then(pl.lit("imp-20")).otherwise("id").alias("id"),
        pl.when(pl.int_range(24) < 4).then(None).otherwise("at").alias("at"),
        pl.when(pl.int_range(24) < 12).then(7).otherwise("clicked").alias("clicked"),
    )
    result = read(make_spec(source=source({"column": "kind", "keep": ["keep"]})), write(log))
    assert kept_rows(result) == list(range(12, 24))
    assert result.filtered_by_day == {date(2026, 1, 5): 12}
    assert result.undated == 0


def test_values_that_have_no_order_are_set_aside(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    log = make_log(rows=5, kind=["1", "many", "", "5", "NA"])
    declared = source({"column": "kind", "at_least": 2}, null_values=["NA"])
    result = read(make_spec(source=declared), write(log, "log.csv"))
    assert kept_rows(result) == [3]
    assert result.quarantined.select("reason", "source_row", "value").rows() == [("bad_filter_value", 1, "many")]
    assert result.filtered == 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=10),
    hours=st.lists(st.none() | st.integers(0, 60), min_size=10, max_size=10),
    keep=st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=2, unique=True),
    name=st.sampled_from(FORMATS),
)
def test_every_row_is_counted_once(
    make_spec: Maker,
    make_log: Maker,
    pseudonymiser: Pseudonymiser,
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[str | None],
    hours: list[int | None],
    keep: list[str | None],
    name: str,
) -> None:
    start, rows = datetime(2026, 1, 5, tzinfo=UTC), len(kinds)
    at = [None if hour is None else (start + timedelta(hours=hour)).isoformat() for hour in hours[:rows]]
    log = make_log(rows=rows, kind=pl.Series(kinds, dtype=pl.String), at=pl.Series(at, dtype=pl.String))
    path = tmp_path_factory.mktemp("log") / name
    {"log.parquet": log.write_parquet, "log.ndjson": log.write_ndjson, "log.csv": log.write_csv}[name](path)
    spec = make_spec(source=source({"column": "kind", "keep": keep}))
    days = [date(2026, 1, day) for day in (5, 6, 7)]
    wanted = [kind in keep for kind in kinds]
    if not any(wanted):
        with pytest.raises(SourceError, match="leaves out all"):
            read_impressions(spec, [path], days[0], days[-1], pseudonymiser, days[0])
        return
    whole = read_impressions(spec, [path], days[0], days[-1], pseudonymiser, days[0])
    daily = [read_impressions(spec, [path], day, day, pseudonymiser, days[0]) for day in days]
    for found in (whole, *daily):
        assert found.rows_in == found.kept.height + found.quarantined.height + found.filtered
    assert (whole.rows_in, whole.filtered) == (rows, rows - sum(wanted))
    dated = [hour for hour, is_wanted in zip(hours, wanted, strict=False) if not is_wanted]
    by_day = {day: sum((hour or 0) // 24 == place for hour in dated) for place, day in enumerate(days)}
    assert whole.filtered_by_day == {day: count for day, count in by_day.items() if count}
    assert [found.filtered for found in daily] == list(by_day.values())
    assert whole.kept.height == sum(w and hour is not None for w, hour in zip(wanted, hours, strict=False))


def test_rows_left_out_have_no_place_in_an_order(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    impression = {"id": "id", "order": {"rows_per_day": 4, "first_day": "2026-01-05"}}
    log = make_log(kind=["x", "y", "y"] * 8)
    spec = make_spec(impression=impression, source=source({"column": "kind", "keep": ["x"]}))
    path = write(log)
    result = read(spec, path)
    assert result.kept.group_by("day").len().sort("day")["len"].to_list() == [4, 4]
    assert result.filtered_by_day == {date(2026, 1, 5): 16}
    assert log_range(spec, [path]) == (date(2026, 1, 5), date(2026, 1, 6))


EVENTS = {"paths": ["ev"], "impression_id": "id", "type": "what", "time": "when"}
CLICK = {"name": "click", "window": "1h", "label": {"event": "click"}}


def events_of(log: pl.DataFrame) -> pl.DataFrame:
    return log.select("id", pl.lit("click").alias("what"), pl.col("at").alias("when"), "item")


def test_events_go_with_their_impressions(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    log = make_log(rows=12, kind=["x", "y"] * 6)
    again = pl.concat([log, log[1:2].with_columns(kind=pl.lit("x"))])
    shown, events = write(again), write(events_of(log), "events.parquet")
    declared = {
        "impressions": {"paths": ["log"], "rows": {"column": "kind", "keep": ["x"]}},
        "events": [EVENTS | {"rows": {"column": "item", "drop": ["item-2"]}}],
    }
    spec = make_spec(source=declared, tasks=[CLICK])
    day = date(2026, 1, 5)
    found = read_events(spec, [shown], {"outcome_events": [events]}, day, day, pseudonymiser, day)
    # Of impression 1 a row of interest is there too.
    expected = [n for n in range(12) if (n % 2 == 0 or n == 1) and n % 3 != 2]
    ids = pl.DataFrame({"id": [f"imp-{n}" for n in expected]}).select(pseudonymiser.expr("id"))["id"]
    assert sorted(found.kept["impression_id"]) == sorted(ids)
    assert (found.rows_in, found.filtered, found.quarantined.height) == (12, 12 - len(expected), 0)


@pytest.mark.parametrize("label", [{"column": "clicked"}, {"time_column": "when"}])
@pytest.mark.parametrize("clock", ["at", "order"])
def test_label_columns_go_with_their_impressions(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser, label: Any, clock: str
) -> None:
    log = make_log(rows=12, kind=["x", "y", "y"] * 4, clicked=[1] * 12).with_columns(when=pl.col("at"))
    impression = {"id": "id", "order": {"rows_per_day": 12, "first_day": "2026-01-05"}} if clock == "order" else {}
    spec = make_spec(
        source=source({"column": "kind", "keep": ["x"]}),
        impression=impression or {"id": "id", "time": "at"},
        tasks=[{"name": "click", "window": "0s", "label": label}],
    )
    day = date(2026, 1, 5)
    found = read_events(spec, [write(log)], {}, day, day, pseudonymiser, day)
    ids = pl.DataFrame({"id": [f"imp-{n}" for n in range(0, 12, 3)]}).select(pseudonymiser.expr("id"))["id"]
    assert sorted(found.kept["impression_id"]) == sorted(ids)
    assert (found.rows_in, found.ignored, found.quarantined.height) == (4, 0, 0)


def test_a_filter_of_events_that_leaves_none(
    make_spec: Maker, make_log: Maker, write: Maker, pseudonymiser: Pseudonymiser
) -> None:
    log, day = make_log(rows=12), date(2026, 1, 5)
    declared = {
        "impressions": {"paths": ["log"]},
        "events": [EVENTS | {"rows": {"column": "item", "keep": ["item_1"]}}],
    }
    files = {"outcome_events": [write(events_of(log), "events.parquet")]}
    spec = make_spec(source=declared, tasks=[CLICK])
    message = r"`source.events.outcome_events.rows` leaves out all 12 rows. `item`: keep item_1; its values are item-"
    with pytest.raises(SourceError, match=message + r".*Did you mean `item-1`\? Correct the filter"):
        read_events(spec, [write(log)], files, day, day, pseudonymiser, day)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"column": "item", "keep": ["Item-0 "]}, "keep Item-0 ; its values are item-0, item-1, item-2. Did you mean"),
        ({"column": "price", "below": -3}, "below -3; its values are 0 to 23"),
        ({"column": "price", "keep": [99]}, "`price`: keep 99; it has 24 different values"),
        ({"column": "who", "keep": ["user-9"]}, "`who`: keep user-9. Correct the filter"),
        ({"column": "none", "keep": ["x"]}, "`none`: keep x; no row has a value"),
    ],
)
@pytest.mark.parametrize("order", [False, True])
def test_a_filter_that_leaves_nothing(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, declared: Any, message: str, order: bool
) -> None:
    log = write(make_log(none=pl.Series([None] * 24, dtype=pl.String)))
    impression = {"id": "id", "user": "who"} | ({"order": {"rows_per_day": 5}} if order else {"time": "at"})
    spec = make_spec(source=source([declared]), impression=impression)
    for reading in (lambda: log_range(spec, [log]), lambda: read(spec, log)):
        with pytest.raises(SourceError) as caught:
            reading()
        assert message in str(caught.value)
        assert "user-0" not in str(caught.value)


def test_a_filter_of_a_column_that_is_not_there(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    with pytest.raises(
        SourceError, match=r"no column `itme`, which `source.impressions.rows` names.*Did you mean `item`"
    ):
        read(make_spec(source=source({"column": "itme", "keep": ["x"]})), write(make_log()))
