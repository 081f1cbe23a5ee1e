"""Hours and days of requests: clean ones name nothing whatever the zone, the hour or the season; wrong ones are named by how much."""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctr_pipeline.features.clock_columns import whole_numbers
from ctr_pipeline.features.input_profile import InputProfile, profile_inputs
from ctr_pipeline.features.layout import FromTime, IdColumn, Layout
from ctr_pipeline.online.clock_shifts import clock_shifts
from ctr_pipeline.online.input_distribution import find_shifts
from ctr_pipeline.online.shift_windows import DistributionShift, ServedInputs
from ctr_pipeline.spec.time_parts import TimePart
from ctr_pipeline_tests.example_counts import costly

PARTS: dict[str, tuple[TimePart, range]] = {
    "hour": ("hour", range(24)),
    "weekday": ("weekday", range(1, 8)),
    "week_hour": ("hour_of_week", range(168)),
}
KEYS = {name: {n + 2: str(value) for n, value in enumerate(values)} for name, (_, values) in PARTS.items()}
WHOLE = {name: whole_numbers(of) for name, of in KEYS.items()}


def local(ts: NDArray[np.int64], zone: str) -> NDArray[np.int32]:
    """Hour, day of the week and hour of the week, each as its embedding row; the calendar of Python is the oracle."""
    times = [datetime.fromtimestamp(time / 1e6, UTC).astimezone(ZoneInfo(zone)) for time in ts]
    rows = [(2 + t.hour, 1 + t.isoweekday(), 2 + 24 * t.weekday() + t.hour) for t in times]
    return np.array(rows, np.int32).reshape(len(ts), 3)


def times(first: datetime, hours: float, rows: int, seed: int) -> NDArray[np.int64]:
    start = int(first.timestamp() * 1e6)
    return np.sort(np.random.default_rng(seed).integers(start, start + int(hours * 3.6e9), rows))


def layout(zone: str | None) -> Layout:
    ids = [
        IdColumn(name, "contextual", len(values) + 2, 4, from_time=None if zone is None else FromTime(part, zone))
        for name, (part, values) in PARTS.items()
    ]
    return Layout(numeric=(), ids=tuple(ids), tasks=("click",), parents=(-1,))


@cache
def trained(zone: str, first: datetime = datetime(2026, 2, 2, tzinfo=UTC), made: bool = False) -> InputProfile:
    ts = times(first, 24 * 14, 1500, 1)
    return profile_inputs(layout(zone if made else None), np.zeros((1500, 0), np.float32), local(ts, zone), ts, KEYS)


def shifts(
    profile: InputProfile,
    made_in: str | None,
    served: NDArray[np.int32],
    ts: NDArray[np.int64],
    recent: InputProfile | None = None,
) -> list[DistributionShift]:
    given = ServedInputs(
        numeric=np.zeros((len(ts), 0), np.float32), ids=served, ts=ts, requests=np.arange(len(ts), dtype=np.int64)
    )
    return list(clock_shifts(given, layout(made_in), profile, recent, WHOLE))


ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "America/Lima",
)
PROFILES = {zone: trained(zone) for zone in ZONES}


@given(
    zone=st.sampled_from(ZONES),
    day=st.dates(date(2026, 2, 17), date(2026, 8, 1)),
    hour=st.integers(0, 23),
    hours=st.sampled_from([1, 3, 24]),
    made=st.booleans(),
)
def test_a_clean_day_names_nothing_in_any_zone_and_season(
    zone: str, day: date, hour: int, hours: int, made: bool
) -> None:
    ts = times(datetime(day.year, day.month, day.day, hour, tzinfo=UTC), hours, 200, day.toordinal())
    assert shifts(PROFILES[zone], zone if made else None, local(ts, zone), ts) == []


