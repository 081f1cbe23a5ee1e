"""Spread of the propensities over resampled sessions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.propensity.rates import smoothed_rates

_CHUNK = 20_000


@dataclass(frozen=True, slots=True)
class Spread:
    """Bootstrap variances, [K] over the positions."""

    exposure: NDArray[np.float64]
    """Of the log of the random rate over the production rate."""
    examination: NDArray[np.float64]
    """Of the log of the random rate over that of the first position."""


def cluster_counts(
    cluster: NDArray[np.int64],
    cell: NDArray[np.int64],
    y: NDArray[np.float64],
    shape: tuple[int, int],
    seed: int,
    replicates: int,
) -> NDArray[np.float64]:
    """[B, 2, 2, K] rows and positives of each cell in Poisson bootstraps: each cluster counts as often as a draw from Poisson(1).

    Args:
        cluster: [N] cluster of each row, from 0 without gaps.
        cell: [N] flat index of the row's kind of traffic and position, below 2 · K.
        y: [N] 1 or 0.
        shape: (2, K).
        seed: Seed.
        replicates: Number of resamples, B.
    """
    cells = shape[0] * shape[1]
    order = np.argsort(cluster, kind="stable")
    cluster, cell, y = cluster[order], cell[order], y[order]
    clusters = int(cluster[-1]) + 1
    random = np.random.default_rng(seed)
    sums = np.zeros((replicates, 2 * cells))
    for first in range(0, clusters, _CHUNK):
        size = min(_CHUNK, clusters - first)
        low, high = np.searchsorted(cluster, (first, first + size))
        # [size, cells] rows and positives of each cluster in each cell.
        flat = (cluster[low:high] - first) * cells + cell[low:high]
        held = np.bincount(flat, minlength=size * cells).reshape(size, cells)
        positive = np.bincount(flat, weights=y[low:high], minlength=size * cells).reshape(size, cells)
        draws = random.poisson(1.0, size=(replicates, size)).astype(np.float64)
        sums += draws @ np.hstack([held, positive])
    return sums.reshape(replicates, 2, *shape)


def spread_of(counts: NDArray[np.float64], smoothing: float) -> Spread:
    """Variances over the bootstraps of :func:`cluster_counts`.

    Args:
        counts: [B, 2, 2, K].
        smoothing: Pseudo-impressions of :func:`~ctr_pipeline.propensity.rates.smoothed_rates`.
    """
    log_rates = np.log(smoothed_rates(counts[:, 0], counts[:, 1], smoothing))
    exposure = log_rates[:, 0] - log_rates[:, 1]
    examination = log_rates[:, 0] - log_rates[:, 0, :1]
    return Spread(exposure=exposure.var(axis=0, ddof=1), examination=examination.var(axis=0, ddof=1))
