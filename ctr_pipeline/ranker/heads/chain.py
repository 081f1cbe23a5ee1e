"""From one score a task to entire-space logits along the funnel."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
    logits: list[Tensor] = []
    # Tasks as rows: the exported graph takes rows apart and puts them together in fewer operations than columns, and of a request
    # of one candidate each operation takes a microsecond.
    for own, parent in zip(torch.split(conditional.T, 1), parents, strict=True):
        if parent < 0:
            logits.append(own)
            continue
        base = logits[parent].detach() if stopped and stopped[len(logits)] else logits[parent]
        logits.append(product_logits(base, own))
    return torch.cat(logits).T.contiguous()


def product_logits(first: Tensor, second: Tensor) -> Tensor:
    """The logit of the product of two probabilities, from their logits (of one shape).

    With the logits z and c, 1/P = (1 + e^-z)(1 + e^-c), so the odds against are e^-z + e^-c + e^-(z+c). Their
    log-sum-exp needs neither log(1 - P) nor a small difference, is finite for all finite inputs, and its gradients are
    soft-max weights in [0, 1].
    """
    against = -first
    terms = torch.cat([against, -second, against - second]).reshape(3, *first.shape)
    if torch.compiler.is_exporting():
        # One operation, and the same.
        return -torch.logsumexp(terms, dim=0)
    largest = terms.detach().amax(dim=0)
    return -(largest + torch.log(torch.exp(terms - largest).sum(dim=0)))
