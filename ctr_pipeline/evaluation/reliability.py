"""How far the predicted rates are from the observed ones, by bins of neighbouring scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.metrics import Z95, Ranking, rank

BINS = 10
"""Bins of neighbouring scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Rows of neighbouring scores: what was predicted and what happened.

    Attributes:
        rows: Number of rows.
        positives: Positives among them.
        predicted: Mean predicted probability.
        observed: Observed rate, with the bounds ``low`` and ``high`` of its Wilson interval.
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


def reliability(logits: Reals, labels: Integers, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """Predicted and observed rate in up to ``bins`` bins of neighbouring scores with about equally many positives.

    Equal positives, not equal rows: at a base rate near 1 % most bins of equal rows would hold next to none. Rows
    with equal scores stay together. Empty without positives.
    """
    rows = labelled(logits, labels)
    return reliability_of(rows, rank(rows.logits), bins)


def reliability_of(rows: Labelled, ranking: Ranking, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """:func:`reliability` of rows that are already ranked."""
    if rows.positives == 0:
        return ()
    counts = ranking.ends + 1.0
    hits = ranking.cumulative(rows.positive)
    expected = ranking.cumulative(special.expit(rows.logits))
    cuts = _cuts(rows, ranking, bins)
    sizes, found, predicted = (np.diff(sums[cuts], prepend=0.0) for sums in (counts, hits, expected))
    low, high = wilson(found, sizes)
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
