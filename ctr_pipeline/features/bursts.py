"""Values that are far more frequent for a while than they usually are: a few users who ask for many pages."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

WINDOW = 1500
"""Pages, or other runs of rows with one value, that are looked at together."""

LEAST_RUNS = 4
"""A value with fewer is rare, whatever is usual."""

FACTOR = 8.0
"""How many times as frequent as usual: values are only known by bins, in which some are more frequent than others."""


def burst_shares(rows: NDArray[np.integer], shares: NDArray[np.float64], first: int) -> Iterator[tuple[slice, float]]:
    """For each window, its rows and the share of its runs whose value is far more frequent than usual.

    Args:
        rows: [N] embedding rows, in order of time.
        shares: [R] usual share of each embedding row.
        first: Embedding rows before it are no values.
    """
    if not len(rows):
        return
    starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
    last = len(starts) - WINDOW
    # The last window overlaps the one before, so that none is left out.
    for at in sorted({*range(0, last + 1, WINDOW), *([last] if last >= 0 else [])}):
        runs = rows[starts[at : at + WINDOW]]
        end = starts[at + WINDOW] if at + WINDOW < len(starts) else len(rows)
        counts = np.bincount(np.clip(runs, 0, len(shares) - 1), minlength=len(shares))
        grown = (counts >= LEAST_RUNS) & (counts >= FACTOR * WINDOW * shares)
        grown[:first] = False
        yield slice(int(starts[at]), int(end)), float(counts[grown].sum() / WINDOW)
