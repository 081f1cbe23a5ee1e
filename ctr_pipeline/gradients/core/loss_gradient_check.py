"""The logit-gradient identity: a check of the loss that needs no reference."""

import torch
from torch import Tensor

SMALLEST = 1e-3
"""Residuals and weights below it are left out."""


def logit_gradient_ratio(
    logits: Tensor, labels: Tensor, weights: Tensor, gradient: Tensor, counts: Tensor, loss_weights: Tensor
) -> Tensor:
    """Ratio r = gradient · count / (weight · loss weight · (σ(z) − y)) of known labels: 1.

    The mean of weighted binary cross-entropies has exactly this gradient. r equal to the batch size says that the
    loss is summed, r that depends on z says a second sigmoid, r = −1 a sign error, r that follows a weight says that
    the weight is applied elsewhere.

    Args:
        logits: [B, T] logits.
        labels: [B, T] 1, 0, or -1 where not known.
        weights: [B, T] weights of the rows.
        gradient: [B, T] gradient of the loss with respect to the logits.
        counts: [T] known labels of each task, over all processes.
        loss_weights: [T] weights of the tasks.

    Returns:
        [K] ratios of the known labels whose residual is large enough to divide by.
    """
    with torch.no_grad():
        error = torch.sigmoid(logits.double()) - labels
        # Below a thousandth the rounding of σ(z) in single precision is no longer negligible beside the residual.
        usable = (labels >= 0) & (error.abs() > SMALLEST) & (weights > SMALLEST)
        residual = error * weights * loss_weights / counts.clamp_min(1)
        return gradient.double()[usable] / residual[usable]
