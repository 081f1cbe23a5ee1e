"""Served inputs in order of time, the windows of requests that are looked at together, and a shift that was found in one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.online.skew_kinds import Kind

WINDOW = 1000
"""Requests that are looked at together, beside all of a day."""

LEAST_REQUESTS = 50
"""Of fewer requests nothing is said."""


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


def windows(requests: NDArray[np.int64]) -> Iterator[slice]:
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
