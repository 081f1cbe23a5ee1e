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
    rows = _weighed(logits, labels, weights)
    if rows is None:
        return None
    own = rows.weights / rows.weights.sum()
    rate = float(own @ rows.positive)
    recalibrated = _isotonic(rows.logits, rows.positive, own)
    # x log y is 0 where x is: a recalibrated rate of 0 or 1 stands where the labels agree with it.
    best = -float(own @ np.where(rows.positive, special.xlogy(1.0, recalibrated), special.xlog1py(1.0, -recalibrated)))
    return _parts(float(own @ row_losses(rows.logits, rows.positive)), best, entropy(rate))


def decomposed_brier(logits: Reals, labels: Integers, weights: Reals | None = None) -> Decomposition | None:
    """The parts of the mean squared error of the probabilities (Brier 1950); None without rows of any weight."""
    rows = _weighed(logits, labels, weights)
    if rows is None:
        return None
    own = rows.weights / rows.weights.sum()
    rate = float(own @ rows.positive)
    happened = rows.positive.astype(np.float64)
    recalibrated = _isotonic(rows.logits, rows.positive, own)
    score = float(own @ (special.expit(rows.logits) - happened) ** 2)
    return _parts(score, float(own @ (recalibrated - happened) ** 2), rate * (1.0 - rate))


@dataclass(frozen=True, slots=True)
class _Weighed:
    """Rows that have a label and a weight: arrays [M]."""

    logits: Float64s
    positive: NDArray[np.bool_]
    weights: Float64s


def _weighed(logits: Reals, labels: Integers, weights: Reals | None) -> _Weighed | None:
    rows = labelled(logits, labels, weights)
    own = np.ones(len(rows)) if rows.weights is None else rows.weights
    there = own > 0
    return _Weighed(rows.logits[there], rows.positive[there], own[there]) if there.any() else None


def _isotonic(logits: Float64s, positive: NDArray[np.bool_], weights: Float64s) -> Float64s:
    """[M] the rate of each row by isotonic regression of the labels on the logits; rows of one logit have one rate."""
    _, codes = np.unique(logits, return_inverse=True)
    total = np.bincount(codes, weights=weights)
    hits = np.bincount(codes, weights=weights * positive)
    fitted: Any = optimize.isotonic_regression(hits / total, weights=total)
    found: Float64s = np.clip(fitted.x, 0.0, 1.0)[codes]
    return found


def _parts(score: float, best: float, uncertainty: float) -> Decomposition:
    # Never negative but for rounding.
    return Decomposition(
        score=score,
        miscalibration=max(0.0, score - best),
        discrimination=max(0.0, uncertainty - best),
        uncertainty=uncertainty,
    )
