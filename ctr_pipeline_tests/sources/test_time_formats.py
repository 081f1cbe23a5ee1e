"""Times in any spelling that a spec can describe."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ctr_pipeline.sources import SourceError, read_events
from ctr_pipeline.sources.extent import log_range
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.times import parse_time

Maker = Callable[..., Any]
Reader = Callable[..., Any]
AMSTERDAM = "Europe/Amsterdam"


def us(*when: int, offset: int = 0) -> int:
    moment = datetime(*when, tzinfo=UTC) - timedelta(hours=offset)  # type: ignore[misc]
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def parsed(value: object, form: str, zone: str = "UTC") -> int | None:
    frame = pl.DataFrame({"t": [value]})
    found: int | None = frame.select(parse_time(pl.col("t"), frame.schema["t"], "us", zone, form))["t"].item()
    return found


SPELLINGS = {
    "day first": ("31/12/2026 08:15", "%d/%m/%Y %H:%M", us(2026, 12, 31, 8, 15)),
    "day first without zeros": ("1/2/2026 8:05", "%d/%m/%Y %H:%M", us(2026, 2, 1, 8, 5)),
    "month first, evening": ("12/31/2026 08:15:30 PM", "%m/%d/%Y %I:%M:%S %p", us(2026, 12, 31, 20, 15, 30)),
    "midnight of twelve hours": ("1/2/2026 12:00:00 am", "%m/%d/%Y %I:%M:%S %p", us(2026, 1, 2)),
    "hour of a number": (14102123, "%y%m%d%H", us(2014, 10, 21, 23)),
    "hour of a text": ("14102100", "%y%m%d%H", us(2014, 10, 21)),
    "number that lost its zero": (9010203, "%y%m%d%H", us(2009, 1, 2, 3)),
    "number with a point": (20150101.0, "%Y%m%d", us(2015, 1, 1)),
    "month in words": ("Mar 1, 2026", "%b %d, %Y", us(2026, 3, 1)),
    "date with points": ("31.12.2026", "%d.%m.%Y", us(2026, 12, 31)),
    "hour and half a day": ("31/12/2026 8 PM", "%d/%m/%Y %I %p", us(2026, 12, 31, 20)),
    "hour and offset": ("2026-01-01 05+0100", "%Y-%m-%d %H%z", us(2026, 1, 1, 4)),
    "web server": ("10/Oct/2000:13:55:36 -0700", "%d/%b/%Y:%H:%M:%S %z", us(2000, 10, 10, 20, 55, 36)),
    "fraction": ("01.02.2026 03:04:05.25", "%d.%m.%Y %H:%M:%S%.f", us(2026, 2, 1, 3, 4, 5) + 250_000),
    "fraction as in Python": ("01.02.2026 03:04:05.25", "%d.%m.%Y %H:%M:%S.%f", us(2026, 2, 1, 3, 4, 5) + 250_000),
    "milliseconds without a point": ("20260201030405250", "%Y%m%d%H%M%S%3f", us(2026, 2, 1, 3, 4, 5) + 250_000),
    "zone in words": ("Thu Jan 01 01:02:03 UTC 2026", "%a %b %d %H:%M:%S UTC %Y", us(2026, 1, 1, 1, 2, 3)),
    "day of the year": ("2026/033", "%Y/%j", us(2026, 2, 2)),
    "month alone": ("2026-02", "%Y-%m", us(2026, 2, 1)),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_a_declared_format_is_read(case: str) -> None:
    value, form, expected = SPELLINGS[case]
    assert parsed(value, form) == expected


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("2026-01-01T00:00:00Z", "%d/%m/%Y"),  # another spelling is not guessed
        ("31/13/2026", "%d/%m/%Y"),
        ("31/12/2026 08:15:00", "%d/%m/%Y %H:%M"),
        (1410, "%y%m%d%H"),
        (1.5, "%y%m%d%H"),
        ("29/02/2018", "%d/%m/%Y"),
        ("", "%d/%m/%Y"),
    ],
)
def test_what_does_not_fit_the_format_is_no_time(value: object, form: str) -> None:
    assert parsed(value, form) is None


def test_local_times_of_a_format_are_those_of_the_zone() -> None:
    assert parsed("01/07/2026 08:00", "%d/%m/%Y %H:%M", AMSTERDAM) == us(2026, 7, 1, 8, offset=2)
    assert parsed("01/07/2026 08:00 +0000", "%d/%m/%Y %H:%M %z", AMSTERDAM) == us(2026, 7, 1, 8)
    # Parquet's own times need no format.
    frame = pl.DataFrame({"t": [datetime(2026, 7, 1, 8)]})
    kind = frame.schema["t"]
    assert frame.select(parse_time(pl.col("t"), kind, "us", AMSTERDAM, "%d/%m/%Y"))["t"].item() == us(2026, 7, 1, 6)


@settings(deadline=None)
@given(
    st.datetimes(datetime(1980, 1, 2), datetime(2060, 1, 1)),
    st.sampled_from(["%d/%m/%Y %H:%M:%S", "%m/%d/%y %I:%M:%S %p", "%Y%m%d%H%M%S", "%b %d %Y %H-%M-%S", "%y%j%H%M%S"]),
)
def test_what_python_writes_is_read_back(moment: datetime, form: str) -> None:
    whole = moment.replace(microsecond=0)
    assert parsed(whole.strftime(form), form) == us(*whole.timetuple()[:6])


def test_each_log_has_its_own_formats(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, pseudonymiser: Pseudonymiser
) -> None:
    days = [f"0{n}/02/2026 10:00" for n in (3, 4, 5)]
    shown = write(make_log(rows=3, at=days, paid=["2026-02-04", None, "2026-02-06"], clicked=None), "log.csv")
    happened = write(pl.DataFrame({"imp": ["imp-0"], "what": ["buy"], "t": [26020312]}), "events.csv")
    spec = make_spec(
        impression={"id": "id", "time": "at", "user": "who", "time_format": {"at": "%d/%m/%Y %H:%M"}},
        source={
            "impressions": {"paths": ["log.csv"]},
            "events": [{"impression_id": "imp", "type": "what", "time": "t", "time_format": "%y%m%d%H"}],
        },
        tasks=[
            {"name": "buy", "window": "1d", "label": {"event": "buy"}},
            {"name": "pay", "window": "9d", "label": {"time_column": "paid"}},
        ],
    )
    first, last = log_range(spec, [shown])
    assert (first, last) == (date(2026, 2, 3), date(2026, 2, 5))
    kept = read(spec, shown, first=first, last=last, log_first=first).kept
    assert kept["ts"].to_list() == [us(2026, 2, day, 10) for day in (3, 4, 5)]
    events = read_events(
        spec, [shown], {"outcome_events": [happened]}, first, date(2026, 2, 9), pseudonymiser, first
    ).kept
    assert dict(events.select("event", "event_ts").group_by("event").agg("event_ts").iter_rows()) == {
        "buy": [us(2026, 2, 3, 12)],
        "pay": [us(2026, 2, 4), us(2026, 2, 6)],
    }


@pytest.mark.parametrize(
    "values",
    [
        [f"{n + 1:02}/02/2026 10:00" for n in range(12)],
        [f"14102{n:03}" for n in range(100, 112)],
        [f"Feb {n + 1} 2026 8 PM" for n in range(12)],
    ],
)
def test_an_unknown_spelling_is_shown_with_the_remedy(
    make_spec: Maker, make_log: Maker, write: Maker, values: list[str]
) -> None:
    path = write(make_log(rows=12, at=values), "log.csv")
    with pytest.raises(SourceError) as refusal:
        log_range(make_spec(), [path])
    assert values[0] in str(refusal.value)
    assert "impression.time_format" in str(refusal.value)
    with pytest.raises(ValidationError, match="column 'at' is an id"):
        make_spec(impression={"id": "id", "time": "at", "user": "at"})


LEADS = {
    "days": ("d", [2, 0, 30], [us(2026, 3, 29), us(2026, 3, 31), us(2026, 3, 1)]),
    "hours": ("h", [24.0, 0.0, 1.5], [us(2026, 3, 30), us(2026, 3, 31), us(2026, 3, 30, 22, 30)]),
    "texts": ("m", ["1440", "0", " 90 "], [us(2026, 3, 30), us(2026, 3, 31), us(2026, 3, 30, 22, 30)]),
}


@pytest.mark.parametrize("case", LEADS)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_time_of_the_impression_is_another_time_minus_a_lead(
    make_spec: Maker, make_log: Maker, write: Maker, read: Reader, case: str, ending: str
) -> None:
    unit, leads, expected = LEADS[case]
    log = make_log(rows=3, at=[date(2026, 3, 31)] * 3, lead=leads)
    spec = make_spec(
        impression={"id": "id", "time": "at", "user": "who", "time_offset": {"column": "lead", "unit": unit}}
    )
    path = write(log, f"log.{ending}")
    first, last = log_range(spec, [path])
    kept = read(spec, path, first=first, last=last, log_first=first).kept
    assert sorted(kept["ts"].to_list()) == sorted(expected)
    # A day that is read by itself finds its rows, though their stored time is of another day.
    for moment in expected:
        day = datetime.fromtimestamp(moment / 1e6, UTC).date()
        assert moment in read(spec, path, first=day, last=day, log_first=first).kept["ts"].to_list()


def test_days_before_are_days_of_the_calendar(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    # Clocks are set forward on 29 March 2026.
    path = write(make_log(rows=2, at=["2026-03-31", "2026-03-01"], lead=[30, 30]), "log.csv")
    for subtract, dates in ((True, ["2026-01-30", "2026-03-01"]), (False, ["2026-03-31", "2026-04-30"])):
        offset = {"column": "lead", "unit": "d", "subtract": subtract}
        spec = make_spec(time_zone=AMSTERDAM, impression={"id": "id", "time": "at", "time_offset": offset})
        first, last = log_range(spec, [path])
        kept = read(spec, path, first=first, last=last, log_first=first).kept
        instants = kept.select(pl.from_epoch("ts", time_unit="us").dt.replace_time_zone("UTC"))["ts"]
        assert [f"{moment:%Y-%m-%d %H}" for moment in instants.dt.convert_time_zone(AMSTERDAM)] == [
            f"{day} 00" for day in dates
        ]


def test_a_row_without_a_lead_is_set_aside(make_spec: Maker, make_log: Maker, write: Maker, read: Reader) -> None:
    path = write(make_log(rows=5, lead=["1", "", "soon", "inf", "2"]), "log.csv")
    spec = make_spec(
        impression={"id": "id", "time": "at", "user": "who", "time_offset": {"column": "lead", "unit": "d"}}
    )
    first, last = log_range(spec, [path])
    result = read(spec, path, first=first, last=last, log_first=first)
    assert result.kept.height == 2
    assert sorted(result.quarantined["reason"]) == ["bad_time", "bad_time", "missing_time"]
    assert set(result.quarantined["column"]) == {"lead"}
    empty = write(make_log(rows=12, lead=[""] * 12), "other.csv")
    with pytest.raises(SourceError, match="no row with a value in `at` and `lead`"):
        log_range(spec, [empty])
