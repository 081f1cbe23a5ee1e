"""Compares the gradient at the logits with the loss's own formula: a check that needs no reference run."""

import torch
from torch import Tensor

from ctr_pipeline.gradients.core.step_view import LossView

SMALLEST = 1e-3
"""Gradients of a row with weight 1, and weights, below it are left out."""


def logit_gradient_ratio(loss: LossView) -> Tensor | None:
    """Ratio r = gradient · count / (loss weight · formula) of known labels: 1.

    The formula is the derivative of the task's weighted sum; dividing by the number of known labels and multiplying
    by the task's loss weight is what the trainer does. r equal to the batch size means that the loss is summed, r that
    depends on z a second sigmoid, r = −1 a sign error, r that follows a weight that the weight is applied elsewhere.

    Args:
        loss: The loss of a step.

    Returns:
        [K] ratios of the known labels whose gradient is large enough to divide by; None when the loss has no formula.
    """
    with torch.no_grad():
        weights = loss.weights.double()
        formula = loss.formula.logit_gradient(loss.logits.double(), loss.labels, weights)
        if formula is None:
            return None
        # Below a thousandth the rounding of σ(z) in single precision is no longer negligible beside the residual.
        large = (formula.abs() > SMALLEST * weights) | formula.isnan()
        usable = (loss.labels >= 0) & (weights > SMALLEST) & (loss.loss_weights > 0) & large
        expected = formula * loss.loss_weights / loss.counts.clamp_min(1)
        return loss.gradient.double()[usable] / expected[usable]