@settings(max_examples=costly(60))
@given(
    zone=st.sampled_from(ZONES),
    hour=st.integers(0, 23),
    shift=st.sampled_from([1, 5, -8, 11, -1]),
    made=st.booleans(),
    month=st.sampled_from([2, 7]),
)
def test_another_clock_is_named_with_how_much_it_is_off(
    zone: str, hour: int, shift: int, made: bool, month: int
) -> None:
    # In the middle of February 2026 Morocco sets its clock, for Ramadan: an hour less may be that.
    assume(month != 2 or abs(shift) != 1)
    first = datetime(2026, month, 2, tzinfo=UTC)
    ts = times(datetime(2026, month, 18, hour, tzinfo=UTC), 24, 400, hour)
    found = shifts(trained(zone, first, made), zone if made else None, local(ts + shift * 3_600_000_000, zone), ts)
    assert {one.feature: one.kind.text for one in found if one.feature != "weekday"} == {
        "hour": f"shifted hour ({shift:+d} h)", "week_hour": f"shifted hour ({shift:+d} h)",
    }  # fmt: skip


def test_a_clock_that_was_not_set_forward_is_named_where_the_feature_is_made_of_the_time() -> None:
    ts = times(datetime(2026, 3, 20, tzinfo=UTC), 24, 400, 3)
    winter = local(ts, "Etc/GMT+5")
    found = {one.feature: one.kind.text for one in shifts(PROFILES["America/New_York"], "America/New_York", winter, ts)}
    assert found == {"hour": "shifted hour (-1 h)", "week_hour": "shifted hour (-1 h)"}


@given(day=st.dates(date(2026, 3, 5), date(2026, 3, 18)))
def test_days_around_a_change_name_nothing_with_the_days_before_them(day: date) -> None:
    """Of the days before some may have the one and some the other."""
    zone, first = "America/New_York", datetime(day.year, day.month, day.day, tzinfo=UTC)
    before = times(first - timedelta(days=7), 24 * 7, 1500, 4)
    recent = profile_inputs(layout(None), np.zeros((1500, 0), np.float32), local(before, zone), before, KEYS)
    ts = times(first, 24, 300, day.toordinal())
    assert shifts(PROFILES[zone], None, local(ts, zone), ts, recent) == []


def test_the_days_before_show_that_a_clock_was_set() -> None:
    """In a way that no zone has: seven hours."""
    ts = times(datetime(2026, 3, 20, tzinfo=UTC), 24, 400, 3)
    served = local(ts + 7 * 3_600_000_000, "UTC")
    before = times(datetime(2026, 3, 13, tzinfo=UTC), 24 * 7, 2000, 4)
    recent = profile_inputs(
        layout(None), np.zeros((2000, 0), np.float32), local(before + 7 * 3_600_000_000, "UTC"), before, KEYS
    )
    assert [one.feature for one in shifts(PROFILES["UTC"], None, served, ts)] == ["hour", "weekday", "week_hour"]
    assert shifts(PROFILES["UTC"], None, served, ts, recent) == []


@pytest.mark.parametrize(("row", "kind"), [(0, "missing"), (9, "constant"), (1, "shifted hour (not by a constant)")])
def test_one_value_for_the_whole_day_is_named(row: int, kind: str) -> None:
    ts = times(datetime(2026, 2, 18, tzinfo=UTC), 24, 400, 3)
    served = local(ts, "UTC")
    served[:, 0] = np.where(np.arange(400) % 2, row, 2 + np.arange(400) // 2 % 24) if row == 1 else row
    [found] = shifts(PROFILES["UTC"], "UTC", served, ts)
    assert (found.feature, found.kind.text) == ("hour", kind)


def test_a_part_that_the_training_never_had_is_as_it_must_be() -> None:
    """The month of a new month is unknown to the vocabulary: that is no shift, and any other row is one."""
    column = IdColumn("month", "contextual", 4, 4, from_time=FromTime("month", "UTC"))
    of_month = Layout(numeric=(), ids=(column,), tasks=("click",), parents=(-1,))
    keys = {"month": {2: "2", 3: "3"}}
    before, ts = (times(datetime(2026, month, 2, tzinfo=UTC), 24, 400, 1) for month in (2, 4))
    profile = profile_inputs(of_month, np.zeros((400, 0), np.float32), np.full((400, 1), 2, np.int32), before, keys)
    for row, expected in ((1, []), (3, ["month"])):
        served = ServedInputs(
            numeric=np.zeros((400, 0), np.float32), ids=np.full((400, 1), row, np.int32), ts=ts,
            requests=np.arange(400, dtype=np.int64),
        )  # fmt: skip
        found = find_shifts(served, profile, None, of_month, {"month": whole_numbers(keys["month"])})
        assert [one.feature for one in found] == expected
