"""Ranking and probability metrics in expectation over labels, when the probability of each label is known.

With labels drawn independently with probabilities p, counts of positives and negatives are replaced by their expected
values, p and 1 - p a row. There is no sampling noise of labels left, so small samples of rows give stable numbers.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, xlogy

Values = NDArray[np.float64]


def _runs(score: ArrayLike, p: ArrayLike) -> tuple[Values, Values]:
    """Cumulative expected positives and cumulative rows at the end of each run of equal scores, best scores first."""
    score, p = np.asarray(score), np.asarray(p, np.float64)
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    return np.cumsum(p[order])[ends], ends + 1.0


def expected_auc(score: ArrayLike, p: ArrayLike) -> float:
    """AUC of ``score`` [N] under label probabilities ``p`` [N]: Σ neg · (positives ahead + ½ pos) / (P · N)."""
    positives, rows = _runs(score, p)
    ahead = np.concatenate([[0.0], positives[:-1]])
    pos = positives - ahead
    neg = np.diff(rows, prepend=0.0) - pos
    total = positives[-1]
    return float((neg * (ahead + pos / 2)).sum() / (total * (rows[-1] - total)))


def expected_average_precision(score: ArrayLike, p: ArrayLike) -> float:
    """Average precision of ``score`` [N] under label probabilities ``p`` [N]: Σ pos · precision / P."""
    positives, rows = _runs(score, p)
    return float((np.diff(positives, prepend=0.0) * positives / rows).sum() / positives[-1])


def binary_entropy(p: ArrayLike) -> Values:
    """-p ln p - (1 - p) ln(1 - p), in nats."""
    p = np.asarray(p, np.float64)
    entropy: Values = entr(p) + entr(1 - p)
    return entropy


def expected_normalised_entropy(prediction: ArrayLike, p: ArrayLike) -> float:
    """Expected log loss of ``prediction`` [N] under ``p`` [N], divided by that of the best constant (He et al. 2014)."""
    q, p = np.asarray(prediction, np.float64), np.asarray(p, np.float64)
    loss = -(xlogy(p, q) + xlogy(1 - p, 1 - q))
    return float(loss.mean() / binary_entropy(p.mean()))


def ceiling(p: ArrayLike) -> dict[str, float]:
    """What a model that knows ``p`` [N] would score: ``rate``, ``auc``, ``ap``, ``ne``."""
    return metrics(p, p)


def metrics(prediction: ArrayLike, p: ArrayLike) -> dict[str, float]:
    """``rate`` (mean of ``p``), and ``auc``, ``ap``, ``ne`` of ``prediction`` [N] under ``p`` [N]."""
    return {
        "rate": float(np.mean(np.asarray(p, np.float64))),
        "auc": expected_auc(prediction, p),
        "ap": expected_average_precision(prediction, p),
        "ne": expected_normalised_entropy(prediction, p),
    }
