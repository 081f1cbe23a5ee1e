"""Served inputs beside the distribution that the model was trained on, column by column.

A column is named where it differs from the training *and* from the impressions of the days before, as training would encode
them: what only drifts since the training differs from the first alone.

A difference must be too large for chance and large enough to matter. The population stability index of n served rows beside
m others, with B bins: where nothing changed, (n m / (n + m)) PSI follows a χ² law with B - 1 degrees of freedom. Blocks of the
reference rows differ from all of them by more than that, by the time of the day and from day to day, and that much is usual.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from ctr_pipeline.features.input_profile import (
    MISSING_BIN,
    SECOND_BIN,
    ClockColumn,
    ColumnProfile,
    InputProfile,
    clock_part,
    stability_index,
)
from ctr_pipeline.online.distribution_kinds import ColumnSample, kind_of_shift
from ctr_pipeline.online.skew_kinds import TIME, Kind

SIGNIFICANCE = 1e-7
"""Chance, for one column and window, that something is found where there is nothing."""

INDEX_FLOOR = 0.1
"""Smallest population stability index that counts."""

USUAL_FACTOR = 2.0
"""And how many times the usual one of the days before it must be."""

SHARE_FLOOR = 0.02
"""By how much the share of missing values, of zeros or of unknown values must exceed its usual largest."""

LEAST_SHARE = 0.003
"""Values that are missing this often at least are missed where they stop to be missing."""

DEVIATIONS = 6.0
WINDOW = 1000
"""Requests that are looked at together, beside all of a day."""

LEAST_REQUESTS = 50
CLOCK_SHARE = 0.2
"""By how much fewer rows may follow the clock than in training."""

Values = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedInputs:
    """N served rows of one model, in order of time."""

    numeric: NDArray[np.float32]
    ids: NDArray[np.int32]
    ts: NDArray[np.int64]
    requests: NDArray[np.int64]
    """[N] number of the request, ascending from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionShift:
    """A column whose served values are not distributed as they should be."""

    feature: str
    is_id: bool
    kind: Kind
    index: float
    """Population stability index beside the training, or the share of rows that do not follow the clock."""
    usual: float
    first: int
    """Place of the first row of the shift."""
    rows: int
    """Rows from it on."""
    requests: int
    """Requests from it on."""


def find_shifts(
    served: ServedInputs,
    training: InputProfile,
    recent: InputProfile | None,
    whole_numbers: dict[str, dict[int, int]],
) -> list[DistributionShift]:
    """The columns that differ from the training and from the days before.

    Args:
        served: The served rows.
        training: Profile of the training rows.
        recent: Profile of the impressions of the days before, with the bins of their own; None where there are none.
        whole_numbers: By category the whole number that each embedding row stands for, where its values are such.
    """
    found: dict[str, DistributionShift] = {}
    clocks = {clock.feature for clock in training.clocks}
    beside = {(column.is_id, column.column): column for column in recent.columns} if recent is not None else {}
    windows = list(_windows(served.requests))
    for clock in training.clocks:
        shift = _clock_shift(served, clock, whole_numbers.get(clock.feature, {}))
        if shift is not None:
            found[clock.feature] = shift
    for column in training.columns:
        if column.feature in found:
            continue
        values = (served.ids if column.is_id else served.numeric)[:, column.column]
        other = beside.get((column.is_id, column.column))
        if recent is not None and other is None:
            continue
        shared = _is_shared(values, served.requests)
        for window in windows:
            size = len(np.unique(served.requests[window])) if shared else window.stop - window.start
            own = column.feature in clocks
            if not _differs(values[window], size, column, 1.0, own):
                continue
            if other is not None and not _differs(values[window], size, other, USUAL_FACTOR, own):
                continue
            found[column.feature] = _shift_of(served, column, other or column, values, window)
            break
    order = {column.feature: n for n, column in enumerate(training.columns)}
    return sorted(found.values(), key=lambda shift: order.get(shift.feature, 0))


def _windows(requests: NDArray[np.int64]) -> Iterator[slice]:
    """All rows, then those of each :data:`WINDOW` requests; nothing of too few."""
    if not len(requests) or requests[-1] + 1 < LEAST_REQUESTS:
        return
    yield slice(0, len(requests))
    total = int(requests[-1]) + 1
    if total < 2 * WINDOW:
        return
    starts = np.searchsorted(requests, np.arange(0, total - WINDOW + 1, WINDOW))
    ends = [*starts[1:], len(requests)]
    for start, end in zip(starts, ends, strict=True):
        yield slice(int(start), int(end))


def _is_shared(values: Values, requests: NDArray[np.int64]) -> bool:
    """Whether the candidates of a request have one value."""
    text = values.view(np.uint32) if values.dtype == np.float32 else values
    same = requests[1:] == requests[:-1]
    return bool(same.any() and (text[1:][same] == text[:-1][same]).mean() >= 0.98)


