"""The values that an encoding of numbers takes from the training rows."""

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import Encoding
from ctr_pipeline.spec.encodings import Bucket, Cyclic, EncodingSection, PiecewiseLinear

_SMALLEST = float(np.finfo(np.float32).tiny)
"""Edges that are closer than this could not be told apart in single precision."""

_PIECE = 1 << 20


def fit_encoding(section: EncodingSection, present: NDArray[np.float32]) -> Encoding | None:
    """The encoding of a number whose values in the training rows are ``present``, ascending and without missing ones.

    Edges are quantiles that occur as values, so that they are exact in single precision and do not depend on how the
    rows were read; equal ones count once. A number with too few different values for two bins is standardised.
    """
    if isinstance(section, Cyclic):
        return Encoding(section.kind, period=section.period)
    if isinstance(section, PiecewiseLinear):
        edges = _distinct(_quantiles(present, section.bins))
        return Encoding(section.kind, edges, _mean_parts(present, edges)) if len(edges) > 1 else None
    if isinstance(section, Bucket):
        # The first bin has no lower edge and the last no upper one; below the smallest value would be an empty bin.
        inner = tuple(edge for edge in _distinct(_quantiles(present, section.bins)[1:-1]) if edge > present[0])
        return Encoding(section.kind, inner, _shares(present, inner)) if inner else None
    return None


def _quantiles(present: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Smallest value, quantiles between ``bins`` equal shares of the rows, and largest value."""
    places = np.arange(bins + 1, dtype=np.int64) * (present.size - 1) // bins
    return present[places] if present.size else present


def _distinct(values: NDArray[np.float32]) -> tuple[float, ...]:
    """The values, which ascend, without those that are as good as equal to the one before."""
    kept: list[float] = []
    for value in values.tolist():
        if not kept or value - kept[-1] >= _SMALLEST:
            kept.append(value)
    return tuple(kept)


def _mean_parts(present: NDArray[np.float32], edges: tuple[float, ...]) -> tuple[float, ...]:
    """For each bin the mean over the rows of how far the value is through it, from 0 to 1."""
    places = np.searchsorted(present, np.array(edges, dtype=np.float32))
    found = []
    for lower, upper, first, end in zip(edges, edges[1:], places, places[1:], strict=False):
        pieces = [present[at : min(at + _PIECE, end)].astype(np.float64) for at in range(first, end, _PIECE)]
        inside = sum(float(((piece - lower) / (upper - lower)).sum()) for piece in pieces)
        found.append((inside + float(present.size - end)) / present.size)
    return tuple(found)


def _shares(present: NDArray[np.float32], inner: tuple[float, ...]) -> tuple[float, ...]:
    """For each bin the share of the rows in it; a value at an edge belongs to the bin above."""
    places = np.searchsorted(present, np.array(inner, dtype=np.float32))
    counts = np.diff(places, prepend=0, append=present.size)
    return tuple((counts / present.size).tolist())
