"""Updates of the first steps are small against the weights, at the learning rate that the training will reach."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.kept_state import kept_state
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "update_ratio"
LIMIT = 3.0
"""Largest root mean square of an update, in those of the weights: a sound one is some hundredths, and three times the
usual learning rates some tenths."""

SMALLEST_EMBEDDING = 0.2
"""Embeddings that were read count as at least this large (root mean square): they start near 0, and an adaptive optimizer
moves a row by its whole learning rate when it meets it for the first time."""


def check_update_size(setup: TrainingSetup, *, steps: int = 3) -> Outcome:
    """The first updates move each weight matrix by less than :data:`LIMIT` times its size.

    Args:
        setup: What is tested, at the learning rates that its optimizers have.
        steps: Steps on the setup's batch.
    """
    if not setup.optimizers:
        return Outcome(name=NAME, verdict="not_measured", message="the setup has no optimizers")
    tables = {id(m.weight) for m in setup.model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    ratios: dict[str, float] = {}
    with kept_state(setup):
        for _ in range(steps):
            before = {name: p.detach().clone() for name, p in setup.model.named_parameters() if p.ndim > 1}
            setup.take_step()
            for name, parameter in setup.model.named_parameters():
                if name in before:
                    ratio = update_ratio(before[name], parameter.detach(), id(parameter) in tables)
                    ratios[name] = max(ratios.get(name, 0.0), ratio)
    return update_ratio_outcome(ratios)


def update_ratio(before: Tensor, after: Tensor, is_table: bool) -> float:
    """Root mean square of an update relative to that of the weights.

    Args:
        before: [rows, width] a weight matrix, or rows of an embedding table.
        after: The same after the update.
        is_table: Whether it is a table: of one only the rows that moved count.
    """
    if before.ndim < 2 or not before.numel():
        return 0.0
    moved = (after - before).double()
    weights = before.double()
    if is_table:
        touched = (moved != 0).flatten(1).any(dim=1)
        moved, weights, smallest = moved[touched], weights[touched], SMALLEST_EMBEDDING
    else:
        # Weights that begin near 0, as those of a head, count as those of a layer of this width.
        smallest = before[0].numel() ** -0.5
    if not moved.numel():
        return 0.0
    size = max(float(weights.square().mean().sqrt()), smallest)
    return float(moved.square().mean().sqrt()) / size


def update_ratio_outcome(ratios: Mapping[str, float]) -> Outcome:
    """The contract from the largest ratio of each weight matrix, at the peak of the learning rate."""
    if not ratios:
        return Outcome(name=NAME, verdict="not_measured", message="no weight matrix was updated")
    where = max(ratios, key=lambda name: ratios[name] if ratios[name] == ratios[name] else inf)
    worst = ratios[where]
    if not worst <= LIMIT:
        message = (
            f"at the peak of the learning rate one update moves {where} by {worst:.3g} times its own size (at most {LIMIT:g} "
            "expected): nothing that is learnt stays; lower the learning rate"
        )
        return Outcome(name=NAME, verdict="failed", message=message, measured=worst, limit=LIMIT, where=where)
    message = f"updates move weights by {worst:.2g} of their size at most, at the peak of the learning rate"
    return Outcome(name=NAME, verdict="passed", message=message, measured=worst, limit=LIMIT, where=where)


def peak_factors(optimizers: list[torch.optim.Optimizer], peaks: list[float]) -> dict[int, float]:
    """By the id of each parameter, how many times its present learning rate the peak is; absent where the rate is 0."""
    return {
        id(parameter): peak / float(group["lr"])
        for optimizer, peak in zip(optimizers, peaks, strict=True)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if float(group["lr"]) > 0
    }
