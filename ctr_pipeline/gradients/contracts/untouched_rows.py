"""Rows of embedding tables that a batch does not read stay where they are."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ctr_pipeline.gradients.contracts.kept_state import kept_state
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.table_lookups import Lookup, observed_lookups
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "untouched_rows"
LIMIT = 0.3
"""Largest move of a value in learning rates: decoupled decay moves by far less, a penalty inside Adam by a whole one."""


def check_untouched_rows(setup: TrainingSetup, *, limit: float = LIMIT, steps: int = 1) -> Outcome:
    """After a step, rows that the batch did not read have moved by less than ``limit`` learning rates.

    Args:
        setup: What is tested; tables are those that are read by ``functional.embedding``.
        limit: Largest move, in learning rates of the table's optimizer; 0 for optimizers that touch the batch's rows only.
        steps: Steps on the same batch.
    """
    with kept_state(setup):
        before = {name: p.detach().clone() for name, p in setup.model.named_parameters() if p.ndim == 2}
        with observed_lookups(setup.model) as lookups:
            for _ in range(steps):
                setup.take_step()
        after = {name: p.detach() for name, p in setup.model.named_parameters() if p.ndim == 2}
        rates = learning_rates(setup.model.named_parameters(), setup.optimizers)
        return moved_outcome(lookups, before, after, rates, limit * steps)


def learning_rates(
    named: Iterable[tuple[str, torch.nn.Parameter]], optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, float]:
    """Learning rate of each parameter by name; absent for one that no optimizer holds."""
    names = {id(parameter): name for name, parameter in named}
    return {
        names[id(parameter)]: float(group["lr"])
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) in names
    }


def moved_outcome(
    lookups: Sequence[Lookup],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    rates: Mapping[str, float],
    limit: float,
) -> Outcome:
    """The contract from the lookups of a step and the tables before and after it."""
    read: dict[str, list[Tensor]] = {}
    for lookup in lookups:
        if lookup.name in before:
            read.setdefault(lookup.name, []).append(lookup.rows.flatten())
    if not read:
        return Outcome(name=NAME, verdict="not_measured", message="no embedding table was read")
    worst, where, row = 0.0, next(iter(read)), -1
    for name, rows in read.items():
        untouched = torch.ones(len(before[name]), dtype=torch.bool, device=before[name].device)
        untouched[torch.cat(rows).long()] = False
        moved = torch.where(untouched.unsqueeze(1), (after[name] - before[name]).abs(), 0.0).amax(dim=1)
        moved = moved / (rates.get(name) or 1.0)
        if float(moved.max()) > worst:
            worst, where, row = float(moved.max()), name, int(moved.argmax())
    if worst > limit:
        message = (
            f"row {row} of table {where} is not in the batch, and one step moved it by {worst:.3g} learning rates (limit "
            f"{limit:g}): a penalty inside the optimizer (weight_decay of Adam) or a regularisation of the whole table; use "
            "a sparse optimizer, decoupled decay, or regularise the rows of the batch"
        )
        return Outcome(name=NAME, verdict="failed", message=message, measured=worst, limit=limit, where=where)
    message = f"rows that the batch does not read moved by {worst:.2g} learning rates at most"
    return Outcome(name=NAME, verdict="passed", message=message, measured=worst, limit=limit, where=where)
