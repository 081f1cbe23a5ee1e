"""Served hours and days beside the time of the requests: where they do not follow it, and by how much they are off."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features import MISSING_ROW, UNKNOWN_ROW, Layout
from ctr_pipeline.features.clock_columns import ClockColumn, changed_clocks, expected_rows, numbers_of
from ctr_pipeline.features.input_columns import IdColumn
from ctr_pipeline.features.input_profile import InputProfile
from ctr_pipeline.online.shift_windows import LEAST_REQUESTS, DistributionShift, ServedInputs, windows
from ctr_pipeline.online.skew_kinds import CONSTANT, EXPLAINED, MISSING, TIME, Kind, Mask, most_frequent
from ctr_pipeline.spec.fields import MICROSECONDS

CLOCK_SHARE = 0.2
"""By how much fewer rows may follow the clock than in training."""

_SHIFTS = sorted((minutes for minutes in range(-14 * 60, 14 * 60 + 1, 30) if minutes), key=abs)

Rows = NDArray[np.integer]


def clock_shifts(
    served: ServedInputs,
    layout: Layout,
    training: InputProfile,
    recent: InputProfile | None,
    whole_numbers: Mapping[str, Mapping[int, int]],
) -> Iterator[DistributionShift]:
    """Categories that are a part of the time, and are served otherwise.

    Those that are made of the time are known exactly. Others follow the clock of the training, that of the days before, or one
    that daylight saving has set since.

    Args:
        served: The served rows.
        layout: The model's.
        training: Profile of the training rows.
        recent: Profile of the impressions of the days before.
        whole_numbers: By category the whole number that each embedding row stands for, where its values are such.
    """
    for column, places in zip(layout.ids, layout.id_places, strict=True):
        numbers = whole_numbers.get(column.vocabulary, {})
        if column.from_time is None or column.pooled is not None or not numbers:
            continue
        rows = served.ids[:, places.start]
        expected = partial(_rows_later, column, numbers, served.ts)
        found = _shift(served, column.name, rows, np.ones(len(rows), np.bool_), rows != expected(0), 1.0, expected)
        if found is not None:
            yield found
    later = {clock.feature: clock for clock in recent.clocks} if recent is not None else {}
    known = follows_time(layout, whole_numbers)
    for clock in training.clocks:
        numbers = whole_numbers.get(clock.feature, {})
        if numbers and clock.feature not in known:
            found = _fitted_shift(served, clock, later.get(clock.feature), numbers)
            if found is not None:
                yield found


def _rows_later(column: IdColumn, numbers: Mapping[int, int], ts: NDArray[np.int64], minutes: int) -> Rows:
    return expected_rows(column, numbers, ts + minutes * MICROSECONDS["m"], UNKNOWN_ROW)


def follows_time(layout: Layout, whole_numbers: Mapping[str, Mapping[int, int]]) -> set[str]:
    """The categories that are made of the time, and known without a distribution."""
    return {
        column.name
        for column in layout.ids
        if column.from_time is not None and column.pooled is None and whole_numbers.get(column.vocabulary)
    }


def _fitted_shift(
    served: ServedInputs, clock: ClockColumn, recent: ClockColumn | None, numbers: Mapping[int, int]
) -> DistributionShift | None:
    rows = served.ids[:, clock.column]
    values = numbers_of(numbers, rows)
    known = values >= 0
    values = np.mod(values, clock.period)
    off = known & (values != clock.values(served.ts))
    if recent is not None and recent.period == clock.period:
        off &= values != recent.values(served.ts)

    def expected(minutes: int) -> Rows:
        return clock.values(served.ts, clock.minutes + minutes)

    def set_since(window: slice) -> bool:
        part = known[window]
        limit = 1 - clock.share + CLOCK_SHARE
        return any(
            (part & (values[window] != then)).sum() <= limit * part.sum()
            for of in (clock, recent)
            if of is not None
            for then in changed_clocks(of, served.ts[window])
        )

    return _shift(served, clock.feature, np.where(known, values, -1), known, off, clock.share, expected, set_since)


def _shift(
    served: ServedInputs,
    feature: str,
    values: Rows,
    known: Mask,
    off: Mask,
    share: float,
    expected: Callable[[int], Rows],
    excused: Callable[[slice], bool] = lambda _: False,
) -> DistributionShift | None:
    """The first window in which too few rows follow the clock.

    Args:
        served: The served rows.
        feature: Name of the category.
        values: [N] embedding rows or values.
        known: [N] rows that are looked at.
        off: [N] those that do not follow the clock.
        share: Share that does in the training.
        expected: [N] what they would be so many minutes later.
        excused: Whether another clock explains a window.
    """
    for window in windows(served.requests):
        rows, wrong = known[window].sum(), off[window].sum()
        if rows < LEAST_REQUESTS or wrong / rows <= 1 - share + CLOCK_SHARE or excused(window):
            continue
        first = int(window.start + np.argmax(off[window]))
        return DistributionShift(
            feature=feature,
            is_id=True,
            kind=_kind(values, np.flatnonzero(off[window]) + window.start, expected),
            index=float(wrong / rows),
            usual=1 - share,
            first=first,
            rows=int(off[first:].sum()),
            requests=len(np.unique(served.requests[first:][off[first:]])),
        )
    return None


def _kind(values: Rows, off: NDArray[np.intp], expected: Callable[[int], Rows]) -> Kind:
    """Of the rows ``off``, which do not follow the clock."""
    served = values[off]
    missing = float((served == MISSING_ROW).mean())
    if missing >= EXPLAINED:
        return Kind(MISSING, "", missing)
    _, count = most_frequent(served.astype(np.float64))
    if count >= 0.98 * len(served) and len(np.unique(expected(0)[off])) > 2:
        return Kind(CONSTANT, "", count / len(served))
    best = Kind(TIME, "not by a constant")
    for minutes in _SHIFTS:
        share = float((served == expected(minutes)[off]).mean())
        if share >= 0.8 and share > best.explained + 1e-9:
            best = Kind(TIME, f"{minutes / 60:+g} h", share)
    return best
