"""Features that are made of the time of the impression."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.features.local_time import time_part_of
from ctr_pipeline.sources.time_features import time_part
from ctr_pipeline.spec.time_parts import TimePart

Maker = Callable[..., Any]

ZONES = ["UTC", "Asia/Tokyo", "Europe/Amsterdam", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kolkata"]


def us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "zone", "time", "expected"),
    [
        ("hour", "UTC", us(2026, 1, 5, 23, 59, 59), "23"),
        ("hour", "Asia/Tokyo", us(2026, 1, 5, 23, 59, 59), "8"),
        ("hour", "Asia/Kolkata", us(2026, 1, 5, 18, 29), "23"),
        # Both hours of the autumn night on which clocks are set back are the hour 2.
        ("hour", "Europe/Amsterdam", us(2026, 10, 25, 0, 30), "2"),
        ("hour", "Europe/Amsterdam", us(2026, 10, 25, 1, 30), "2"),
        ("hour", "Europe/Amsterdam", us(2026, 3, 29, 1, 30), "3"),
        ("weekday", "UTC", us(2026, 1, 5), "1"),
        ("weekday", "UTC", us(2026, 1, 11, 23), "7"),
        ("weekday", "America/St_Johns", us(2026, 1, 5, 3, 29), "7"),
        ("hour_of_week", "UTC", us(2026, 1, 5), "0"),
        ("hour_of_week", "UTC", us(2026, 1, 11, 23), "167"),
        ("day", "Asia/Tokyo", us(2026, 1, 31, 15), "1"),
        ("month", "Asia/Tokyo", us(2026, 12, 31, 15), "1"),
        ("month", "UTC", us(2026, 12, 31, 15), "12"),
    ],
)
def test_parts_of_a_local_time(part: TimePart, zone: str, time: int, expected: str) -> None:
    assert time_part_of(time, part, zone) == expected
    assert pl.select(time_part(pl.lit(time), part, zone)).item() == expected


@given(
    time=st.integers(us(1980, 1, 1), us(2037, 12, 31)),
    part=st.sampled_from(get_args(TimePart)),
    zone=st.sampled_from(ZONES),
)
def test_a_request_and_a_log_agree(time: int, part: TimePart, zone: str) -> None:
    assert pl.select(time_part(pl.lit(time), part, zone)).item() == time_part_of(time, part, zone)


@pytest.mark.parametrize(
    ("zones", "hours"),
    [
        ({}, ["22", "23", "0", "1"]),
        ({"time_zone": "America/New_York"}, ["22", "23", "0", "1"]),
        ({"feature": "Asia/Tokyo"}, ["7", "8", "9", "10"]),
        ({"time_zone": "America/New_York", "feature": "UTC"}, ["3", "4", "5", "6"]),
        ({"time_zone": "Asia/Tokyo", "log": "America/New_York"}, ["22", "23", "0", "1"]),
    ],
)
@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.ndjson"])
def test_the_hour_is_that_of_the_log_unless_another_zone_is_named(
    make_spec: Maker, make_log: Maker, write: Maker, read: Maker, name: str, zones: dict[str, str], hours: list[str]
) -> None:
    """Times without an offset are read in the zone of the log, and their hour is that which the log shows."""
    local = [datetime(2026, 1, 5, 22), datetime(2026, 1, 5, 23), datetime(2026, 1, 6, 0), datetime(2026, 1, 6, 1)]
    log = make_log(rows=4, at=[moment.isoformat(" ") for moment in local], item=["a"] * 4)
    hour = {"name": "hour", "time": "hour"} | ({"time_zone": zones["feature"]} if "feature" in zones else {})
    spec = make_spec(
        time_zone=zones.get("time_zone", "UTC"),
        source={"impressions": {"paths": [name]} | ({"time_zone": zones["log"]} if "log" in zones else {})},
        features={"categorical": [{"name": "item"}, hour]},
    )
    kept = read(spec, write(log, name)).kept
    assert kept["hour"].to_list() == hours


def test_a_column_of_that_name_is_not_read(make_spec: Maker, make_log: Maker, write: Maker, read: Maker) -> None:
    log = make_log(rows=24, hour=["noon"] * 24)
    spec = make_spec(features={"categorical": [{"name": "hour", "time": "hour"}]}, privacy={"pseudonymise": []})
    assert read(spec, write(log)).kept["hour"].to_list() == [str(n) for n in range(24)]
