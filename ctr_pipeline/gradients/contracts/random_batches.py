"""Batches are random samples of the rows: each has about as many positives as all rows have."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "batch_composition"

SURPRISE = 25.0
"""Logarithm of how rare a count must be by chance: e⁻²⁵ is once in 7·10¹⁰ looks."""


class RandomBatches:
    """Compares the positives of the batches so far with the share of all rows.

    Args:
        labels: [N, T] labels of all rows that batches are drawn from: 1, 0, or below 0 where not known.
        tasks: [T] names.
    """

    def __init__(self, labels: NDArray[np.integer], tasks: Sequence[str]) -> None:
        self._tasks = list(tasks)
        known = [(int((column == 1).sum()), int((column >= 0).sum())) for column in labels.T]
        self._rates = [positives / count if count else 0.0 for positives, count in known]
        self._positives, self._known = [0] * len(self._tasks), [0] * len(self._tasks)

    def outcome(self, labels: NDArray[np.integer]) -> Outcome:
        """The contract for a further batch [B, T], alone and together with those before it.

        By the bound of Chernoff a share of s has a probability of at most exp(−n · KL(s, p)) where p is expected; drawing
        without replacement makes it rarer still (Hoeffding, JASA 58, 1963).
        """
        worst, where, numbers = 0.0, "", ""
        for task, column in enumerate(labels.T):
            positives, known = int((column == 1).sum()), int((column >= 0).sum())
            self._positives[task] += positives
            self._known[task] += known
            rate = self._rates[task]
            for count, of in ((positives, known), (self._positives[task], self._known[task])):
                surprise = surprise_of(count, of, rate)
                if surprise > worst:
                    worst, where = surprise, self._tasks[task]
                    numbers = f"{count} of {of} labels of task {where} are 1, and {rate:.2%} of those of all rows"
        if worst > SURPRISE:
            message = (
                f"{numbers} (by chance once in e^{worst:.0f} batches, e^{SURPRISE:g} allowed): batches are no random samples; "
                "rows are read in an order that goes with the outcome, so shuffle them"
            )
            return Outcome(
                name=NAME, verdict="failed", message=message, measured=worst, limit=SURPRISE, where=where or "batch"
            )
        message = "batches have as many positives as random samples of the rows"
        return Outcome(name=NAME, verdict="passed", message=message, measured=worst, limit=SURPRISE, where=where)


def surprise_of(count: int, of: int, rate: float) -> float:
    """Minus the logarithm of the bound on how likely ``count`` positives ``of`` known labels are."""
    if not of or not 0 < rate < 1:
        return 0.0
    share = count / of
    first = share * math.log(share / rate) if share > 0 else 0.0
    second = (1 - share) * math.log((1 - share) / (1 - rate)) if share < 1 else 0.0
    return of * max(0.0, first + second)
