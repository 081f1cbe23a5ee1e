"""A sample of packed rows as triage compares it: standardised numbers, rows of vocabularies, labels and weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.features.layout import Layout

ROWS = 20_000
BINS = 10
FEWEST = 30
"""Positives and negatives below which nothing is said of a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """N rows with D numbers, F features of ids and T tasks.

    Attributes:
        numbers: [N, D] standardised by the training statistics; NaN where missing, infinite where the row has such a value.
        ids: [N, F] rows of each feature's vocabulary; of a list its first place.
        labels: [N, T] 1, 0, or below 0 where not known.
        weights: [N, T].
        number_names: [D] names of the numbers.
        id_names: [F] names of the features of ids.
        tasks: [T] names.
        from_time: Names of the features of ids that follow from the time of the row.
        from_past: Names of the features that are made of earlier rows: the first rows of a log have none of them.
        id_rows: [F] rows of each feature's vocabulary; empty where that is not known.
    """

    numbers: NDArray[np.float64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int8]
    weights: NDArray[np.float64]
    number_names: Sequence[str]
    id_names: Sequence[str]
    tasks: Sequence[str]
    from_time: frozenset[str] = frozenset()
    from_past: frozenset[str] = frozenset()
    id_rows: Sequence[int] = ()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.labels)


def evenly_spread(length: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` different places of ``length``, the first and the last among them, in ascending order."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).astype(np.int64))


def spread_rows(split: PackedSplit, layout: Layout, most: int = ROWS) -> Rows:
    """At most ``most`` rows, evenly spread, in the order of the split."""
    return _rows(split, layout, evenly_spread(len(split), most))


def neighbouring_rows(split: PackedSplit, layout: Layout, most: int = ROWS) -> Rows:
    """At most ``most`` rows side by side, from the middle."""
    start = max(0, (len(split) - most) // 2)
    return _rows(split, layout, np.arange(start, min(len(split), start + most)))


def late_rows(split: PackedSplit, layout: Layout, most: int = ROWS) -> Rows:
    """At most ``most`` rows, evenly spread over the last quarter."""
    start = len(split) * 3 // 4
    return _rows(split, layout, start + evenly_spread(len(split) - start, most))


def _rows(split: PackedSplit, layout: Layout, chosen: NDArray[np.int64]) -> Rows:
    return rows_of(
        layout, np.take(split.numeric, chosen, axis=0), np.take(split.ids, chosen, axis=0),
        np.take(split.labels, chosen, axis=0), np.take(split.weights, chosen, axis=0),
    )  # fmt: skip


def rows_of(
    layout: Layout,
    numeric: NDArray[np.floating],
    ids: NDArray[np.integer],
    labels: NDArray[np.integer],
    weights: NDArray[np.floating],
) -> Rows:
    """Rows from their arrays, of a split or of a batch."""
    raw = numeric.astype(np.float64)
    numbers = np.empty_like(raw)
    with np.errstate(all="ignore"):
        for at, column in enumerate(layout.numeric):
            values = raw[:, at]
            if column.transform == "signed_log1p":
                values = np.sign(values) * np.log1p(np.abs(values))
            numbers[:, at] = (values - column.mean) / column.std
    return Rows(
        numbers=numbers,
        ids=ids[:, [place.start for place in layout.id_places]].astype(np.int64),
        labels=labels.astype(np.int8),
        weights=weights.astype(np.float64),
        number_names=[column.name for column in layout.numeric],
        id_names=[column.name for column in layout.ids],
        tasks=layout.tasks,
        from_time=frozenset(column.name for column in layout.ids if column.from_time is not None),
        from_past=frozenset(
            [column.name for column in layout.numeric if column.group == "history"]
            + [column.name for column in layout.ids if column.group == "history"]
        ),
        id_rows=tuple(column.rows for column in layout.ids),
    )


def auc_error(positive: NDArray[np.bool_]) -> float:
    """Standard error of an AUC near 1/2 (of Mann and Whitney's test): an upper bound for larger ones."""
    n, m = int(positive.sum()), int((~positive).sum())
    return float(np.sqrt((n + m + 1) / (12 * max(n, 1) * max(m, 1))))


class RowModel:
    """Predicts a task from each feature alone, by the share of positives of its bins or ids, as log odds.

    Fitted on rows that are trusted, it tells what other rows should look like.

    Args:
        rows: The rows that are trusted.
        task: Column of the task.
    """

    def __init__(self, rows: Rows, task: int) -> None:
        known = rows.labels[:, task] >= 0
        positive = rows.labels[known, task] == 1
        prior = float(positive.mean())
        self._edges = [_edges(column[known]) for column in rows.numbers.T]
        self._numbers = [
            _log_odds(_binned(column[known], edges), positive, prior, BINS + 2)
            for column, edges in zip(rows.numbers.T, self._edges, strict=True)
        ]
        self._ids = [
            _log_odds(column[known] + 1, positive, prior, int(column.max(initial=0)) + 2) for column in rows.ids.T
        ]

    def scores(self, rows: Rows) -> Mapping[str, NDArray[np.float64]]:
        """By feature the log odds [N] relative to the base rate; 0 for what was not seen."""
        found = {
            name: odds[_binned(column, edges)]
            for name, column, edges, odds in zip(
                rows.number_names, rows.numbers.T, self._edges, self._numbers, strict=True
            )
        }
        for name, column, odds in zip(rows.id_names, rows.ids.T, self._ids, strict=True):
            place = column + 1
            seen = (place >= 0) & (place < len(odds))
            found[name] = np.where(seen, odds[np.where(seen, place, 0)], 0.0)
        return found


def cross_scores(rows: Rows, task: int) -> Mapping[str, NDArray[np.float64]]:
    """The scores of each half of ``rows`` by a model of the other half, so that no row knows its own label."""
    odd = np.arange(len(rows)) % 2 == 1
    found = {name: np.zeros(len(rows)) for name in (*rows.number_names, *rows.id_names)}
    for own in (odd, ~odd):
        scores = RowModel(rows_at(rows, ~own), task).scores(rows_at(rows, own))
        for name, values in scores.items():
            found[name][own] = values
    return found


def rows_at(rows: Rows, chosen: NDArray[np.bool_]) -> Rows:
    """The rows for which ``chosen`` [N] holds."""
    return Rows(
        numbers=rows.numbers[chosen], ids=rows.ids[chosen], labels=rows.labels[chosen], weights=rows.weights[chosen],
        number_names=rows.number_names, id_names=rows.id_names, tasks=rows.tasks, from_time=rows.from_time,
        from_past=rows.from_past, id_rows=rows.id_rows,
    )  # fmt: skip


def _edges(column: NDArray[np.float64]) -> NDArray[np.float64]:
    known = column[np.isfinite(column)]
    if not len(known):
        return np.zeros(0)
    return np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))


def _binned(column: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bins from 1 on; 0 for what is missing."""
    return np.where(np.isnan(column), 0, np.searchsorted(edges, column, side="right") + 1)


def _log_odds(
    place: NDArray[np.int64], positive: NDArray[np.bool_], prior: float, size: int, strength: float = 10.0
) -> NDArray[np.float64]:
    counts = np.bincount(place, minlength=size)
    sums = np.bincount(place, weights=positive, minlength=size)
    rate = (sums + strength * prior) / (counts + strength)
    rate = np.clip(rate, 1e-6, 1 - 1e-6)
    base = min(max(prior, 1e-6), 1 - 1e-6)
    found: NDArray[np.float64] = np.log(rate / (1 - rate)) - np.log(base / (1 - base))
    return found
