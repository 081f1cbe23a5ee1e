"""Weights of tasks from the inner products of their gradients, by the library torchjd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.losses.registry import LossError


class GradientWeighting:
    """Weights w under which a step along Σ_t w_t g_t does what an aggregator does to the tasks' gradients g_t.

    Each of the aggregators combines the rows of the Jacobian J [T, P] with weights that follow from its Gramian J Jᵀ alone
    (Quinton & Rey, 2024). So the gradients on the dense weights that tasks share decide, and one backward pass with the
    weighted loss brings them to all parameters, embedding tables included. Gradients that do not conflict have weights of 1
    with PCGrad and UPGrad.

    Args:
        aggregator: Its name in the spec.

    Raises:
        LossError: torchjd is not installed.
    """

    def __init__(self, aggregator: str) -> None:
        try:
            from torchjd import aggregation
        except ImportError as error:
            raise LossError(
                "`training.balance` of kind gradient needs the library torchjd: pip install 'ctr-pipeline[balance]'"
            ) from error
        kinds: dict[str, Any] = {
            "pcgrad": aggregation.PCGradWeighting,
            "upgrad": aggregation.UPGradWeighting,
            "mgda": aggregation.MGDAWeighting,
            "imtl_g": aggregation.IMTLGWeighting,
        }
        self._weighting = kinds[aggregator]()
        # PCGrad adds the tasks' gradients up; the others take a mean of them.
        self._is_sum = aggregator == "pcgrad"

    def __call__(self, losses: Tensor, shared: Sequence[nn.Parameter]) -> Tensor:
        """[T] weights for [T] losses; 1 for each where the gradients are not finite or the tasks share nothing.

        The graph is kept.
        """
        ones = torch.ones(len(losses), device=losses.device)
        if not shared or not losses.requires_grad:
            return ones
        rows = []
        for loss in losses.unbind():
            gradients = torch.autograd.grad(loss, list(shared), retain_graph=True, allow_unused=True)
            known = [torch.zeros_like(p) if g is None else g for p, g in zip(shared, gradients, strict=True)]
            rows.append(torch.cat([gradient.flatten().float() for gradient in known]))
        jacobian = torch.stack(rows)
        gramian = (jacobian @ jacobian.T).double()
        size = gramian.diagonal().sum()
        if not bool(torch.isfinite(gramian).all()) or not bool(size > 0):
            return ones
        # The weights do not depend on the size of the gradients; but UPGrad takes those below 0.01 together for zeros.
        weights = self._weighting(gramian / size).to(ones)
        weights = weights if self._is_sum else weights * len(losses)
        return weights if bool(torch.isfinite(weights).all()) else ones
