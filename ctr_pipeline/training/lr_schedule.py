"""The learning rate at each step: linear warm-up, then half a cosine."""

import math

import torch


def learning_rate_factor(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the peak learning rate at ``step`` (from 0) of ``steps``: linear warm-up, then half a cosine to 0.

    A pure function of the position, so that a resumed run needs no scheduler state.
    """
    warmup = math.ceil(warmup_fraction * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the learning rate ``value``."""
    for group in optimizer.param_groups:
        group["lr"] = value
