"""No task's weight silences the others."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "task_balance"
LIMIT = 50.0
"""Largest ratio of the tasks' gradients on what they share."""
LEAST_WEIGHT = 20.0
"""Ratio of two loss weights from which it is they, and not the labels, that unbalance the tasks."""


def shared_gradients(losses: Sequence[Tensor], shared: Sequence[nn.Parameter]) -> list[float]:
    """Norm of each task's gradient on the ``shared`` parameters; the graph is kept.

    Args:
        losses: [T] scalars, each task's mean loss without its weight.
        shared: Dense parameters that several tasks read.
    """
    found = []
    for loss in losses:
        if not loss.requires_grad:
            found.append(0.0)
            continue
        gradients = torch.autograd.grad(loss, list(shared), retain_graph=True, allow_unused=True)
        known = [gradient.double().norm() for gradient in gradients if gradient is not None]
        found.append(float(torch.stack(known).norm()) if known else 0.0)
    return found


def balance_outcome(norms: Mapping[str, float], weights: Mapping[str, float]) -> Outcome:
    """The gradient of no task is more than :data:`LIMIT` times another's because of their loss weights.

    A rare outcome has a small gradient, and a weight that makes up for it is sound; so is a rare outcome without one.

    Args:
        norms: By task, the norm of its gradient on the shared parameters, without its loss weight; 0 where it has no label.
        weights: By task, its loss weight; 0 where it is not learnt.
    """
    learnt = [task for task in norms if norms[task] > 0 and weights[task] > 0]
    if len(learnt) < 2:
        return Outcome(name=NAME, verdict="not_measured", message="fewer than two tasks have a gradient here")
    worst, pair = 0.0, ("", "")
    for strong in learnt:
        for weak in learnt:
            ratio = weights[strong] * norms[strong] / (weights[weak] * norms[weak])
            if weights[strong] / weights[weak] >= LEAST_WEIGHT and ratio > worst:
                worst, pair = ratio, (strong, weak)
    if worst > LIMIT:
        strong, weak = pair
        message = (
            f"the gradient of task {strong} on the shared layers is {worst:.3g} times that of {weak} (at most {LIMIT:g} "
            f"expected), with loss weights of {weights[strong]:g} and {weights[weak]:g}: {weak} is not learnt; bring the "
            "weights together"
        )
        return Outcome(name=NAME, verdict="failed", message=message, measured=worst, limit=LIMIT, where=strong)
    return Outcome(
        name=NAME, verdict="passed", message="no loss weight silences another task", measured=worst, limit=LIMIT
    )
