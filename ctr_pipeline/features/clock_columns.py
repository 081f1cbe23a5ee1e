"""Categories that are a part of the local time: what they must be at an instant, whatever the distribution is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.input_columns import IdColumn
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.features.local_time import time_part_of
from ctr_pipeline.spec.fields import MICROSECONDS
from ctr_pipeline.spec.time_parts import TimePart

HIGHEST = 168
"""Whole numbers up to it may be a part of the time: hours of the week are 0 to 167, or 1 to 168."""

FITTED_SHARE = 0.7
"""Share of the latest rows that must follow one clock."""

FITTED_ROWS = 20_000
"""Rows that are looked at: the latest ones, as the clock may have been changed."""

_QUARTER_US, _MINUTE_US, _DAY_MINUTES = 15 * MICROSECONDS["m"], MICROSECONDS["m"], 24 * 60
_SHIFTS = sorted(range(-12 * 60, 14 * 60 + 1, 30), key=abs)
"""Minutes by which a local time may differ from UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockColumn:
    """A category that is the hour, the day of the week or the hour of the week of the impression.

    Its value is that part of the UTC time, ``minutes`` later, plus ``shift``.
    """

    feature: str
    column: int
    period: int
    """24 for hours, 7 for days, 168 for hours of the week."""
    shift: int
    """What is added to the hour, to the day counted from Monday as 0, or to the hour of the week from Monday on."""
    share: float
    """Share of the training rows that follow the clock so."""
    minutes: int = 0
    """What is added to UTC."""
    at: int = 0
    """A time at which it was so, microseconds; 0 where none is known."""

    def values(self, ts: NDArray[np.int64], minutes: NDArray[np.int64] | int | None = None) -> NDArray[np.int64]:
        """[N] the value at each instant, modulo the period, with another local time where ``minutes`` are given."""
        later = self.minutes if minutes is None else minutes
        found: NDArray[np.int64] = np.mod(clock_part(ts + later * _MINUTE_US, self.period) + self.shift, self.period)
        return found


