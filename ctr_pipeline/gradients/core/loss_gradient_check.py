"""Compares the gradient at the logits with the loss's own formula: a check that needs no reference run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_pipeline.gradients.core.step_view import LossView

SMALLEST = 1e-3
"""Gradients of a row with weight 1, and weights, below it are left out."""


@dataclass(frozen=True, slots=True)
class ComparedLabels:
    """Labels whose gradient was compared with the formula; K of them.

    Attributes:
        ratio: [K] gradient / what the formula gives.
        task: [K] column of the task.
        logits: [K] logits, float64.
        labels: [K] 1 or 0.
        weights: [K] weights, float64.
        unknown: [] largest gradient of a label that is not known, relative to the largest of those that are.
    """

    ratio: Tensor
    task: Tensor
    logits: Tensor
    labels: Tensor
    weights: Tensor
    unknown: Tensor


def loss_gradient_error(loss: LossView) -> Tensor | None:
    """[3] largest |r − 1| of the known labels, largest stray gradient, and number of labels that were compared.

    What :func:`compare_loss_gradient` says in numbers, at a third of its cost; None when the loss has no formula.
    """
    with torch.no_grad():
        parts = _parts(loss)
        if parts is None:
            return None
        usable, expected, gradient, unknown = parts
        deviation = torch.where(usable, gradient / expected - 1, 0.0).abs().amax()
        return torch.stack([deviation, unknown, usable.sum().to(deviation.dtype)])


def _parts(loss: LossView) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """[B, T] labels to compare, expected and found gradient, and [] the stray gradient relative to the expected one."""
    weights = loss.weights.double()
    formula = loss.formula.logit_gradient(loss.logits.double(), loss.labels, weights)
    if formula is None:
        return None
    gradient = loss.gradient.double()
    known = loss.labels >= 0
    # Below a thousandth the rounding of σ(z) in single precision is no longer negligible beside the residual. Written so that
    # a formula that is NaN is compared.
    usable = ~(formula.abs() <= SMALLEST * weights) & known & (weights > SMALLEST) & (loss.loss_weights > 0)
    expected = formula * (loss.loss_weights / loss.counts.clamp_min(1))
    # Open labels that a loss learns from have a formula of 0 here too, and are counted among the known.
    closed = known.sum(dim=0) == loss.counts
    stray = torch.where(known | ~closed, 0.0, gradient).abs().amax()
    unknown = stray / torch.where(known, expected, 0.0).abs().amax().clamp_min(torch.finfo(torch.float64).tiny)
    return usable, expected, gradient, unknown


def compare_loss_gradient(loss: LossView) -> ComparedLabels | None:
    """The gradient of each known label against the loss's formula; None when the loss has none.

    The formula is the derivative of the task's weighted sum; dividing by the number of known labels and multiplying
    by the task's loss weight is what the trainer does.
    """
    with torch.no_grad():
        parts = _parts(loss)
        if parts is None:
            return None
        usable, expected, gradient, unknown = parts
        return ComparedLabels(
            ratio=gradient[usable] / expected[usable],
            task=usable.nonzero()[:, 1],
            logits=loss.logits.double()[usable],
            labels=loss.labels[usable],
            weights=loss.weights.double()[usable],
            unknown=unknown,
        )


def logit_gradient_ratio(loss: LossView) -> Tensor | None:
    """[K] ratios r = gradient · count / (loss weight · formula) of known labels: 1; None when the loss has no formula."""
    compared = compare_loss_gradient(loss)
    return None if compared is None else compared.ratio
