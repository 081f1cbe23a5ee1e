"""What a gradient at the logits that differs from its formula says of the loss."""

import torch
from torch import Tensor

TOLERANCE = 1e-3
"""Largest difference of a healthy ratio from 1."""


def describe_ratio(ratio: Tensor, logits: Tensor, labels: Tensor, weights: Tensor, count: float) -> str:
    """The loss fault that fits best, in a sentence with what to do.

    Args:
        ratio: [K] found gradient / expected gradient of some labels.
        logits: [K] their logits.
        labels: [K] 0 or 1.
        weights: [K] their weights.
        count: Number of known labels by which the sum of the task's loss is divided.
    """
    ratio, logits, labels, weights = ratio.double(), logits.double(), labels.double(), weights.double()
    if not bool(torch.isfinite(ratio).all()):
        return (
            "it is not finite: compute the loss from logits (binary_cross_entropy_with_logits), not from log(sigmoid)"
        )
    middle = float(ratio.median())
    if _constant(ratio):
        return _of_constant(middle, count)
    if bool((weights > 0).all()):
        if _constant(ratio / weights):
            return "it follows the weight of the label: the weight is applied once too often"
        if _constant(ratio * weights):
            return "it is the inverse of the weight of the label: the weight is not applied"
    p = torch.sigmoid(logits)
    if _constant(ratio * (p - labels) / ((torch.sigmoid(p) - labels) * p * (1 - p))):
        return "it is that of σ(σ(z)): a sigmoid is applied twice; give the loss logits, not probabilities"
    if _constant(ratio / (p * (1 - p))):
        return "it is that of a squared error of probabilities: use a cross-entropy of logits"
    if _constant(ratio * (p - labels) / (p - 1 + labels)):
        return "it is that of the opposite labels: 0 and 1 are exchanged"
    if abs(_correlation(ratio, weights)) > 0.9:
        return "it grows with the weight of the label: weights are applied twice or not limited"
    return "it differs from label to label: compare the loss with its formula, its labels with its rows"


def _of_constant(value: float, count: float) -> str:
    if abs(value + 1) < TOLERANCE:
        return "its sign is reversed: the loss is maximised"
    if count > 1 and abs(value / count - 1) < TOLERANCE:
        return f"it is {count:g} times as large, the number of labels: the loss is summed; take the mean"
    if count > 1 and abs(value * count - 1) < TOLERANCE:
        return f"it is divided by the number of labels, {count:g}, twice"
    if abs(value) < TOLERANCE:
        return "it is 0: the loss does not depend on these logits"
    return f"it is {value:.4g} times as large throughout: a factor is applied or a division is missing"


def _constant(values: Tensor) -> bool:
    middle = values.median()
    return bool(((values - middle).abs() <= TOLERANCE * middle.abs().clamp_min(TOLERANCE)).all())


def _correlation(first: Tensor, second: Tensor) -> float:
    if len(first) < 3 or float(first.std()) == 0 or float(second.std()) == 0:
        return 0.0
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1])
