"""Faults of the loss, of gradients, of clipping and of precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.drills.fault import DrilledTraining, Fault, register_fault
from ctr_pipeline.gradients.drills.row_faults import spread_weights


def _of_loss(change: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]) -> Callable[..., None]:
    """Replaces the sums of the tasks' losses."""

    def inject(training: DrilledTraining, _: np.random.Generator) -> None:
        training.objectives.task_sums = change(training.objectives.task_sums)

    return inject


def _logarithms(_: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def sums(z: Tensor, y: Tensor, w: Tensor, *__: Any) -> Tensor:
        p, known = torch.sigmoid(z), y >= 0
        each = -torch.where(y == 1, torch.log(p), torch.log(1 - p)) * w
        return torch.where(known, each, 0.0).sum(dim=0)

    return sums


def _means(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Each task's mean is taken over the rows of its mask, of which there may be none, and multiplied by their number."""

    def sums(z: Tensor, y: Tensor, w: Tensor, *rest: Any) -> Tensor:
        found = []
        for task in range(z.shape[1]):
            of_task = [torch.full_like(y, -1), y[:, task : task + 1]]
            known = y[:, task] >= 0
            labels = torch.where(torch.arange(y.shape[1]) == task, of_task[1], of_task[0])
            total = inner(z, labels, w, *rest)[task]
            found.append(total / known.sum() * known.sum())
        return torch.stack(found)

    return sums


def _several_parts(training: DrilledTraining, rng: np.random.Generator) -> None:
    inner, parts = training.objectives.task_sums, int(rng.choice([2, 3, 4, 8]))
    training.objectives.task_sums = lambda z, *rest: inner(z, *rest) * parts


def _before_update(change: Callable[[list[nn.Parameter], float], None]) -> Callable[..., None]:
    """Changes the gradients that the optimizers are about to follow, given a number from 0 to 1 that the seed decides."""

    def inject(training: DrilledTraining, rng: np.random.Generator) -> None:
        parameters, drawn = [p for _, p in training.model.named_parameters()], float(rng.random())
        training.optimizers[0].register_step_pre_hook(
            lambda *__: change([p for p in parameters if p.grad is not None and not p.grad.is_sparse], drawn)
        )

    return inject


def _clip_each(parameters: list[nn.Parameter], drawn: float) -> None:
    for parameter in parameters:
        nn.utils.clip_grad_norm_([parameter], 0.003 + 0.01 * drawn)


def _enlarge(parameters: list[nn.Parameter], drawn: float) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.mul_(2.0 ** (8 + int(9 * drawn)))


def _never_cleared(training: DrilledTraining, _: np.random.Generator) -> None:
    training.optimizers[0].zero_grad = lambda **__: None  # type: ignore[method-assign]


def _halve(parameters: list[nn.Parameter], drawn: float) -> None:
    """What a backward pass in fp16 without a scaled loss leaves: gradients below some 10⁻⁴ become 0, as after a mean over a
    batch of thousands of times the size.
    """
    size = 10.0 ** (3.7 + 0.6 * drawn)
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_((parameter.grad / size).half().float() * size)


for _fault in (
    Fault(name="loss_sum", family="reduction", symptom="the gradient norm is that of a batch, not of a row; clipping always acts",
          cause="the loss is summed over the batch in place of the mean", fix="divide the sum by the number of known labels",
          inject=_of_loss(lambda inner: lambda z, *rest: inner(z, *rest) * len(z))),
    Fault(name="accum_nodiv", family="reduction", symptom="the loss looks as ever and steps are several times as large",
          cause="gradients of several parts are added and not divided", fix="divide the loss of each part by the number of parts",
          inject=_several_parts),
    Fault(name="double_sigmoid", family="link", symptom="the loss stays near that of a constant; predictions lie in a narrow band",
          cause="the loss is given probabilities and applies a sigmoid again", fix="give the loss logits",
          inject=_of_loss(lambda inner: lambda z, *rest: inner(torch.sigmoid(z), *rest))),
    Fault(name="log0", family="link", symptom="the loss is infinite once a prediction saturates",
          cause="the loss takes log(sigmoid(z)) and log(1 - sigmoid(z))", fix="use binary_cross_entropy_with_logits",
          inject=_of_loss(_logarithms)),
    Fault(name="sign_flip", family="sign", symptom="the loss falls below zero and the AUC below one half",
          cause="the sign of the loss is reversed", fix="minimise the loss, not its negative",
          inject=_of_loss(lambda inner: lambda z, *rest: -inner(z, *rest))),
    Fault(name="weights_twice", family="weighting", symptom="a few rows decide the gradient",
          cause="the weight of a label is applied twice", fix="apply weights in one place", named=("weights_misapplied",),
          rows=spread_weights, inject=_of_loss(lambda inner: lambda z, y, w, *rest: inner(z, y, w * w, *rest))),
    Fault(name="unknown_as_zero", family="mask", symptom="later tasks of the funnel predict too little",
          cause="labels that are not known are learnt as 0", fix="mask labels below 0 with torch.where",
          inject=_of_loss(lambda inner: lambda z, y, w, *rest: inner(z, y.clamp_min(0), w, *rest))),
    Fault(name="mask_empty", family="mask", symptom="the loss is NaN at the first batch without a known label of some task",
          cause="the mean of a task is taken over an empty mask", fix="divide the sum by count.clamp_min(1)",
          inject=_of_loss(_means)),
    Fault(name="task_weight_huge", family="tasks", symptom="only one task is learnt, and clipping always acts",
          cause="the loss weight of a task is thousands of times that of the others", fix="bring the loss weights together",
          task_weights={"cart": 10_000.0}, located=("cart",)),
    Fault(name="batch_mixing", family="batch", symptom="validation is worse than training from the first epoch",
          cause="hidden units are centred over the batch", fix="normalise over the units of a row",
          inject=lambda training, _: _mix(training)),
    Fault(name="clip_per_param", family="clipping", symptom="nothing: the loss falls, more slowly",
          cause="each tensor is clipped by its own norm", fix="clip all tensors by their common norm",
          inject=_before_update(_clip_each)),
    Fault(name="amp_no_unscale", family="precision", symptom="nothing under an adaptive optimizer; clipping always acts",
          cause="gradients are not divided by the loss scale", fix="call scaler.unscale_ before clipping",
          inject=_before_update(_enlarge)),
    Fault(name="amp_no_scaling", family="precision", symptom="a share of the gradients is exactly 0",
          cause="backward runs in fp16 without a scaled loss", fix="scale the loss (GradScaler), or use bf16",
          inject=_before_update(_halve)),
    Fault(name="missing_zero_grad", family="accumulation", symptom="the gradient norm grows with the steps",
          cause="gradients of earlier steps are never cleared", fix="call zero_grad of every optimizer in each step",
          inject=_never_cleared),
):  # fmt: skip
    register_fault(_fault)


def _mix(training: DrilledTraining) -> None:
    training.model.tower.register_forward_hook(lambda _, __, hidden: hidden - hidden.mean(dim=0))
