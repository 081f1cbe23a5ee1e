"""How far the predicted rates are from the observed ones, by bins of neighbouring scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import cluster_codes
from ctr_pipeline.evaluation.metrics import Z95, Ranking, rank
from ctr_pipeline.evaluation.overdispersion import CountsByPart, spread_of_users

BINS = 10
"""Bins of neighbouring scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Rows of neighbouring scores: what was predicted and what happened.

    Attributes:
        rows: Number of rows.
        positives: Positives among them.
        predicted: Mean predicted probability.
        observed: Observed rate, with the bounds ``low`` and ``high`` of its Wilson interval, for as
            many rows as the bin's count for where users have several.
        low: Lower bound of the observed rate.
        high: Upper bound of the observed rate.
    """

    rows: int
    positives: int
    predicted: float
    observed: float
    low: float
    high: float

    @property
    def observed_expected(self) -> float:
        """Observed over predicted rate; 1 is calibrated."""
        return self.observed / self.predicted


def wilson(successes: NDArray[Any], trials: NDArray[Any]) -> tuple[Float64s, Float64s]:
    """Bounds of the 95 % interval of Wilson (1927) for the rates ``successes`` / ``trials``; trials above 0."""
    rate = successes / trials
    square = Z95**2 / trials
    centre = (rate + square / 2) / (1 + square)
    half = np.sqrt(square * (rate * (1 - rate) + square / 4)) / (1 + square)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def reliability(
    logits: Reals, labels: Integers, clusters: Integers | None = None, *, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Predicted and observed rate in up to ``bins`` bins of neighbouring scores with about equally many positives.

    Equal positives, not equal rows: at a base rate near 1 % most bins of equal rows would hold next to none. Rows
    with equal scores stay together. Rows of one of ``clusters`` [N] are not independent; -1 is a row by itself, as all are
    without clusters. Empty without positives.
    """
    rows = labelled(logits, labels)
    users = None if clusters is None else cluster_codes(clusters[rows.kept], len(rows))[0]
    return reliability_of(rows, rank(rows.logits), users, bins)


def reliability_of(
    rows: Labelled, ranking: Ranking, users: Indices | None, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """:func:`reliability` of rows that are already ranked, with the codes of their ``users``; None where all are independent."""
    if rows.positives == 0:
        return ()
    counts = ranking.ends + 1.0
    hits = ranking.cumulative(rows.positive)
    expected = ranking.cumulative(special.expit(rows.logits))
    cuts = _cuts(rows, ranking, bins)
    sizes, found, predicted = (np.diff(sums[cuts], prepend=0.0) for sums in (counts, hits, expected))
    repeats = np.ones(len(sizes)) if users is None else _repeats(rows, ranking, users, cuts)
    low, high = wilson(found / repeats, sizes / repeats)
    by_rising_score = range(len(cuts) - 1, -1, -1)
    return tuple(
        ReliabilityBin(
            rows=int(sizes[i]),
            positives=int(found[i]),
            predicted=float(predicted[i] / sizes[i]),
            observed=float(found[i] / sizes[i]),
            low=float(low[i]),
            high=float(high[i]),
        )
        for i in by_rising_score
    )


def _repeats(rows: Labelled, ranking: Ranking, users: Indices, cuts: Indices) -> Float64s:
    """[B] variance of each bin's rate over that of independent rows (design effect, Kish 1965), highest scores first."""
    predicted, count = special.expit(rows.logits), len(cuts)
    places = np.searchsorted(cuts, ranking.groups())
    spread = spread_of_users(rows.positive, predicted, users)
    counts = CountsByPart.of(rows.positive, predicted, users, places, count, spread)
    found: Float64s = counts.overdispersion / np.maximum(1 - counts.observed / counts.rows, 1 / (counts.rows + 1))
    return np.maximum(found, 1.0)


def bins_of(rows: Labelled, ranking: Ranking, bins: int = BINS) -> Indices:
    """[M] the bin of each row, the lowest scores in bin 0; there has to be a positive."""
    cuts = _cuts(rows, ranking, bins)
    found: Indices = len(cuts) - 1 - np.searchsorted(cuts, ranking.groups())
    return found


def residuals_of(rows: Labelled) -> Float64s:
    """[M] label minus predicted probability."""
    found: Float64s = rows.positive - special.expit(rows.logits)
    return found


def _cuts(rows: Labelled, ranking: Ranking, bins: int) -> Indices:
    """Last group of equal scores of each bin, from the highest scores down."""
    hits = ranking.cumulative(rows.positive)
    targets = np.arange(1, bins) * rows.positives / bins
    return np.unique(np.append(np.searchsorted(hits, targets), len(hits) - 1))


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float | None:
    """Mean over rows of |observed - predicted| rate by bin, over the base rate: 0 is calibrated; None without bins."""
    positives = sum(b.positives for b in bins)
    if positives == 0:
        return None
    return sum(b.rows * abs(b.observed - b.predicted) for b in bins) / positives
