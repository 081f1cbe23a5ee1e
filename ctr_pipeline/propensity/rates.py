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


def shrunk(values: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K] ``values`` drawn towards 0, each by its variance (empirical Bayes, normal with mean 0).

    The variance τ² of the true values is what their squares have beyond the errors, τ² = max(0, mean(value² - variance)),
    and each becomes value · τ² / (τ² + variance): its posterior mean (Efron and Morris 1973). All become 0 where the
    values vary no more than their errors do.
    """
    between = max(0.0, float(np.mean(np.square(values) - variances))) if len(values) else 0.0
    return np.asarray(values * (between / (between + variances) if between > 0 else 0.0))
