"""What a wrong ratio of gradient and formula says of the loss: each fault has a shape of its own.

r is the ratio of the gradient that reached a logit to the one that the loss's formula gives: 1 in a sound training. The
shapes are tried from the most to the least special; what fits none is called so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctr_pipeline.gradients.core.loss_gradient_check import ComparedLabels

FIT = 1e-3
"""Largest relative deviation from a shape."""


@dataclass(frozen=True, slots=True)
class LossFault:
    """A fault of a loss.

    Attributes:
        name: Stable name, in snake case.
        message: What is wrong, and what to do.
    """

    name: str
    message: str


def name_loss_fault(
    compared: ComparedLabels, counts: Sequence[int], loss_weights: Sequence[float], rows: int
) -> LossFault:
    """The fault that explains the ratios.

    Args:
        compared: The labels; at least one.
        counts: [T] known labels of each task by which the trainer divides.
        loss_weights: [T] weights of the tasks in the loss.
        rows: B, rows of the batch.
    """
    ratio = compared.ratio
    if not bool(torch.isfinite(ratio).all()):
        return LossFault("not_finite", "the gradient or the formula is not finite: is a logarithm taken of 0?")
    constants = {task: _constant(ratio[compared.task == task]) for task in sorted(set(compared.task.tolist()))}
    if None not in constants.values():
        found = {task: value for task, value in constants.items() if value is not None}
        return _scaled(found, counts, loss_weights, rows)
    for shape in (_by_weight, _by_logit, _by_label):
        if (fault := shape(compared)) is not None:
            return fault
    return LossFault("unknown", "the ratio follows neither a constant, the weights, the logits nor the labels")


def _constant(values: Tensor) -> float | None:
    middle = float(values.median())
    return middle if float((values - middle).abs().max()) <= FIT * max(abs(middle), FIT) else None


def _scaled(found: dict[int, float], counts: Sequence[int], loss_weights: Sequence[float], rows: int) -> LossFault:
    """The ratio is one number for each task."""
    wrong = {task: value for task, value in found.items() if abs(value - 1) > FIT}

    def all_are(expected: Callable[[int], float]) -> bool:
        return all(abs(value - expected(task)) <= FIT * abs(expected(task)) for task, value in wrong.items())

    first = next(iter(wrong.values()), 1.0)
    if all(abs(value) <= FIT for value in wrong.values()):
        return LossFault(
            "detached", "r = 0: no gradient reaches the logits; a detach, or a mask that drops every label"
        )
    if all_are(lambda _: -1.0):
        return LossFault("sign_flip", "r = −1: the loss has the wrong sign; it is maximised")
    if all_are(lambda task: counts[task]):
        return LossFault("sum_reduction", f"r = {first:g}, the number of labels: the loss is summed and not averaged")
    if rows > 1 and all_are(lambda _: rows):
        return LossFault("sum_reduction", f"r = {first:g}, the rows of the batch: the loss is summed and not averaged")
    if all(counts[task] > 1 for task in wrong) and all_are(lambda task: 1 / counts[task]):
        return LossFault(
            "divided_twice", f"r = {first:.4g}, 1 / the number of labels: the loss is divided by it a second time"
        )
    if all_are(lambda task: counts[task] / rows):
        return LossFault("mean_over_rows", "the loss is divided by all rows of the batch, and not by the known labels")
    if all_are(lambda task: loss_weights[task]):
        return LossFault("task_weight_twice", "r is the task's loss weight: it is applied twice")
    if all_are(lambda task: 1 / loss_weights[task]):
        return LossFault("task_weight_missing", "r is 1 / the task's loss weight: it is not applied")
    whole = round(first)
    if all_are(lambda _: first) and whole >= 256 and whole & (whole - 1) == 0 and all_are(lambda _: whole):
        return LossFault("loss_scale", f"r = {whole}, a power of two: a loss scale is applied and not removed")
    if all_are(lambda _: first) and whole >= 2 and abs(first - whole) <= FIT * whole:
        return LossFault(
            "accumulation",
            f"r = {whole}: the loss counts {whole} times, as of steps that are accumulated and not divided",
        )
    if all_are(lambda _: first):
        return LossFault("scaled", f"r = {first:.4g} for every label: the loss is multiplied by a constant")
    listed = ", ".join(f"{value:.4g}" for value in wrong.values())
    return LossFault("scaled_by_task", f"r is another constant for each task ({listed}): check what each is divided by")


def _by_weight(compared: ComparedLabels) -> LossFault | None:
    ratio, weights = compared.ratio, compared.weights
    if _constant(weights) is not None:
        return None
    if (factor := _constant(ratio / weights)) is not None:
        return LossFault("weights_twice", f"r = {factor:.3g} · weight: the weights of the labels are applied twice")
    if (factor := _constant(ratio * weights)) is not None:
        return LossFault("weights_missing", f"r = {factor:.3g} / weight: the weights of the labels are not applied")
    # Clipped inverse propensities are equal at the limit; where others are used, only labels there have r > 1.
    at_limit = weights >= weights.max() * (1 - 1e-6)
    inside, beyond = ratio[~at_limit], ratio[at_limit]
    if len(inside) and len(beyond) > 1 and float((inside - 1).abs().max()) <= FIT and float(beyond.min()) >= 1 - FIT:
        return LossFault(
            "weights_unclipped",
            f"r rises to {float(beyond.max()):.3g} for labels whose weight is at the limit {float(weights.max()):.3g}, and "
            "is 1 for all others: weights are used without their limit",
        )
    related = torch.corrcoef(torch.stack([ratio, weights]))[0, 1]
    if bool(related > 0.99):
        return LossFault(
            "weights_other", f"r follows the weight (correlation {float(related):.3f}): other weights are used"
        )
    return None


def _by_logit(compared: ComparedLabels) -> LossFault | None:
    """Formulas that another loss would have, fitted without free numbers but a scale."""
    z, y = compared.logits, compared.labels.double()
    p = torch.sigmoid(z)
    plain = p - y
    doubled = (torch.sigmoid(p) - y) * p * (1 - p)
    if _constant(compared.ratio * plain / doubled) is not None:
        return LossFault(
            "double_sigmoid", "r depends on z as if of σ(σ(z)): the loss applies a sigmoid to probabilities"
        )
    if _constant(compared.ratio * plain / (plain * p * (1 - p))) is not None:
        return LossFault("squared_error", "r = σ(z)(1 − σ(z)): the loss is a squared error of probabilities")
    flat = compared.ratio.abs() <= FIT
    rest = compared.ratio[~flat]
    if bool(flat.any()) and len(rest) and float((rest - 1).abs().max()) <= FIT:
        if float(z[flat].abs().min()) >= float(z[~flat].abs().max()):
            limit = float(z[flat].abs().min())
            return LossFault("clamped", f"r = 0 for |z| ≥ {limit:.3g}: the logits or probabilities are clamped")
        return LossFault(
            "labels_dropped", f"r = 0 for {int(flat.sum())} of {len(flat)} known labels: the mask drops them"
        )
    return None


def _by_label(compared: ComparedLabels) -> LossFault | None:
    ratio, positive = compared.ratio, compared.labels == 1
    if bool(positive.any()) and bool((~positive).any()):
        ones, zeros = _constant(ratio[positive]), _constant(ratio[~positive])
        if ones is not None and zeros is not None:
            return LossFault(
                "class_weights", f"r = {ones:.4g} for positive labels and {zeros:.4g} for others: classes are weighted"
            )
    p, y = torch.sigmoid(compared.logits), compared.labels.double()
    exchanged = (p - (1 - y)) / (p - y)
    as_given = (ratio - 1).abs() <= FIT
    flipped = (ratio - exchanged).abs() <= FIT * exchanged.abs().clamp_min(1)
    if bool((as_given | flipped).all()):
        share = float((flipped & ~as_given).double().mean())
        return LossFault(
            "labels_exchanged",
            f"{share:.1%} of the labels that the loss saw are not those of the batch: rows or labels are shifted",
        )
    if abs(float(torch.corrcoef(torch.stack([ratio, compared.logits]))[0, 1])) > 0.5:
        return LossFault("other_formula", "r depends on the logit: the loss is another function than its formula")
    return None
