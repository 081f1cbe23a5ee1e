"""Gradient norms, per tensor and in all, in one pass that clipping shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class GradientNorms:
    """Euclidean norms of a step's gradients.

    Attributes:
        names: Names of the parameters that have a gradient.
        values: Their gradients as dense tensors; of a sparse gradient, the values of the touched rows. They share
            memory with ``parameter.grad``.
        each: [len(names)] norm of each gradient.
        total: [] norm of all of them together.
    """

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    each: Tensor
    total: Tensor


def gradient_norms(named: Sequence[tuple[str, torch.nn.Parameter]]) -> GradientNorms:
    """Norms of the gradients of ``named`` parameters; nothing is copied to the host.

    Sparse gradients are coalesced first (and stay so in ``parameter.grad``): the norm of uncoalesced values would
    count a row's parts separately instead of their sum.
    """
    names: list[str] = []
    values: list[Tensor] = []
    for name, parameter in named:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad._values())
        else:
            values.append(parameter.grad)
        names.append(name)
    if not values:
        nothing = torch.zeros(0)
        return GradientNorms((), (), nothing, nothing.sum())
    each = torch.stack(torch._foreach_norm(values))
    return GradientNorms(tuple(names), tuple(values), each, torch.linalg.vector_norm(each))


def clip_gradients(norms: GradientNorms, total: float, limit: float) -> bool:
    """Scale all gradients in place so that their joint norm is at most ``limit``; the direction stays.

    Same rule as ``torch.nn.utils.clip_grads_with_norm_``, which does not take sparse gradients.

    Args:
        norms: The gradients and their norms.
        total: ``norms.total`` on the host; finite.
        limit: Largest allowed norm.

    Returns:
        Whether the gradients were scaled.
    """
    if total <= limit:
        return False
    torch._foreach_mul_(list(norms.values), limit / (total + 1e-6))
    return True