def _differs(values: Values, size: int, column: ColumnProfile, factor: float, clock: bool) -> bool:
    """Whether ``values``, as so many independent ones, are not distributed as in the profile."""
    reference = np.array(column.counts)
    if reference.sum() < 1:
        return False
    counts = column.count(values)
    shares, others = counts / counts.sum(), reference / reference.sum()
    if any(_surges(float(shares[b]), column.highest[b], size) for b in (MISSING_BIN, SECOND_BIN)):
        return True
    if _vanishes(float(shares[MISSING_BIN]), min(float(others[MISSING_BIN]), column.lowest[MISSING_BIN]), size):
        return True
    if clock:
        return False
    index, m = stability_index(counts, reference), float(reference.sum())
    if index < max(INDEX_FLOOR, factor * column.usual):
        return False
    bins = int(((counts + reference) > 0).sum())
    scaled = size * m / (size + m) * (index - max(0.0, column.usual))
    return bool(scaled > chdtri(max(1, bins - 1), SIGNIFICANCE))


def _surges(share: float, highest: float, size: int) -> bool:
    """Whether a share is surely above its usual largest."""
    deviation = np.sqrt(max(highest * (1 - highest), 1 / size) / size)
    return (
        share - highest >= max(SHARE_FLOOR, 0.5 * highest * (1 - highest)) and share - highest >= DEVIATIONS * deviation
    )


def _vanishes(share: float, lowest: float, size: int) -> bool:
    """Whether what usually is there is surely gone."""
    return lowest >= LEAST_SHARE and share < 0.1 * lowest and size * lowest * (1 - share / lowest) ** 2 > 25


def _clock_shift(served: ServedInputs, clock: ClockColumn, numbers: dict[int, int]) -> DistributionShift | None:
    """Rows that do not follow the clock as in training; the kind where they follow it with another shift."""
    if not numbers:
        return None
    lookup = np.full(max(max(numbers) + 1, int(served.ids[:, clock.column].max()) + 1), -1)
    lookup[list(numbers)] = list(numbers.values())
    values = lookup[np.maximum(served.ids[:, clock.column], 0)]
    known = values >= 0
    turned = np.mod(values - clock_part(served.ts, clock.period) - clock.shift, clock.period)
    off = known & (turned != 0)
    for window in _windows(served.requests):
        rows = known[window].sum()
        if rows < LEAST_REQUESTS or off[window].sum() / rows <= 1 - clock.share + CLOCK_SHARE:
            continue
        counts = np.bincount(turned[window][off[window]], minlength=clock.period)
        best = int(np.argmax(counts))
        shift = best - clock.period * (best > clock.period / 2)
        unit = "h" if clock.period == 24 else "days"
        explained = float(counts[best] / counts.sum())
        first = int(window.start + np.argmax(off[window]))
        return DistributionShift(
            feature=clock.feature,
            is_id=True,
            kind=Kind(TIME, f"{shift:+d} {unit}" if explained >= 0.8 else "not by a constant", explained),
            index=float(off[window].sum() / rows),
            usual=1 - clock.share,
            first=first,
            rows=int(off[first:].sum()),
            requests=len(np.unique(served.requests[first:][off[first:]])),
        )
    return None


def _shift_of(
    served: ServedInputs, column: ColumnProfile, reference: ColumnProfile, values: Values, window: slice
) -> DistributionShift:
    # The kind is that of the window from the change on.
    first = window.start + _change(reference.bin_of(values[window]), np.array(reference.counts))
    rest = values[first : window.stop]
    kind = kind_of_shift(ColumnSample(values=rest, profile=reference))
    return DistributionShift(
        feature=column.feature,
        is_id=column.is_id,
        kind=kind,
        index=stability_index(column.count(rest), np.array(column.counts)),
        usual=column.usual,
        first=first,
        rows=len(values) - first,
        requests=int(served.requests[-1] - served.requests[first]) + 1,
    )


def _change(bins: NDArray[np.intp], reference: NDArray[np.float64]) -> int:
    """From which row on the bins are other ones: where the likelihood of a change at one place is largest."""
    width = len(reference)
    shares = (reference + 0.5) / (reference.sum() + 0.5 * width)
    own = (np.bincount(bins, minlength=width) + 0.5) / (len(bins) + 0.5 * width)
    # Rows before the change dilute what comes after it, so the ratio is kept within bounds.
    score = np.clip(np.log(own / shares), -3, 3)[bins]
    rest = np.cumsum(score[::-1])[::-1]
    return int(np.argmax(rest))


def named(shifts: Sequence[DistributionShift]) -> list[str]:
    """The features of the shifts."""
    return [shift.feature for shift in shifts]
