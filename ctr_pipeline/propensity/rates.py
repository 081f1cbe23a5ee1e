"""Smoothed rates, and the size of a weighted sample."""

import numpy as np
from numpy.typing import NDArray


def smoothed_rates(rows: NDArray[np.float64], positives: NDArray[np.float64], smoothing: float) -> NDArray[np.float64]:
    """[..., 2, K] rates of counts [..., 2, K], pulled to the rate of their kind of traffic; always above 0."""
    overall = (positives.sum(axis=-1, keepdims=True) + 0.5) / (rows.sum(axis=-1, keepdims=True) + 1.0)
    # Without smoothing, an empty position still needs a finite rate.
    weight = np.where((positives == 0) & (smoothing == 0), 1.0, smoothing)
    return np.asarray((positives + weight * overall) / (rows + weight))


def ess_share(weights: NDArray[np.float64]) -> float:
    """Effective sample size (Σw)²/Σw² (Kish 1965), as a share of the number of weights; 1 when there are none."""
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total / len(weights) if total > 0 else 1.0
