"""The expected calibration error: how far predicted rates are from observed ones, and from how far on that is no noise."""

import numpy as np
from scipy import sparse

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval, Ranking, rank
from ctr_pipeline.evaluation.reliability import BINS, bins_of, residuals_of

_DRAWS = 2000
_FACTORS = np.linspace(0.0, 4.0, 161)
"""How many times the gaps that were found the true ones may be."""

_CHANCES = 0.978, 0.01
"""Of the lower and of the upper bound. Not those of an exact interval: that the shape of the gaps is estimated too takes as much."""


def expected_calibration_error(
    logits: Reals, labels: Integers, clusters: Integers | None = None, *, seed: int, bins: int = BINS
) -> Interval | None:
    """Mean over rows of |observed - predicted| rate of their bin (Naeini et al. 2015), in the unit of a rate.

    Bins are those of :func:`~ctr_pipeline.evaluation.reliability.reliability`. Where predictions hold, chance alone gives every
    bin a gap, so that the value is above 0 and too large by about what the noise is. The interval is for the error without
    noise: the gaps that were found, times a factor, with the noise that the ``clusters`` [N] (-1 = a row by itself) show, give
    a value as small, or as large, as the one that was found in at least some of the draws. Its lower bound is 0 where the
    predictions may hold. It holds the error in 93 to 98 of 100 worlds, calibrated ones and others.

    Returns:
        None without positive rows; infinite bounds with fewer than :data:`~ctr_pipeline.evaluation.intervals.MIN_CLUSTERS`
        clusters with a positive, or as many with a negative row.

    Raises:
        EvaluationError: ``clusters`` have another length than the logits.
    """
    if clusters is not None and clusters.shape != logits.shape:
        raise EvaluationError(f"clusters: expected shape {logits.shape}; found {clusters.shape}")
    rows = labelled(logits, labels)
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    return calibration_error_of(rows, rank(rows.logits), codes, count, seed=seed, bins=bins)


def calibration_error_of(
    rows: Labelled, ranking: Ranking, codes: Indices, count: int, *, seed: int, bins: int = BINS
) -> Interval | None:
    """:func:`expected_calibration_error` of rows that are already ranked, with cluster ``codes`` below ``count``."""
    if rows.positives == 0:
        return None
    places = bins_of(rows, ranking, bins)
    sizes = np.bincount(places).astype(np.float64)
    residuals = residuals_of(rows)
    gaps = np.bincount(places, weights=residuals) / sizes
    shares = sizes / len(rows)
    value = float(shares @ np.abs(gaps))
    owners = [len(np.unique(codes[chosen])) for chosen in (rows.positive, ~rows.positive)]
    if min(owners) < MIN_CLUSTERS or value == 0:
        return Interval(value, -np.inf, np.inf)
    noise = _noise(residuals - gaps[places], places, codes, (count, len(sizes)), seed) / sizes
    found = np.array([np.mean(np.abs(factor * gaps + noise) @ shares <= value) for factor in _FACTORS])
    low, high = (value * _last_factor(found, chance) for chance in _CHANCES)
    return Interval(value, low, max(high, value))


def _noise(residuals: Float64s, places: Indices, codes: Indices, shape: tuple[int, int], seed: int) -> Float64s:
    """[draws, bins] normal draws of the sums by bin, with the covariance that the sums of clusters have."""
    sums = sparse.csr_array((residuals, (codes, places)), shape=shape)
    covariance = (sums.T @ sums).toarray() * shape[0] / max(shape[0] - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    normal = np.random.default_rng(seed).standard_normal((_DRAWS, shape[1]))
    found: Float64s = normal @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return found


def _last_factor(shares: Float64s, chance: float) -> float:
    """The largest factor with which at least ``chance`` of the draws do not exceed the value; 0 where none has."""
    held = np.flatnonzero(shares >= chance)
    if not len(held):
        return 0.0
    last = int(held[-1])
    if last == len(shares) - 1:
        return float(_FACTORS[-1])
    above, below = shares[last], shares[last + 1]
    part = (above - chance) / (above - below) if above > below else 0.0
    return float(_FACTORS[last] + part * (_FACTORS[last + 1] - _FACTORS[last]))
