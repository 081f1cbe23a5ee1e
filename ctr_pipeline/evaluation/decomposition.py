"""What a score consists of: how wrong the rates are, how far they are told apart, and what nobody could know."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals, labelled
from ctr_pipeline.evaluation.metrics import entropy, row_losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """A mean score S of predictions as miscalibration - discrimination + uncertainty (Murphy 1973).

    With S of the isotonic recalibration of the predictions, and S of the base rate: the parts are those of CORP
    (Dimitriadis, Gneiting & Jordan 2021), which depend on no bins and are never negative.

    Attributes:
        score: S of the predictions.
        miscalibration: S less that of the recalibrated predictions; 0 where each predicted rate holds.
        discrimination: S of the base rate less that of the recalibrated predictions; 0 where all rows look alike.
        uncertainty: S of the base rate.
    """

    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float

    def to_json(self) -> dict[str, float]:
        """The fields by name."""
        return {
            "score": self.score,
            "miscalibration": self.miscalibration,
            "discrimination": self.discrimination,
            "uncertainty": self.uncertainty,
        }


def decomposed_log_loss(logits: Reals, labels: Integers, weights: Reals | None = None) -> Decomposition | None:
    """The parts of the mean log loss in nats; None without rows of any weight."""
    rows = _recalibrated(logits, labels, weights)
    if rows is None:
        return None
    # Of the rate that the label has: never 0, as a recalibrated rate of 0 or 1 stands where all labels agree with it.
    likelihoods = np.where(rows.positive, rows.recalibrated, 1.0 - rows.recalibrated)
    score = float(rows.shares @ row_losses(rows.logits, rows.positive))
    return _parts(score, -float(rows.shares @ np.log(likelihoods)), entropy(float(rows.shares @ rows.positive)))


def decomposed_brier(logits: Reals, labels: Integers, weights: Reals | None = None) -> Decomposition | None:
    """The parts of the mean squared error of the probabilities (Brier 1950); None without rows of any weight."""
    rows = _recalibrated(logits, labels, weights)
    if rows is None:
        return None
    happened, rate = rows.positive.astype(np.float64), float(rows.shares @ rows.positive)
    score, best = (
        float(rows.shares @ (rates - happened) ** 2) for rates in (special.expit(rows.logits), rows.recalibrated)
    )
    return _parts(score, best, rate * (1.0 - rate))


@dataclass(frozen=True, slots=True)
class _Recalibrated:
    """Rows that have a label and a weight: arrays [M]; the shares of the weight add up to 1."""

    logits: Float64s
    positive: NDArray[np.bool_]
    shares: Float64s
    recalibrated: Float64s
    """Rates by isotonic regression of the labels on the logits; rows of one logit have one rate."""


def _recalibrated(logits: Reals, labels: Integers, weights: Reals | None) -> _Recalibrated | None:
    rows = labelled(logits, labels, weights)
    own = np.ones(len(rows)) if rows.weights is None else rows.weights
    there = own > 0
    if not there.any():
        return None
    values, positive, own = rows.logits[there], rows.positive[there], own[there]
    _, codes = np.unique(values, return_inverse=True)
    total = np.bincount(codes, weights=own)
    fitted: Any = optimize.isotonic_regression(np.bincount(codes, weights=own * positive) / total, weights=total)
    return _Recalibrated(values, positive, own / own.sum(), np.clip(fitted.x, 0.0, 1.0)[codes])


def _parts(score: float, best: float, uncertainty: float) -> Decomposition:
    # Never negative but for rounding.
    return Decomposition(
        score=score,
        miscalibration=max(0.0, score - best),
        discrimination=max(0.0, uncertainty - best),
        uncertainty=uncertainty,
    )
