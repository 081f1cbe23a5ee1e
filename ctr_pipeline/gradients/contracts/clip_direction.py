"""Clipping shortens the gradient and leaves its direction."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.kept_state import fixed_random, kept_model
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "clip_direction"
LEAST_COSINE = 0.999
ENLARGED = 1e4
"""Factor on the gradients, so that they are limited for sure."""


def check_clip_direction(setup: TrainingSetup, *, max_norm: float | None = None) -> Outcome:
    """The limited gradient, of all parameters as one vector, points where the raw one does.

    Args:
        setup: What is tested; its ``clip`` is needed.
        max_norm: Largest norm that may be left; not looked at by default.
    """
    if setup.clip is None:
        return Outcome(name=NAME, verdict="not_measured", message="the setup has no `clip`")
    with kept_model(setup.model), fixed_random(setup.model):
        setup.model.zero_grad(set_to_none=True)
        setup.loss(setup.forward(setup.model, setup.batch), setup.batch).backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in setup.model.parameters() if p.grad is not None]
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(ENLARGED)
        return compare_clipped(parameters, setup.clip, max_norm)


def compare_clipped(
    parameters: Sequence[nn.Parameter],
    clip: Callable[[Sequence[nn.Parameter]], object],
    max_norm: float | None = None,
) -> Outcome:
    """The contract for gradients that are there; ``clip`` limits them."""
    raw = [gradient_values(parameter).clone() for parameter in parameters]
    clip(parameters)
    clipped = [gradient_values(parameter) for parameter in parameters]
    found, norm = cosine(raw, clipped), float(_norm(clipped))
    if not found >= LEAST_COSINE:
        message = (
            f"the cosine between the gradient before and after clipping is {found:.4f} (at least {LEAST_COSINE} expected): "
            "clip the norm of all parameters together, once (clip_grad_norm_ over model.parameters()), not tensor by tensor "
            "and not value by value"
        )
        return Outcome(name=NAME, verdict="failed", message=message, measured=found, limit=LEAST_COSINE)
    if max_norm is not None and norm > max_norm * 1.001:
        message = f"after clipping the gradient norm is {norm:.4g}, and at most {max_norm:g} is expected"
        return Outcome(name=NAME, verdict="failed", message=message, measured=norm, limit=max_norm)
    message = f"clipping leaves the direction of the gradient (cosine {found:.6f})"
    return Outcome(name=NAME, verdict="passed", message=message, measured=found, limit=LEAST_COSINE)


def gradient_values(parameter: nn.Parameter) -> Tensor:
    """The gradient's values; of a sparse one, those of its rows, added up by row."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        parameter.grad = gradient = gradient.coalesce()
        return gradient._values()
    return gradient


def _norm(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.double().norm() for value in values]).norm() if values else torch.zeros(())


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Cosine of the angle between two lists of tensors, each as one vector; 1 where one of them is 0."""
    product = sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))
    scale = float(_norm(first)) * float(_norm(second))
    return product / scale if scale > 0 else 1.0
