"""Settings of optimizers under which they can learn: averages, epsilon, decay."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

SETTINGS, EPSILON, DECAY = "optimizer_settings", "optimizer_epsilon", "decay_strength"

LARGEST_MOMENTUM = 0.98
"""A momentum above it averages over more than fifty steps, and multiplies the learning rate of SGD by as much; a warning."""

LARGEST_EPSILON = 10.0
"""Largest epsilon, in root mean squares of the gradient: above it each coordinate moves by less than a tenth of the learning
rate, by as much less as its gradient is small, and the optimizer is SGD with a rate that nobody chose."""

LARGEST_DECAY = 1.0
"""Largest shrinkage of a weight matrix in one step (root mean square), in the largest update that the optimizer makes of the loss:
one learning rate a coordinate under Adam and its kin. Above it weights go to 0 whatever the gradient says."""

LARGEST_PENALTY = 10.0
"""Largest gradient of a penalty, in that of the loss, of an optimizer that adds the two."""


def check_optimizer_settings(setup: TrainingSetup) -> Outcome:
    """The averages of the setup's optimizers can follow its gradients; see :func:`settings_outcome`."""
    if not setup.optimizers:
        return Outcome(name=SETTINGS, verdict="not_measured", message="the setup has no optimizers")
    return settings_outcome(setup.optimizers)


def settings_outcome(optimizers: Sequence[torch.optim.Optimizer]) -> Outcome:
    """Adam's averages satisfy β₁² < √β₂, the condition of its convergence (Kingma and Ba, ICLR 2015, theorem 4.1).

    With exchanged betas the step follows old gradients and divides them by the newest one. Betas outside [0, 1) are an error
    too; a momentum above :data:`LARGEST_MOMENTUM` is a warning.
    """
    slow = ""
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        for group in optimizer.param_groups:
            betas = group.get("betas", ())
            # Of optimizers with other averages than these two nothing is known.
            first, second = betas if len(betas) == 2 else (0.0, 0.999)
            if not (0 <= first < 1 and 0 < second < 1 and first**2 < math.sqrt(second)):
                message = (
                    f"the betas of {kind} are {first:g} and {second:g}: with β₁² ≥ √β₂ its steps follow old gradients and are "
                    "divided by new ones (exchanged?); use .9 and .999"
                )
                return Outcome(
                    name=SETTINGS, verdict="failed", message=message, measured=float(first) ** 2, limit=float(second) ** 0.5,
                    where=kind,
                )  # fmt: skip
            momentum = max(float(group.get("momentum") or 0.0), float(first))
            if momentum > LARGEST_MOMENTUM:
                slow = f"{kind} averages gradients with a momentum of {momentum:g} (at most {LARGEST_MOMENTUM:g} usual)"
    if slow:
        return Outcome(
            name=SETTINGS, verdict="failed", message=f"{slow}: lower it, or the learning rate", hard=False,
            limit=LARGEST_MOMENTUM, where=slow.split()[0],
        )  # fmt: skip
    return Outcome(name=SETTINGS, verdict="passed", message="averages of the optimizers can follow the gradients")


def epsilon_outcome(optimizers: Sequence[torch.optim.Optimizer]) -> Outcome:
    """The epsilon of each optimizer is small beside the gradients whose squares it has averaged.

    To be asked after some updates. It knows the states of torch's Adam, AdamW, NAdam, RAdam, Adagrad and RMSprop.
    """
    worst, where, numbers, seen = 0.0, "", "", False
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            epsilon = group.get("eps")
            sizes = [size for p in group["params"] if (size := _gradient_size(optimizer.state.get(p, {}), group)) > 0]
            if epsilon is None or not sizes:
                continue
            seen = True
            # Of the tensors the one with the largest gradients: small ones may well be below epsilon.
            size = max(sizes)
            if float(epsilon) / size > worst:
                worst, where = float(epsilon) / size, type(optimizer).__name__
                numbers = (
                    f"{float(epsilon):g}, and the largest gradients of its tensors are {size:.3g} (root mean square)"
                )
    if not seen:
        return Outcome(name=EPSILON, verdict="not_measured", message="no optimizer with an epsilon has a known state")
    if worst > LARGEST_EPSILON:
        message = (
            f"the epsilon of {where} is {numbers} (at most {LARGEST_EPSILON:g} times that expected): weights hardly move; "
            "use 1e-8"
        )
        return Outcome(
            name=EPSILON, verdict="failed", message=message, measured=worst, limit=LARGEST_EPSILON, where=where
        )
    message = "epsilons are small beside the gradients"
    return Outcome(name=EPSILON, verdict="passed", message=message, measured=worst, limit=LARGEST_EPSILON)


