"""Contracts of a loss: its gradient at the logits, its range, and labels that are not known."""

from collections.abc import Callable

import torch
from torch import Tensor

from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.gradients.core.loss_faults import FIT, name_loss_fault
from ctr_pipeline.gradients.core.loss_gradient_check import SMALLEST, ComparedLabels

FAR = (30.0, 60.0)
"""Logits up to which a loss must be finite."""


def check_logit_gradient(
    setup: TrainingSetup,
    *,
    expected: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    limit: float = FIT,
) -> Outcome:
    """The gradient at each logit is w · (σ(z) − y) / n, n the number of known labels of its task.

    Args:
        setup: What is tested; its ``labels`` are needed, its ``weights`` where the loss has any.
        expected: Another gradient of each label's term, from logits, labels and weights [B, T], before it is divided by n.
        limit: Largest difference of the ratio of both from 1.
    """
    name = "logit_gradient"
    if setup.labels is None:
        return Outcome(name=name, verdict="not_measured", message="the setup has no `labels`: say how to read them")
    labels = setup.labels(setup.batch)
    shape = labels.shape
    generator = torch.Generator().manual_seed(0)
    # Spread out: near 0, where an untrained model is, a second sigmoid looks like a factor.
    logits = (2 * torch.randn(shape, generator=generator)).to(labels.device).requires_grad_()
    weights = torch.ones(shape, device=labels.device) if setup.weights is None else setup.weights(setup.batch)
    (gradient,) = torch.autograd.grad(setup.loss(logits, setup.batch), logits)
    z, y, w, g = (_columns(values.detach().double()) for values in (logits, labels, weights, gradient))
    known = y >= 0
    each = (torch.sigmoid(z) - y) * w if expected is None else expected(z, y, w)
    worst = Outcome(name=name, verdict="not_measured", message="no label of the batch is known")
    for task in range(z.shape[1]):
        rows = known[:, task] & (each[:, task].abs() > SMALLEST * w[:, task]) & (w[:, task] > 0)
        count = float(known[:, task].sum())
        if not bool(rows.any()):
            continue
        ratio = g[rows, task] * count / each[rows, task]
        error = float((ratio - 1).abs().max())
        error = error if error == error else float("inf")
        if worst.measured is not None and error <= worst.measured:
            continue
        found = "it follows the formula"
        if error > limit:
            compared = ComparedLabels(
                ratio=ratio, task=torch.zeros_like(ratio, dtype=torch.long), logits=z[rows, task], labels=y[rows, task],
                weights=w[rows, task], unknown=torch.zeros(()),
            )  # fmt: skip
            fault = name_loss_fault(compared, [int(count)], [1.0], len(z))
            found = f"{fault.name}: {fault.message}"
        worst = Outcome(
            name=name, verdict="failed" if error > limit else "passed", measured=error, limit=limit, where=f"task {task}",
            message=f"the gradient at the logits of task {task} differs from w · (σ(z) − y) / n by {error:.3g} of it "
            f"(limit {limit:g}): {found}",
        )  # fmt: skip
    return worst


def check_loss_range(setup: TrainingSetup, *, far: tuple[float, ...] = FAR) -> Outcome:
    """The loss and its gradient are finite at logits far from 0, and a prediction that is wrong there is still corrected."""
    name = "loss_range"
    if setup.labels is None:
        return Outcome(name=name, verdict="not_measured", message="the setup has no `labels`: say how to read them")
    labels = setup.labels(setup.batch)
    known = labels >= 0
    for size in far:
        for value in (size, -size):
            logits = torch.full(labels.shape, value, device=labels.device, requires_grad=True)
            loss = setup.loss(logits, setup.batch)
            (gradient,) = torch.autograd.grad(loss, logits)
            wrong = known & ((labels == 0) if value > 0 else (labels == 1))
            problem = ""
            if not bool(torch.isfinite(loss)):
                problem = f"the loss is {loss.item()}"
            elif not bool(torch.isfinite(gradient).all()):
                problem = "its gradient is not finite"
            elif bool((gradient[wrong] == 0).all()) and bool(wrong.any()):
                problem = "its gradient is 0 where the prediction is wrong"
            if problem:
                message = (
                    f"at logits of {value:g} {problem}: compute the loss from logits "
                    "(binary_cross_entropy_with_logits, softplus or logsigmoid), not from probabilities"
                )
                return Outcome(name=name, verdict="failed", message=message, measured=value, limit=max(far))
    message = f"loss and gradient are finite for logits up to {max(far):g}"
    return Outcome(name=name, verdict="passed", message=message, measured=max(far), limit=max(far))


def check_empty_mask(setup: TrainingSetup, *, task: int = 0) -> Outcome:
    """A task without a known label in the batch contributes exactly 0, to the loss and to each gradient.

    Args:
        setup: What is tested; its ``without_labels`` is needed.
        task: Column of the task.
    """
    name, where = "empty_mask", f"task {task}"
    if setup.without_labels is None:
        message = "the setup has no `without_labels`: say how to remove a task's labels from a batch"
        return Outcome(name=name, verdict="not_measured", message=message)
    batch = setup.without_labels(setup.batch, task)
    with torch.no_grad():
        start = setup.forward(setup.model, batch).detach()
    logits = start.clone().requires_grad_()
    loss = setup.loss(logits, batch)
    if not bool(torch.isfinite(loss)):
        return _empty(name, where, float("inf"), f"the loss is {loss.item()}")
    (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True)
    gradient = torch.zeros_like(logits) if gradient is None else gradient
    if not bool(torch.isfinite(gradient).all()):
        return _empty(name, where, float("inf"), "a gradient is not finite")
    own = float(_columns(gradient)[:, task].abs().max())
    moved = start.clone()
    _columns(moved)[:, task] += 1.0
    with torch.no_grad():
        change = abs(float(setup.loss(moved, batch)) - loss.item())
    if own or change:
        return _empty(name, where, max(own, change), "labels that are not known still count")
    message = f"{where} contributes 0 where no label is known"
    return Outcome(name=name, verdict="passed", message=message, measured=0.0, limit=0.0, where=where)


def _empty(name: str, where: str, measured: float, found: str) -> Outcome:
    message = (
        f"without a known label of {where}, {found}: mask with torch.where and divide the sum by "
        "count.clamp_min(1), not by the mean of what is left"
    )
    return Outcome(name=name, verdict="failed", message=message, measured=measured, limit=0.0, where=where)


def _columns(values: Tensor) -> Tensor:
    """[B, T] view of [B] or [B, T]."""
    return values.reshape(values.shape[0], -1)
