"""What a model's inputs looked like in its training: shares by bin for each column, and how much these vary by themselves.

It is kept with the model, so that served inputs can be compared with it when the training rows are gone. It holds numbers
and embedding rows, never a value of a category.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.bursts import burst_shares
from ctr_pipeline.features.clock_columns import ClockColumn, fitted_clocks
from ctr_pipeline.features.layout import FIRST_VOCABULARY_ROW, MISSING_ROW, PADDING, UNKNOWN_ROW, Layout
from ctr_pipeline.spec.fields import DAY_US, MICROSECONDS

FORMAT = 1

NUMBER_BINS = 10
"""Bins of equal training mass, of the values that are not one of the special ones."""

RANK_BINS = 8
"""Bins of equal training mass of a category's rarer values; the most frequent ones have a bin each."""

OWN_BIN = 0.01
"""A value with this share of the training rows has a bin of its own, as far as there are few."""

MOST_OWN_BINS = 32

MOST_ROWS = 1_000_000
"""Of more rows so many are looked at, spread evenly."""

BLOCK_US = 6 * MICROSECONDS["h"]
"""Rows of so much time are compared with all, to see how much shares vary by the time of the day and from day to day."""

LEAST_BLOCK_ROWS = 200
QUANTILES = tuple(np.round(np.linspace(0.02, 0.98, 49), 4).tolist())

