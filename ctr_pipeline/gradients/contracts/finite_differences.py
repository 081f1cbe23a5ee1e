"""Compares the gradients of autograd with finite differences of the loss."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.batch_tensors import in_double
from ctr_pipeline.gradients.contracts.kept_state import fixed_random
from ctr_pipeline.gradients.contracts.kinks import observed_decisions, same_decisions
from ctr_pipeline.gradients.contracts.outcome import Outcome, listed
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup, padding_rows

NAME = "finite_differences"
LIMIT = 1e-6
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""Lengths of the step along a direction. A step across a kink is discarded, and a shorter one then decides."""

SMALL = 1e-3
"""Gradients are compared to no less than this share of the norm of all of them: below it rounding decides."""


def check_finite_differences(
    setup: TrainingSetup, *, limit: float = LIMIT, steps: Sequence[float] = STEPS, seed: int = 0
) -> Outcome:
    """Each tensor's gradient is the slope of the loss, along the gradient itself and along a random direction.

    Runs on a copy of the model in float64, with the random numbers of dropout held fixed. A tensor without a gradient must
    not change the loss: so a part that was detached is found too. A loss that holds a part of itself fixed on purpose (such
    as weights by its own prediction) differs here by design.

    Args:
        setup: What is tested.
        limit: Largest error relative to the tensor's gradient.
        steps: Lengths of the finite steps.
        seed: Of the random directions and of dropout.
    """
    model = copy.deepcopy(setup.model).double()
    batch = in_double(setup.batch)

    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]

    def loss() -> Tensor:
        # Running statistics and their counters would differ from call to call.
        for buffer, content in buffers:
            buffer.detach().copy_(content)
        with fixed_random(model, seed):
            return setup.loss(setup.forward(model, batch), batch)

    model.zero_grad(set_to_none=True)
    value = loss()
    if value.dtype != torch.float64:
        message = (
            f"the loss of a model and a batch in float64 is {value.dtype}: something on the way casts to a lower "
            "precision. Remove the cast, or use the type of its input"
        )
        return Outcome(name=NAME, verdict="not_measured", message=message)
    value.backward()  # type: ignore[no-untyped-call]
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = [_dense_gradient(parameter) for _, parameter in named]
    total = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    padding = padding_rows(model)
    generator = torch.Generator().manual_seed(seed)
    worst, where, at_kinks, compared = 0.0, "", list[str](), set[str]()
    for (name, parameter), gradient in zip(named, gradients, strict=True):
        own = float(gradient.norm())
        random = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
        if name in padding:
            random[padding[name]] = 0.0
        directions = [random / random.norm().clamp_min(1e-300)] + ([gradient / own] if own > SMALL * total else [])
        for direction in directions:
            slope = float((gradient * direction).sum())
            error = _error(parameter, direction, slope, loss, steps, max(own, SMALL * total, 1e-12), limit)
            if error is None:
                at_kinks.append(name)
                continue
            compared.add(name)
            if error > worst:
                worst, where = error, name
    if worst > limit:
        silent = not float(gradients[[name for name, _ in named].index(where)].abs().sum())
        message = (
            f"the gradient of {where} differs from the slope of the loss by {worst:.2g} of it (limit {limit:g}): "
            + (
                "autograd gives none although the loss depends on it; look for detach(), no_grad(), .data or numpy on its way"
                if silent
                else "look for detach(), no_grad(), in-place changes, or a backward of your own on the way from it to the loss"
            )
        )
        return Outcome(name=NAME, verdict="failed", message=message, measured=worst, limit=limit, where=where)
    if len(compared) <= len(named) / 2:
        message = (
            f"{len(compared)} of {len(named)} tensors could be compared: of the others each step crossed a kink; look for "
            "something that is rounded, sorted or counted, or give a smaller batch"
        )
        return Outcome(name=NAME, verdict="not_measured", message=message)
    left_out = f"; at a kink and left out: {listed(sorted(set(at_kinks)))}" if at_kinks else ""
    message = f"the gradients of {len(compared)} tensors are the slopes of the loss to {worst:.2g}{left_out}"
    return Outcome(name=NAME, verdict="passed", message=message, measured=worst, limit=limit, where=where)


def _error(
    parameter: nn.Parameter,
    direction: Tensor,
    slope: float,
    loss: Callable[[], Tensor],
    steps: Sequence[float],
    scale: float,
    limit: float,
) -> float | None:
    """Smallest error over the steps that cross no kink; None when each of them does."""
    best: float | None = None
    start = parameter.detach().clone()

    def at(length: float) -> tuple[float, list[Tensor]]:
        parameter.copy_(start + length * direction)
        with observed_decisions() as decisions:
            value = float(loss())
        return value, decisions

    with torch.no_grad():
        _, here = at(0.0)
        for length in steps:
            (above, right), (below, left) = at(length), at(-length)
            if not (same_decisions(here, right) and same_decisions(here, left)):
                continue
            error = abs((above - below) / (2 * length) - slope) / scale
            best = error if best is None else min(best, error)
            if best <= limit:
                break
        parameter.copy_(start)
    return best


def _dense_gradient(parameter: nn.Parameter) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient.clone()