def _gradient_size(state: dict[str, Any], group: dict[str, Any]) -> float:
    """Root mean square of the gradient by the optimizer's own average of squares; 0 where it has none."""
    if "exp_avg_sq" in state:
        steps = float(state.get("step", 1))
        correction = 1 - float(group["betas"][1]) ** max(steps, 1.0)
        return _root_mean(state["exp_avg_sq"]) / math.sqrt(max(correction, 1e-12))
    if "square_avg" in state:
        return _root_mean(state["square_avg"]) / math.sqrt(max(1 - float(group.get("alpha", 0.99)), 1e-12))
    if "sum" in state:
        return _root_mean(state["sum"])
    return 0.0


def _root_mean(squares: Tensor) -> float:
    return math.sqrt(max(float(squares.double().mean()), 0.0)) if squares.numel() else 0.0


@torch.no_grad()
def decay_outcome(
    optimizers: Sequence[torch.optim.Optimizer], named: Iterable[tuple[str, nn.Parameter]], scale: float = 1.0
) -> Outcome:
    """No decay or penalty is stronger than what the loss can move.

    To be asked between backward and update, with the gradients that the optimizers are about to follow.

    Args:
        optimizers: Those that update.
        named: The parameters by name.
        scale: Factor on the gradients, which is removed.
    """
    names = {id(parameter): name for name, parameter in named}
    worst, where, message = 0.0, "", ""
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        for group in optimizer.param_groups:
            decay, penalty = float(group.get("weight_decay") or 0.0), float(group.get("l2") or 0.0)
            if not decay and not penalty:
                continue
            for parameter in group["params"]:
                if parameter.grad is None or parameter.ndim < 2 or not parameter.numel():
                    continue
                weights, gradient = _read(parameter)
                size, slope = _size(weights), _size(gradient) / scale
                if penalty or kind in ("SGD", "Adam", "Adagrad", "RMSprop"):
                    ratio = (penalty or decay) * size / max(slope, 1e-30) / LARGEST_PENALTY
                    what = f"the gradient of the penalty ({penalty or decay:g}) is {ratio * LARGEST_PENALTY:.3g} times that of the loss"
                else:
                    ratio = decay * size / LARGEST_DECAY
                    what = f"the decay ({decay:g}) shrinks weights by {ratio:.3g} learning rates a step, more than an update of the loss can be"
                if ratio > worst:
                    worst, where = ratio, names.get(id(parameter), kind)
                    message = f"{where}, updated by {kind}: {what}"
    if worst > 1:
        return Outcome(
            name=DECAY, verdict="failed", message=f"{message}; lower it: weights go to 0 whatever the loss says",
            measured=worst, limit=1.0, where=where,
        )  # fmt: skip
    return Outcome(
        name=DECAY, verdict="passed", message="decay and penalties are weaker than the loss", measured=worst, limit=1.0
    )


def _read(parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Weights and gradient; of a sparse gradient the rows that it has."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        rows = gradient.coalesce()
        return parameter.detach().index_select(0, rows.indices()[0]), rows.values()
    return parameter.detach(), gradient


def _size(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0
