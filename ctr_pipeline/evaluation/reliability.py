"""How far the predicted rates are from the observed ones, by bins of neighbouring scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals, labelled
from ctr_pipeline.evaluation.metrics import Z95, rank


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


def reliability(logits: Reals, labels: Integers, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Predicted and observed rate in up to ``bins`` bins of neighbouring scores with about equally many positives.

    Equal positives, not equal rows: at a base rate near 1 % most bins of equal rows would hold next to none. Rows
    with equal scores stay together. Empty without positives.
    """
    rows = labelled(logits, labels)
    if rows.positives == 0:
        return ()
    ranking = rank(rows.logits)
    counts = ranking.ends + 1.0
    hits = ranking.cumulative(rows.positive)
    expected = ranking.cumulative(special.expit(rows.logits))
    targets = np.arange(1, bins) * rows.positives / bins
    cuts = np.unique(np.append(np.searchsorted(hits, targets), len(hits) - 1))
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


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float | None:
    """Mean over rows of |observed - predicted| rate by bin, over the base rate: 0 is calibrated; None without bins."""
    positives = sum(b.positives for b in bins)
    if positives == 0:
        return None
    return sum(b.rows * abs(b.observed - b.predicted) for b in bins) / positives
