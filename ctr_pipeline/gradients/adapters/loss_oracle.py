"""The training loss once more, in float64 and by other formulas than the losses use."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_pipeline.spec.losses import BinaryCrossEntropy, DelayedFeedback, Focal
from ctr_pipeline.spec.objectives import Binary, ObjectiveSection


def oracle_means(
    sections: Sequence[ObjectiveSection],
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    smoothing: float = 0.0,
    rates: Sequence[float] = (),
) -> list[Tensor | None]:
    """For each task the weighted mean of its loss over its known labels; None for a loss that has no formula here.

    Args:
        sections: Objective of each task.
        logits: [B, T] float64.
        labels: [B, T] 1, 0, or -1 where not known. Losses that learn from open labels are the cross-entropy without these.
        weights: [B, T].
        smoothing: Share of each label that is the task's base rate.
        rates: [T] the base rates.
    """
    found: list[Tensor | None] = []
    for task, section in enumerate(sections):
        known = labels[:, task] >= 0
        z, w = logits[known, task], weights[known, task].double()
        y = labels[known, task].double()
        each = _each(section, z, y, smoothing, rates[task] if smoothing else 0.0)
        # A sum over the known rows alone: of none, it is 0.
        found.append(None if each is None else (w * each).sum() / max(int(known.sum()), 1))
    return found


def has_formula(section: ObjectiveSection) -> bool:
    """Whether the loss of an objective is one that this module knows."""
    known = BinaryCrossEntropy | DelayedFeedback | Focal
    return isinstance(section, Binary) and isinstance(section.loss, known)


def _each(section: ObjectiveSection, z: Tensor, y: Tensor, smoothing: float, rate: float) -> Tensor | None:
    if not isinstance(section, Binary):
        return None
    if isinstance(section.loss, BinaryCrossEntropy | DelayedFeedback):
        target = (1 - smoothing) * y + smoothing * rate if section == Binary() else y
        # log(1 + e^z) - t z, without overflow.
        return torch.log1p(torch.exp(-z.abs())) + z.clamp_min(0) - target * z
    if isinstance(section.loss, Focal):
        margin = z * (2 * y - 1)
        log_p = -torch.log1p(torch.exp(-margin.abs())) + margin.clamp_max(0)
        alpha = section.loss.alpha
        balance = 1.0 if alpha is None else y * alpha + (1 - y) * (1 - alpha)
        return -balance * (-torch.expm1(log_p)).clamp_min(1e-300) ** section.loss.gamma * log_p
    return None
