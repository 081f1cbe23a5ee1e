"""Every spelling of a time becomes the same microsecond."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctr_pipeline.sources.times import likely_unit, parse_time, within
from ctr_pipeline.spec.source import TimeUnit

AMSTERDAM = "Europe/Amsterdam"
MOMENTS = st.datetimes(datetime(1980, 1, 2), datetime(2099, 12, 30))


def us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def parsed(values: list[object], kind: pl.DataType, unit: TimeUnit = "us", zone: str = "UTC") -> list[int | None]:
    frame = pl.DataFrame({"t": pl.Series(values, dtype=kind, strict=False)})
    return frame.select(parse_time(pl.col("t"), kind, unit, zone))["t"].to_list()


@settings(deadline=None)
@given(MOMENTS, st.integers(-14 * 60, 14 * 60))
def test_texts_with_an_offset(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    sign, hours, rest = ("-" if minutes < 0 else "+"), *divmod(abs(minutes), 60)
    offsets = [f"{sign}{hours:02}:{rest:02}", f" {sign}{hours:02}{rest:02}"] + [f"{sign}{hours:02}"] * (rest == 0)
    offsets += ["Z", "z", " UTC"] * (minutes == 0)
    texts: list[object] = [f"{moment:%Y-%m-%d}{gap}{moment:%H:%M:%S.%f}{o}" for gap in "T " for o in offsets]
    assert set(parsed(texts, pl.String(), zone=AMSTERDAM)) == {us(aware)}


@example(datetime(2026, 3, 29, 2, 30), AMSTERDAM)
@example(datetime(2026, 10, 25, 2, 30), AMSTERDAM)
@settings(deadline=None)
@given(MOMENTS, st.sampled_from(["UTC", AMSTERDAM, "America/New_York", "Asia/Kolkata"]))
def test_local_times_are_those_of_the_zone(moment: datetime, zone: str) -> None:
    # Python, too, takes the first of two and, in a gap, the offset from before the change.
    moment = moment.replace(fold=0)
    expected = us(moment.replace(tzinfo=ZoneInfo(zone)))
    assert parsed([moment.isoformat()], pl.String(), zone=zone) == [expected]
    assert parsed([moment], pl.Datetime("us"), zone=zone) == [expected]
    assert parsed([moment], pl.Datetime("ns"), zone=zone) == [expected]
    minute = moment.replace(second=0, microsecond=0)
    assert parsed([f"{minute:%Y-%m-%dT%H:%M}"], pl.String(), zone=zone) == [us(minute.replace(tzinfo=ZoneInfo(zone)))]
    day = datetime(moment.year, moment.month, moment.day, tzinfo=ZoneInfo(zone))
    assert parsed([moment.date()], pl.Date(), zone=zone) == [us(day)]
    assert parsed([moment.date().isoformat()], pl.String(), zone=zone) == [us(day)]


@settings(deadline=None)
@given(MOMENTS, st.sampled_from([("s", 10**6), ("ms", 10**3), ("us", 1)]))
def test_numbers_in_the_unit(moment: datetime, unit: tuple[TimeUnit, int]) -> None:
    expected = us(moment.replace(tzinfo=UTC)) // unit[1] * unit[1]
    count = expected // unit[1]
    assert parsed([count], pl.Int64(), unit[0]) == [expected]
    assert parsed([str(count), f" {count} "], pl.String(), unit[0]) == [expected] * 2
    assert parsed([float(count)], pl.Float64(), unit[0]) == [expected]


def test_nanoseconds_and_fractions() -> None:
    expected = us(datetime(2026, 1, 5, 10, 0, 0, 250_000, tzinfo=UTC))
    assert parsed([expected * 1000 + 999], pl.Int64(), "ns") == [expected]
    assert parsed(["2026-01-05T10:00:00.250000999Z", "2026-01-05 10:00:00,25"], pl.String()) == [expected] * 2
    assert parsed(["1767607200.25"], pl.String(), "s") == [expected]


def test_a_zoned_column_keeps_its_instants() -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=ZoneInfo(AMSTERDAM))
    assert parsed([moment], pl.Datetime("ms", AMSTERDAM), zone="Asia/Kolkata") == [us(moment)]


@pytest.mark.parametrize(
    "value",
    [
        *(None, "", " ", "garbage", "31/12/2026", "2026-13-01", "2026-02-30T00:00:00", "2026-01-01T25:00:00Z"),
        *("0000-00-00", "12", "1e300", "nan", "inf", "99999999999999999999999"),
    ],
)
def test_what_is_no_time_becomes_null(value: str | None) -> None:
    assert parsed([value], pl.String()) == [None]


def test_implausible_numbers_become_null_and_do_not_wrap_around() -> None:
    assert parsed([0, -1, 2**63 - 1, -(2**63), None], pl.Int64(), "s") == [None] * 5
    assert parsed([float("nan"), float("inf"), 1e30], pl.Float64(), "s") == [None] * 3
    assert parsed([2**64 - 1], pl.UInt64(), "us") == [None]


@pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")])
def test_the_unit_of_numbers_is_guessed(factor: int, unit: str) -> None:
    assert likely_unit(pl.Series([1_767_607_200 * factor] * 3)) == unit
    assert likely_unit(pl.Series([str(1_767_607_200 * factor)])) == unit
    assert likely_unit(pl.Series(["garbage"])) is None


@settings(deadline=None)
@given(
    st.lists(st.none() | MOMENTS, min_size=1),
    st.sampled_from([pl.Datetime("us"), pl.Datetime("ns", "UTC"), pl.Datetime("ms", AMSTERDAM), pl.Int64()]),
    st.dates(date(1981, 1, 1), date(2099, 1, 1)),
)
def test_the_coarse_condition_loses_no_time_in_scope(
    moments: list[datetime | None], kind: pl.DataType, day: date
) -> None:
    start = us(datetime(day.year, day.month, day.day, tzinfo=UTC))
    end = start + 3 * 86_400_000_000
    moments = [*moments, datetime(day.year, day.month, day.day, 1), None]
    if kind == pl.Int64:
        values = pl.Series([None if m is None else us(m.replace(tzinfo=UTC)) for m in moments], dtype=kind)
    else:
        naive = pl.Series(moments, dtype=pl.Datetime("us"))
        zone = kind.time_zone  # type: ignore[attr-defined]
        values = (naive.dt.replace_time_zone("UTC") if zone else naive).cast(kind)
    frame = pl.DataFrame({"t": values})
    exact = parse_time(pl.col("t"), kind, "us", AMSTERDAM)
    coarse = within(pl.col("t"), kind, "us", start, end)
    assert coarse is not None
    lost = frame.filter(exact.is_null() | exact.is_between(start, end, closed="left")).filter(~coarse)
    assert lost.is_empty()