def clock_part(ts: NDArray[np.int64], period: int) -> NDArray[np.int64]:
    """UTC hour of the day (period 24), day of the week from Monday as 0 (7), or hour of the week from Monday on (168)."""
    hours = ts // MICROSECONDS["h"]
    # 1970-01-01 was a Thursday.
    parts = {24: hours, 7: hours // 24 + 3, 168: hours + 72}
    found: NDArray[np.int64] = np.mod(parts[period], period)
    return found


def whole_numbers(keys: Mapping[int, str]) -> dict[int, int]:
    """Embedding rows whose value is a whole number up to :data:`HIGHEST`, where nearly all are; else none."""
    found = {row: int(key) for row, key in keys.items() if key.isascii() and key.isdigit() and int(key) <= HIGHEST}
    return found if found and len(found) >= 0.9 * len(keys) else {}


def numbers_of(numbers: Mapping[int, int], rows: NDArray[np.integer]) -> NDArray[np.int64]:
    """[N] the whole number of each embedding row; -1 where it has none."""
    lookup = np.full(max(max(numbers, default=0), int(rows.max(initial=0))) + 1, -1)
    lookup[list(numbers)] = list(numbers.values())
    found: NDArray[np.int64] = np.where(rows >= 0, lookup[np.maximum(rows, 0)], -1)
    return found


def fitted_clocks(
    layout: Layout, ids: NDArray[np.int32], ts: NDArray[np.int64], keys: Mapping[str, Mapping[int, str]]
) -> tuple[ClockColumn, ...]:
    """The categories that follow the clock, as senders fill them; those that are made of the time are known without."""
    latest = np.argsort(ts, kind="stable")[-FITTED_ROWS:]
    ids, ts = ids[latest], ts[latest]
    found = []
    for column, places in zip(layout.ids, layout.id_places, strict=True):
        numbers = whole_numbers(keys.get(column.vocabulary, {}))
        if column.pooled is not None or column.from_time is not None or len(numbers) < 5:
            continue
        values = numbers_of(numbers, ids[:, places.start])
        known = values >= 0
        if known.mean() < 0.5:
            continue
        fitted = _fitted(column, places.start, values[known], ts[known])
        if fitted is not None:
            found.append(fitted)
    return tuple(found)


def _fitted(column: IdColumn, place: int, values: NDArray[np.int64], ts: NDArray[np.int64]) -> ClockColumn | None:
    period = next(period for period in (7, 24, 168) if values.max() <= period)
    best: ClockColumn | None = None
    for minutes in _SHIFTS:
        turned = np.mod(values - clock_part(ts + minutes * _MINUTE_US, period), period)
        counts = np.bincount(turned, minlength=period)
        # Whole hours are in the minutes, so that these are those of a zone; weeks begin on any day.
        step = min(24, period) if period != 7 else 1
        shift = step * int(np.argmax(counts[::step]))
        share = float(counts[shift] / len(values))
        if share >= FITTED_SHARE and (best is None or share > best.share + 1e-3):
            best = ClockColumn(
                feature=column.name, column=place, period=period, shift=shift, share=share, minutes=minutes,
                at=int(np.median(ts[turned == shift])),
            )  # fmt: skip
    return best


def expected_rows(
    column: IdColumn, numbers: Mapping[int, int], ts: NDArray[np.int64], unknown: int
) -> NDArray[np.int64]:
    """[N] embedding rows of a category that is made of the time: ``unknown`` where the vocabulary does not have its value.

    Args:
        column: With ``from_time``.
        numbers: The whole number of each embedding row.
        ts: [N] microseconds.
        unknown: The row of unknown values.
    """
    assert column.from_time is not None, "asked before"
    rows = {number: row for row, number in numbers.items()}
    parts = local_parts(ts, column.from_time.part, column.from_time.zone)
    found: NDArray[np.int64] = np.array([rows.get(part, unknown) for part in parts.tolist()], np.int64)
    return found


def local_parts(ts: NDArray[np.int64], part: TimePart, zone: str) -> NDArray[np.int64]:
    """[N] the part of the local time of each instant."""
    # The same for all times of a quarter of an hour.
    times, back = np.unique(ts // _QUARTER_US, return_inverse=True)
    texts = [int(time_part_of(int(time) * _QUARTER_US, part, zone)) for time in times]
    found: NDArray[np.int64] = np.array(texts, np.int64)[back]
    return found


def changed_clocks(clock: ClockColumn, ts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """[N] what the values are at ``ts`` if the clock is one that was set forward or back since it was so.

    Of each time zone that had its local time then, and has another one at ``ts``: daylight saving.
    """
    if not clock.at or not len(ts):
        return
    times, back = np.unique(ts // MICROSECONDS["h"], return_inverse=True)
    seen = set()
    # A day of the week is the next one 24 hours before: of two such zones either may be meant.
    for minutes in (clock.minutes, clock.minutes - _DAY_MINUTES, clock.minutes + _DAY_MINUTES):
        for zone in _zones_with(minutes, clock.at // MICROSECONDS["h"]):
            offsets = tuple(_offset(zone, int(time)) - minutes for time in times)
            if offsets not in seen and any(offsets):
                seen.add(offsets)
                yield clock.values(ts, clock.minutes + np.array(offsets, np.int64)[back])


@lru_cache(maxsize=64)
def _zones_with(minutes: int, hour: int) -> tuple[str, ...]:
    return tuple(zone for zone in sorted(available_timezones()) if _offset(zone, hour) == minutes)


def _offset(zone: str, hour: int) -> int:
    """Minutes that the local time is later than UTC in an hour since 1970."""
    offset = datetime.fromtimestamp(hour * 3600, UTC).astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None, "it has a zone"
    return int(offset.total_seconds() // 60)
