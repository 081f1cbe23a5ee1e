"""Zones by log, instants in Parquet, and the hours in which clocks change."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_pipeline.sources import Pseudonymiser, read_events
from ctr_pipeline.sources.extent import log_range

Maker = Callable[..., Any]
Reader = Callable[..., Any]
FIRST, LAST = date(2026, 1, 5), date(2026, 1, 8)
START = datetime(2026, 1, 5)
HOURS = [START + timedelta(hours=n) for n in range(24)]
AMSTERDAM = "Europe/Amsterdam"


def us(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def stored(table: pl.DataFrame, times: pa.Array, path: Path, **options: Any) -> Path:
    whole = table.to_arrow()
    place = whole.schema.get_field_index("at")
    pq.write_table(whole.set_column(place, "at", times), path, **options)
    return path


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("compressed", [False, True])
def test_int96_is_utc_whatever_the_zone(
    make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path, zone: str, compressed: bool
) -> None:
    times = pa.array(HOURS, pa.timestamp("ns"))
    path = stored(make_log(), times, tmp_path / "log.parquet", use_deprecated_int96_timestamps=True)
    if compressed:
        import gzip

        packed = path.with_name("log.parquet.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    spec = make_spec(time_zone=zone, source={"impressions": {"paths": ["x"], "time_zone": zone}})
    assert read(spec, path).kept["ts"].to_list() == [us(moment) for moment in HOURS]
    assert log_range(spec, [path]) == (FIRST, FIRST)


def test_int96_inside_a_struct_is_utc_too(make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path) -> None:
    times = pa.array(HOURS, pa.timestamp("ns"))
    log = make_log(at=None).to_arrow().append_column("seen", pa.StructArray.from_arrays([times], ["at"]))
    pq.write_table(log, tmp_path / "log.parquet", use_deprecated_int96_timestamps=True)
    spec = make_spec(time_zone="Asia/Tokyo", impression={"id": "id", "time": "seen.at"})
    assert read(spec, tmp_path / "log.parquet").kept["ts"].to_list() == [us(moment) for moment in HOURS]


@pytest.mark.parametrize("zone", ["+05:30", "-03:30", "+02:00", "-00:30", AMSTERDAM, "UTC"])
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_zone_in_the_type_means_instants(
    make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path, zone: str, unit: str
) -> None:
    path = stored(make_log(), pa.array(HOURS, pa.timestamp(unit, zone)), tmp_path / "log.parquet")
    result = read(make_spec(time_zone="Asia/Tokyo"), path)
    assert result.kept["ts"].to_list() == [us(moment) for moment in HOURS]
    assert result.kept["price"].to_list() == [float(n) for n in range(24)]


def test_an_offset_in_a_column_that_is_not_needed(
    make_spec: Maker, make_log: Maker, read: Reader, tmp_path: Path
) -> None:
    offset = pa.timestamp("us", "+05:30")
    log = make_log().to_arrow().append_column("other", pa.array([[moment] for moment in HOURS], pa.list_(offset)))
    pq.write_table(log, tmp_path / "log.parquet")
    assert read(make_spec(), tmp_path / "log.parquet").kept.height == 24


def test_each_log_has_a_zone_of_its_own(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    shown = write(make_log(rows=2, at=["2026-01-05 10:00", "2026-01-05 11:00"], clicked=None), "log.csv")
    rows = {"imp": ["imp-0", "imp-1"], "what": ["click"] * 2, "t": ["2026-01-05 04:30", "2026-01-05T10:30Z"]}
    events = write(pl.DataFrame(rows), "events.csv")
    spec = make_spec(
        time_zone="Asia/Tokyo",
        source={
            "impressions": {"paths": ["x"], "time_zone": AMSTERDAM},
            "events": [{"impression_id": "imp", "type": "what", "time": "t", "time_zone": "America/New_York"}],
        },
        tasks=[{"name": "click", "window": "1h", "label": {"event": "click"}}],
    )
    assert read(spec, shown).kept["ts"].to_list() == [us(START.replace(hour=9)), us(START.replace(hour=10))]
    result = read_events(spec, [shown], {"outcome_events": [events]}, FIRST, LAST, pseudonymiser, FIRST)
    assert result.kept["event_ts"].to_list() == [us(datetime(2026, 1, 5, 9, 30)), us(datetime(2026, 1, 5, 10, 30))]


ORDERS = {
    "received after clocks went back": ("2026-10-25 02:59", "2026-10-25 02:01", "02:59+02:00", "02:01+01:00", 1),
    "received at once, in the hour": ("2026-10-25 02:10", "2026-10-25 02:11", "02:10+02:00", "02:11+02:00", 1),
    "a clock that is ahead, in the hour": ("2026-10-25 02:10", "2026-10-25 02:08", "02:10+02:00", "02:10+02:00", 1),
    "received after the hour": ("2026-10-25 02:59", "2026-10-25 03:01", "02:59+02:00", "03:01+01:00", 1),
    "a skipped time": ("2026-03-29 02:30", "2026-03-29 03:31", "03:30+02:00", "03:31+02:00", 0),
    "a skipped time that is received before it": (
        "2026-03-29 02:30",
        "2026-03-29 03:05",
        "02:30+02:00",
        "03:05+02:00",
        0,
    ),
    "an ordinary hour": ("2026-10-25 12:00", "2026-10-25 12:01", "12:00+01:00", "12:01+01:00", 0),
}


@pytest.mark.parametrize("case", ORDERS)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_row_is_received_after_it_happened_when_clocks_change(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, case: str, ending: str
) -> None:
    at, got, event, ingest, twice = ORDERS[case]
    log = make_log(rows=1, at=[at], got=[got])
    if ending == "parquet":
        log = log.with_columns(pl.col("at", "got").str.to_datetime("%Y-%m-%d %H:%M"))
    spec = make_spec(time_zone=AMSTERDAM, impression={"id": "id", "time": "at", "ingest_time": "got"})
    day = datetime.fromisoformat(at[:10]).date()
    result = read(spec, write(log, f"log.{ending}"), first=day, last=day, log_first=day)
    assert result.kept.select("ts", "ingest_ts").rows() == [
        tuple(us(datetime.fromisoformat(f"{day} {text}")) for text in (event, ingest))
    ]
    assert result.notices["repeated_hour"] == twice


def test_an_hour_that_occurs_twice_loses_no_row_and_no_outcome(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    """Two hours of impressions a minute apart, each received and paid 40 minutes later, written without an offset."""
    start = datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    zone = ZoneInfo(AMSTERDAM)
    moments = [start + timedelta(minutes=n) for n in range(120)]
    texts = [[f"{(m + timedelta(minutes=d)).astimezone(zone):%d.%m.%Y %H:%M}" for m in moments] for d in (0, 40)]
    log = make_log(rows=120, at=texts[0], got=texts[1], paid=texts[1], clicked=None)
    spec = make_spec(
        time_zone=AMSTERDAM,
        impression={"id": "id", "time": "at", "ingest_time": "got", "time_format": "%d.%m.%Y %H:%M"},
        tasks=[{"name": "pay", "window": "3h", "label": {"time_column": "paid"}}],
    )
    path, day = write(log, "log.csv"), date(2026, 10, 25)
    result = read(spec, path, first=day, last=day, log_first=day)
    assert result.kept.height == 120
    assert result.notices["repeated_hour"] == 120
    events = read_events(spec, [path], {}, day, day, pseudonymiser, day).kept
    both = result.kept.join(events, on="impression_id")
    assert both.height == 120
    assert both.filter(pl.col("event_ts") < pl.col("ts")).is_empty()
