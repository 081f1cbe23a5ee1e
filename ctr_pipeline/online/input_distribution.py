"""Served inputs beside the distribution that the model was trained on, column by column.

A column is named where it differs from the training *and* from the impressions of the days before, as training would encode
them: what only drifts since the training differs from the first alone.

A difference must be too large for chance and large enough to matter. The population stability index of n served rows beside
m others, with B bins: where nothing changed, (n m / (n + m)) PSI follows a χ² law with B - 1 degrees of freedom. Blocks of the
reference rows differ from all of them by more than that, by the time of the day and from day to day, and that much is usual.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from ctr_pipeline.features import FIRST_VOCABULARY_ROW, MISSING_ROW, UNKNOWN_ROW, Layout
from ctr_pipeline.features.bursts import WINDOW as BURST_WINDOW
from ctr_pipeline.features.bursts import burst_shares
from ctr_pipeline.features.input_profile import (
    MISSING_BIN,
    SECOND_BIN,
    ColumnProfile,
    InputProfile,
    stability_index,
)
from ctr_pipeline.online.clock_shifts import clock_shifts, follows_time
from ctr_pipeline.online.distribution_kinds import MIX, ColumnSample, kind_of_shift
from ctr_pipeline.online.shift_windows import DistributionShift, ServedInputs, windows
from ctr_pipeline.online.skew_kinds import Kind, Mask

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
GROWN_FACTOR, GROWN_SHARE = 1.2, 0.01
"""An id is shown more often where its share is that of before, so many times, and so much more."""

BURST_FLOOR = 0.015
"""By how much the share of values that are far more frequent than usual must exceed its usual largest, and by twice that."""

LEAST_REST = 0.2
"""Share of the rows that other ids must have."""

Values = NDArray[np.generic]


def find_shifts(
    served: ServedInputs,
    training: InputProfile,
    recent: InputProfile | None,
    layout: Layout,
    whole_numbers: Mapping[str, Mapping[int, int]],
) -> list[DistributionShift]:
    """The columns that differ from the training and from the days before.

    Args:
        served: The served rows.
        training: Profile of the training rows.
        recent: Profile of the impressions of the days before, with the bins of their own; None where there are none.
        layout: The model's.
        whole_numbers: By category the whole number that each embedding row stands for, where its values are such.
    """
    found = {shift.feature: shift for shift in clock_shifts(served, layout, training, recent, whole_numbers)}
    clocks, of_time = {clock.feature for clock in training.clocks}, follows_time(layout, whole_numbers)
    beside = {(column.is_id, column.column): column for column in recent.columns} if recent is not None else {}
    parts = list(windows(served.requests))
    ids = _id_columns(layout, recent or training, clocks | of_time)
    for column in training.columns:
        if column.feature in found or column.feature in of_time:
            continue
        values = (served.ids if column.is_id else served.numeric)[:, column.column]
        other = beside.get((column.is_id, column.column))
        if recent is not None and other is None:
            continue
        bins = column.bin_of(values)
        for window in parts:
            size = _independent_rows(bins[window], served.requests[window])
            own = column.feature in clocks
            if not _differs(values[window], size, column, 1.0, own):
                continue
            if other is not None and not _differs(values[window], size, other, USUAL_FACTOR, own):
                continue
            rows = np.arange(window.start, window.stop)
            if not column.is_id:
                rows = _without_other_ids(served, rows, column, other, ids)
            if len(rows):
                found[column.feature] = _shift_of(served, column, other or column, values, rows)
                break
    for shift in _bursts(served, training, beside, found.keys() | of_time | clocks):
        found[shift.feature] = shift
    order = {column.feature: n for n, column in enumerate(training.columns)}
    return sorted(found.values(), key=lambda shift: order.get(shift.feature, 0))


def _independent_rows(bins: NDArray[np.intp], requests: NDArray[np.int64]) -> int:
    """As how many independent rows those of some requests count: candidates of one request are alike.

    n rows, m a request, count as n / (1 + (m - 1) ρ), where ρ is the correlation within a request (Kish, 1965): by how much more
    often than any two rows neighbouring candidates have one value.
    """
    same = requests[1:] == requests[:-1]
    rows, count = len(requests), len(np.unique(requests))
    if not same.any():
        return rows
    within = float((bins[1:] == bins[:-1])[same].mean())
    across = float(np.square(np.bincount(bins) / rows).sum())
    alike = 1.0 if within >= 0.98 else min(1.0, max(0.0, (within - across) / (1 - across)))
    return max(count, round(rows / (1 + (rows / count - 1) * alike)))


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
    shares = counts / counts.sum()
    if any(_surges(float(shares[b]), column.highest[b], size) for b in (MISSING_BIN, SECOND_BIN)):
        return True
    if _stops(values, column, size):
        return True
    if clock:
        return False
    index, m = stability_index(counts, reference), float(reference.sum())
    if index < max(INDEX_FLOOR, factor * column.usual):
        return False
    bins = int(((counts + reference) > 0).sum())
    scaled = size * m / (size + m) * (index - max(0.0, column.usual))
    return bool(scaled > chdtri(max(1, bins - 1), SIGNIFICANCE))


def _bursts(
    served: ServedInputs,
    training: InputProfile,
    beside: Mapping[tuple[bool, int], ColumnProfile],
    without: Collection[str],
) -> Iterator[DistributionShift]:
    """Categories of whole requests of which a few values are far more frequent than usual, as where robots pose as users."""
    for column in training.columns:
        rows = served.ids[:, column.column] if column.is_id else served.ids[:, :0]
        if not column.is_id or column.feature in without or not _is_shared(rows, served.requests):
            continue
        usual = [column, *([beside[True, column.column]] if (True, column.column) in beside else [])]
        shares = [list(burst_shares(rows, of.row_shares, FIRST_VOCABULARY_ROW)) for of in usual]
        for windows_of in zip(*shares, strict=True):
            window, least = windows_of[0][0], min(share for _, share in windows_of)
            deviation = np.sqrt(max(column.bursts * (1 - column.bursts), 1 / BURST_WINDOW) / BURST_WINDOW)
            if least - column.bursts >= max(BURST_FLOOR, 2 * column.bursts, DEVIATIONS * deviation):
                yield DistributionShift(
                    feature=column.feature, is_id=True, usual=column.bursts, index=least, first=window.start,
                    kind=Kind(MIX, f"{least:.1%} are of values that are rare else, usual {column.bursts:.1%}", least),
                    rows=window.stop - window.start, requests=len(np.unique(served.requests[window])),
                )  # fmt: skip
                break


def _id_columns(layout: Layout, usual: InputProfile, without: set[str]) -> list[ColumnProfile]:
    """The categories of one value that a request holds: what it is about."""
    wanted = {
        column.name
        for column in layout.ids
        if column.pooled is None and column.group != "history" and column.name not in without
    }
    return [column for column in usual.columns if column.is_id and column.feature in wanted]


def _without_other_ids(
    served: ServedInputs,
    rows: NDArray[np.intp],
    column: ColumnProfile,
    other: ColumnProfile | None,
    ids: Sequence[ColumnProfile],
) -> NDArray[np.intp]:
    """Those of ``rows`` that tell how a number differs; none where it does as some ids are shown more often.

    Such are new ones, or those of a campaign. Without their rows, or with as many of them as usual, the number is distributed as
    usual: what changed are the ids, which are other columns and named there. Else the kind of the difference is seen better so.
    """
    reference, values = other or column, served.numeric[:, column.column]
    marked = [
        (served.ids[rows, of.column], _new_or_grown(served.ids[rows, of.column], of), of.row_shares) for of in ids
    ]
    thinned = [rows[_thinned(*of)] for of in marked]
    without = [~np.isin(own, grown) for own, grown, _ in marked]
    removed = [rows[kept] for kept in (*without, np.logical_and.reduce(without))] if without else []
    # New ids do not make missing values stop.
    stops = _stops(values[rows], reference, len(rows))
    best = rows
    least = stability_index(reference.count(values[rows]), np.array(reference.counts))
    for rest in [*thinned, *([] if stops else removed)]:
        if len(rest) == len(rows) or len(rest) < LEAST_REST * len(rows):
            continue
        size = _independent_rows(reference.bin_of(values[rest]), served.requests[rest])
        as_usual = not _differs(values[rest], size, column, 1.0, False)
        as_before = other is not None and not _differs(values[rest], size, other, USUAL_FACTOR, False)
        if not stops and (as_usual or as_before):
            return rows[:0]
    for rest in thinned:
        index = stability_index(reference.count(values[rest]), np.array(reference.counts))
        if index < least and len(rest) >= LEAST_REST * len(rows):
            best, least = rest, index
    return best


def _thinned(rows: NDArray[np.int32], grown: NDArray[np.int64], shares: NDArray[np.float64]) -> Mask:
    """Which rows to keep, so that the ``grown`` ids have their usual shares: of each, evenly spread ones."""
    kept: Mask = ~np.isin(rows, grown)
    scale = kept.sum() / max(1e-9, 1 - float(shares[grown].sum()))
    for one in grown:
        places = np.flatnonzero(rows == one)
        wanted = min(len(places), round(scale * float(shares[one])))
        kept[places[np.linspace(0, len(places) - 1, wanted).astype(np.intp)]] = True
    return kept


def _new_or_grown(rows: NDArray[np.int32], usual: ColumnProfile) -> NDArray[np.int64]:
    """The embedding rows whose share has grown, and that of unknown values: of these, others may be shown than before."""
    shares = usual.row_shares
    found = np.bincount(np.clip(rows, 0, len(shares) - 1), minlength=len(shares)) / len(rows)
    grown = found >= GROWN_FACTOR * shares + GROWN_SHARE
    grown[MISSING_ROW], grown[UNKNOWN_ROW] = False, True
    return np.flatnonzero(grown)


def _surges(share: float, highest: float, size: int) -> bool:
    """Whether a share is surely above its usual largest."""
    deviation = np.sqrt(max(highest * (1 - highest), 1 / size) / size)
    return (
        share - highest >= max(SHARE_FLOOR, 0.5 * highest * (1 - highest)) and share - highest >= DEVIATIONS * deviation
    )


def _stops(values: Values, column: ColumnProfile, size: int) -> bool:
    """Whether values that usually are missing surely are there now."""
    counts, reference = column.count(values), np.array(column.counts)
    share = float(counts[MISSING_BIN] / counts.sum())
    lowest = min(float(reference[MISSING_BIN] / max(1.0, reference.sum())), column.lowest[MISSING_BIN])
    return lowest >= LEAST_SHARE and share < 0.1 * lowest and size * lowest * (1 - share / lowest) ** 2 > 25


def _shift_of(
    served: ServedInputs, column: ColumnProfile, reference: ColumnProfile, values: Values, rows: NDArray[np.intp]
) -> DistributionShift:
    # The kind is that of the rows from the change on.
    at = _change(reference.bin_of(values[rows]), np.array(reference.counts))
    first, rest = int(rows[at]), values[rows[at:]]
    size = _independent_rows(reference.bin_of(rest), served.requests[rows[at:]])
    kind = kind_of_shift(ColumnSample(values=rest, profile=reference, size=size))
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
