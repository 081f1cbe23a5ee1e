"""The slices that a spec declares: by a number's intervals, by a category's values, by how well an id is known."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import MISSING_ROW, UNKNOWN_ROW, Layout

MISSING, UNKNOWN = "missing", "unknown"


def interval_names(edges: Sequence[float]) -> list[str]:
    """Names of the intervals between ascending ``edges``, the lowest first, and of missing numbers last."""
    return [
        f"below {edges[0]:g}",
        *(f"[{low:g}, {high:g})" for low, high in pairwise(edges)),
        f"from {edges[-1]:g} on",
        MISSING,
    ]


def interval_places(values: NDArray[np.floating[Any]], edges: Sequence[float]) -> NDArray[np.intp]:
    """[N] which of :func:`interval_names` numbers [N] fall into: ``[2, 7)`` holds its lower edge; NaN the last, ``missing``.

    Args:
        values: The numbers.
        edges: Ascending.
    """
    # Compared in double precision, as the edges are written.
    places = np.searchsorted(np.array(edges), values.astype(np.float64), side="right")
    return np.where(np.isnan(values), len(edges) + 1, places)


def interval_slices(values: NDArray[np.floating[Any]], edges: Sequence[float]) -> NDArray[np.str_]:
    """[N] names of the intervals that numbers [N] fall into (:func:`interval_places`)."""
    return np.array(interval_names(edges), dtype=np.str_)[interval_places(values, edges)]


def category_slices(rows: NDArray[np.integer[Any]], values: Mapping[int, str]) -> NDArray[np.str_]:
    """[N] values of a category from its embedding rows [N].

    Args:
        rows: The rows.
        values: Value of each row of the vocabulary.
    """
    found, places = np.unique(rows, return_inverse=True)
    known = {MISSING_ROW: MISSING, UNKNOWN_ROW: UNKNOWN}
    return np.array([known.get(int(row)) or values[int(row)] for row in found], dtype=np.str_)[places]


def category_texts(rows: int, values: Mapping[int, str]) -> list[str]:
    """Value of each embedding row of a category of ``rows`` rows, in order."""
    return [MISSING, UNKNOWN, *(values.get(row, UNKNOWN) for row in range(UNKNOWN_ROW + 1, rows))]


def evidence_slices(
    rows: NDArray[np.integer[Any]], training_rows: NDArray[np.integer[Any]], evidence: float
) -> NDArray[np.str_]:
    """[N] how many training rows the ids of embedding rows [N] have: none, up to ``evidence``, or more.

    Args:
        rows: Embedding rows of the ids that are evaluated.
        training_rows: Those of the training rows.
        evidence: Training rows with which an id's own embedding counts as much as the mean of its parent.
    """
    counts = np.bincount(training_rows, minlength=int(rows.max(initial=0)) + 1)
    # An id that is too rare for the vocabulary has no embedding of its own, whatever the number of rows.
    counts[UNKNOWN_ROW] = 0
    names = np.array(["none", f"up to {evidence:g}", f"above {evidence:g}"], dtype=np.str_)
    place = np.array([bisect_right([0.0, evidence], float(count) - 0.5) for count in counts])
    return np.where(rows == MISSING_ROW, MISSING, names[place[rows]])


def cold_start_slices(
    layout: Layout, ids: NDArray[np.int32], training_ids: NDArray[np.int32]
) -> dict[str, NDArray[np.str_]]:
    """For each id with a cold start :func:`evidence_slices`, as ``training rows of <feature>``.

    Args:
        layout: The packed layout.
        ids: [N, F] the id array that is evaluated.
        training_ids: [M, F] that of the training rows.
    """
    return {
        f"training rows of {column.name}": evidence_slices(
            ids[:, place.start], training_ids[:, place.start], column.cold_start.evidence
        )
        for column, place in zip(layout.ids, layout.id_places, strict=True)
        if column.cold_start is not None
    }
