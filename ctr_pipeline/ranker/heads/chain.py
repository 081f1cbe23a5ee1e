"""From one score a task to entire-space logits along the funnel."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

_MOST_TERMS = 15
"""Summands of the odds up to which the exported graph has them all in one sum: those of a funnel of four steps."""


def chain_logits(conditional: Tensor, parents: Sequence[int], stopped: Sequence[bool] = ()) -> Tensor:
    """Logits of P(task) on all impressions from logits of P(task | parent): P(task) is the product along the funnel.

    (Entire-space modelling: Ma et al., SIGIR 2018.)

    Args:
        conditional: [B, T] logits of P(task | parent happened).
        parents: Index of each task's parent, -1 for none; a parent stands before its children.
        stopped: [T] whether the task's gradient stops before its parent's logit; empty for none.

    Returns:
        [B, T] logits of P(task).
    """
    if torch.compiler.is_exporting() and (terms := _terms(parents)) is not None:
        return _product_along_paths(conditional, terms)
    logits: list[Tensor] = []
    for task, parent in enumerate(parents):
        own = conditional[:, task]
        if parent < 0:
            logits.append(own)
            continue
        base = logits[parent].detach() if stopped and stopped[task] else logits[parent]
        logits.append(product_logits(base, own))
    return torch.stack(logits, dim=1)


def product_logits(first: Tensor, second: Tensor) -> Tensor:
    """The logit of the product of two probabilities, from their logits (of one shape).

    With the logits z and c, 1/P = (1 + e^-z)(1 + e^-c), so the odds against are e^-z + e^-c + e^-(z+c). Their
    log-sum-exp needs neither log(1 - P) nor a small difference, is finite for all finite inputs, and its gradients are
    soft-max weights in [0, 1].
    """
    terms = torch.stack([-first, -second, -first - second])
    largest = terms.detach().amax(dim=0)
    return -(largest + torch.log(torch.exp(terms - largest).sum(dim=0)))


def path_of(task: int, parents: Sequence[int]) -> tuple[int, ...]:
    """A task and those above it, from the first of the funnel on."""
    parent = parents[task]
    return (*(() if parent < 0 else path_of(parent, parents)), task)


def _terms(parents: Sequence[int]) -> list[list[tuple[int, ...]]] | None:
    """For each task all sets of steps of its path but the empty one; None where they are too many."""
    paths = [path_of(task, parents) for task in range(len(parents))]
    if 2 ** max(map(len, paths)) - 1 > _MOST_TERMS or max(map(len, paths)) == 1:
        return None
    return [[some for size in range(1, len(path) + 1) for some in combinations(path, size)] for path in paths]


def _product_along_paths(conditional: Tensor, terms: Sequence[Sequence[tuple[int, ...]]]) -> Tensor:
    """As :func:`chain_logits`, in a third of the operations, of which each takes a request of one row a microsecond.

    Multiplied out, 1/P is the sum of e^-(sum of z over S) over all sets S of steps: less that of the empty set it is the odds
    against.
    """
    every = sorted({some for of in terms for some in of})
    taken = conditional.new_tensor([[-float(task in some) for task in range(len(terms))] for some in every])
    absent = conditional.new_tensor([[0.0 if some in of else float("-inf") for some in every] for of in terms])
    summands = (conditional.unsqueeze(1) * taken).sum(dim=2).unsqueeze(1) + absent
    largest = summands.amax(dim=2, keepdim=True)
    return -(largest.squeeze(2) + torch.log(torch.exp(summands - largest).sum(dim=2)))