MISSING_BIN, SECOND_BIN = 0, 1
"""First bins of each column: no value; and 0 of a number, or unknown values of a category."""

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnProfile:
    """One number, or the first place of one category or list."""

    feature: str
    column: int
    """Of the numeric array, or first of the id array."""
    is_id: bool
    edges: tuple[float, ...]
    """Of a number, the upper ends of the bins of values that are there and not 0; the last bin has none."""
    bins: tuple[int, ...]
    """Of a category, the bin of each embedding row, from 0 on."""
    counts: tuple[float, ...]
    """Training rows by bin: missing, 0 or unknown, then the others."""
    usual: float
    """Largest population stability index of a block of rows beside all."""
    lowest: tuple[float, float]
    """Smallest share of a block in the first and second bin."""
    highest: tuple[float, float]
    """Largest share of a block in the first and second bin."""
    quantiles: tuple[float, ...]
    """Of a number, those of :data:`QUANTILES` over the rows with a value."""
    top: tuple[float, float]
    """The most frequent value, or embedding row, and its share of all rows."""
    bursts: float = 1.0
    """Of a category, the largest share of a window of pages that is of values far more frequent than usual; 1 where nobody
    knows."""

    @property
    def row_shares(self) -> Counts:
        """Of a category, the share of each embedding row; those of one bin of rarer values share what it has."""
        counts, bins = np.array(self.counts), np.array(self.bins)
        members = np.maximum(1, np.bincount(bins, minlength=len(counts)))
        found: Counts = (counts / max(1.0, counts.sum()) / members)[bins]
        return found

    def bin_of(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """The bin of each value, [N]."""
        if self.is_id:
            highest = len(self.bins) - 1
            rows = np.clip(np.where(values == PADDING, MISSING_ROW, values), 0, highest).astype(np.intp)
            found: NDArray[np.intp] = np.array(self.bins, np.intp)[rows]
            return found
        numbers = values.astype(np.float64)
        places = 2 + np.searchsorted(self.edges, numbers, side="left")
        found = np.where(np.isnan(numbers), MISSING_BIN, np.where(numbers == 0, SECOND_BIN, places)).astype(np.intp)
        return found

    def count(self, values: NDArray[Any]) -> Counts:
        """Rows by bin."""
        found: Counts = np.bincount(self.bin_of(values), minlength=len(self.counts)).astype(np.float64)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class InputProfile:
    """All columns of a layout."""

    rows: int
    columns: tuple[ColumnProfile, ...]
    clocks: tuple[ClockColumn, ...]

    def to_json(self) -> str:
        """The profile as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":")) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: the text is of another format.
        """
        content = json.loads(text)
        if content.get("format") != FORMAT:
            raise ValueError(f"input profile: format {content.get('format')!r}; this version reads {FORMAT}")
        tuples = ("edges", "bins", "counts", "lowest", "highest", "quantiles", "top")
        read: Iterator[dict[str, Any]] = (
            {name: tuple(value) if name in tuples else value for name, value in column.items()}
            for column in content["columns"]
        )
        columns = tuple(ColumnProfile(**column) for column in read)
        return cls(
            rows=content["rows"], columns=columns, clocks=tuple(ClockColumn(**clock) for clock in content["clocks"])
        )


def profile_inputs(
    layout: Layout,
    numeric: NDArray[np.float32],
    ids: NDArray[np.int32],
    ts: NDArray[np.int64],
    keys: Mapping[str, Mapping[int, str]],
    later: tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]] | None = None,
) -> InputProfile:
    """The profile of training rows.

    Args:
        layout: The model's.
        numeric: [N, D]
        ids: [N, F]
        ts: [N] microseconds.
        keys: By vocabulary the value of each embedding row; only to see which columns follow the clock.
        later: Rows of after the training; how far their blocks are from it is what is usual.
    """
    step = max(1, -(-len(ts) // MOST_ROWS))
    chosen = slice(None, None, step)
    numeric, ids, ts = np.asarray(numeric[chosen]), np.asarray(ids[chosen]), np.asarray(ts[chosen])
    parts = [(numeric, ids, ts)]
    if later is not None and len(later[2]):
        parts.append(tuple(np.asarray(array[:: max(1, -(-len(later[2]) // MOST_ROWS))]) for array in later))  # type: ignore[arg-type]
    # Where there are later rows, these show how far served ones may be from the training's.
    blocks = [_blocks(times) if n == len(parts) - 1 else [] for n, (*_, times) in enumerate(parts)]
    columns = []
    for place, number in enumerate(layout.numeric):
        numbers = [part[0][:, place] for part in parts]
        columns.append(_profiled(number.feature, place, False, _number_bins(numbers[0]), numbers, blocks))
    orders = [np.argsort(times, kind="stable") for *_, times in parts]
    for column, places in zip(layout.ids, layout.id_places, strict=True):
        rows = [part[1][:, places.start] for part in parts]
        of = _profiled(column.name, places.start, True, _row_bins(rows[0], column.rows), rows, blocks)
        found = burst_shares(rows[-1][orders[-1]], of.row_shares, FIRST_VOCABULARY_ROW)
        columns.append(replace(of, bursts=max((share for _, share in found), default=1.0)))
    return InputProfile(rows=len(ts), columns=tuple(columns), clocks=fitted_clocks(layout, ids, ts, keys))


def stability_index(counts: Counts, reference: Counts) -> float:
    """The population stability index Σ (p - q) ln(p / q), half a row added to each bin."""
    bins = len(counts)
    p = (counts + 0.5) / (counts.sum() + 0.5 * bins)
    q = (reference + 0.5) / (reference.sum() + 0.5 * bins)
    return float(((p - q) * np.log(p / q)).sum())


def _blocks(ts: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Rows of each six hours, of each day, and of each hour of the day on all days."""
    found = []
    for part in (ts // BLOCK_US, ts // DAY_US, ts // MICROSECONDS["h"] % 24):
        order = np.argsort(part, kind="stable")
        ends = np.flatnonzero(np.diff(part[order])) + 1
        found += [rows for rows in np.split(order, ends) if len(rows) >= LEAST_BLOCK_ROWS]
    return found


def _number_bins(values: NDArray[np.float32]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    present = values[~np.isnan(values) & (values != 0)].astype(np.float64)
    if not len(present):
        return (), ()
    edges = np.unique(np.quantile(present, np.linspace(0, 1, NUMBER_BINS + 1)[1:-1], method="lower"))
    return tuple(edges.tolist()), ()


def _row_bins(values: NDArray[np.int32], rows: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Bin of each embedding row: missing, unknown, frequent values one by one, the others by rank."""
    counts = np.bincount(np.clip(values, 0, rows - 1), minlength=rows).astype(np.float64)
    bins = np.zeros(rows, np.int64)
    bins[UNKNOWN_ROW] = SECOND_BIN
    own = np.flatnonzero(counts >= OWN_BIN * max(1.0, counts.sum()))
    own = own[own >= FIRST_VOCABULARY_ROW]
    own = own[np.argsort(-counts[own], kind="stable")][:MOST_OWN_BINS]
    bins[own] = 2 + np.arange(len(own))
    others = np.setdiff1d(np.arange(FIRST_VOCABULARY_ROW, rows), own)
    if len(others):
        mass = np.cumsum(counts[others]) / max(1.0, counts[others].sum())
        bins[others] = 2 + len(own) + np.minimum((mass * RANK_BINS).astype(np.int64), RANK_BINS - 1)
    return (), tuple(bins.tolist())


def _profiled(
    feature: str,
    place: int,
    is_id: bool,
    binning: tuple[tuple[float, ...], tuple[int, ...]],
    values: Sequence[NDArray[Any]],
    blocks: Sequence[Sequence[NDArray[np.intp]]],
) -> ColumnProfile:
    edges, bins = binning
    width = max(bins, default=SECOND_BIN) + 1 if is_id else len(edges) + 3
    empty = ColumnProfile(
        feature=feature, column=place, is_id=is_id, edges=edges, bins=bins, counts=(0.0,) * width, usual=0.0,
        lowest=(1.0, 1.0), highest=(0.0, 0.0), quantiles=(), top=(0.0, 0.0),
    )  # fmt: skip
    whole = empty.count(values[0])
    index, shares = [0.0], [whole[:2] / max(1.0, whole.sum())]
    for column, of_part in zip(values, blocks, strict=True):
        binned = empty.bin_of(column)
        for rows in of_part:
            counts = np.bincount(binned[rows], minlength=width).astype(np.float64)
            index.append(stability_index(counts, whole) - (width - 1) / len(rows))
            shares.append(counts[:2] / len(rows))
    found, counted = np.unique(values[0][values[0] == values[0]], return_counts=True)
    best = int(np.argmax(counted)) if len(found) else 0
    top = (float(found[best]), float(counted[best] / len(values[0]))) if len(found) else (0.0, 0.0)
    present = values[0][~np.isnan(values[0])] if not is_id else found[:0]
    quantiles = tuple(np.quantile(present.astype(np.float64), QUANTILES).tolist()) if len(present) else ()
    lowest, highest = np.min(shares, axis=0), np.max(shares, axis=0)
    return ColumnProfile(
        feature=feature, column=place, is_id=is_id, edges=edges, bins=bins, counts=tuple(whole.tolist()),
        usual=float(max(index)), lowest=(float(lowest[0]), float(lowest[1])),
        highest=(float(highest[0]), float(highest[1])), quantiles=quantiles, top=top,
    )  # fmt: skip
