"""One number to rank candidates by, of the probabilities of the tasks and what the candidates bid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.serving.request_values import BundleError, finite_number
from ctr_pipeline.spec.ranking import RankingTerm


@dataclass(frozen=True, slots=True)
class RankingScore:
    """A sum of terms weight · P(task) · bid; without a bid, of weight · P(task).

    Attributes:
        weights: By name of the bid, None for no bid, the weight of each of T tasks [T].
    """

    weights: Mapping[str | None, NDArray[np.float64]]

    @classmethod
    def of(cls, declared: Sequence[RankingTerm], tasks: Sequence[str]) -> Self:
        """The score of the spec's terms, for probabilities of ``tasks`` in this order."""
        weights = {term.bid: np.zeros(len(tasks)) for term in declared}
        for term in declared:
            weights[term.bid][tasks.index(term.task)] += term.weight
        return cls(weights)

    @property
    def bids(self) -> tuple[str, ...]:
        """Names of the bids, each once."""
        return tuple(bid for bid in self.weights if bid is not None)

    def scores(self, probabilities: NDArray[np.floating[Any]], bids: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """[N] ranking scores of probabilities [N, T] and bids [N] by name; NaN where a bid is missing."""
        total: NDArray[np.float64] | None = None
        for bid, weights in self.weights.items():
            # In double precision, as the weights are.
            term: NDArray[np.float64] = probabilities.dot(weights)
            term = term if bid is None else term * bids[bid]
            total = term if total is None else total + term
        assert total is not None, "the spec requires a term"
        return total


def bid_column(name: str, values: Sequence[Any]) -> NDArray[np.float64]:
    """[N] bids, NaN where missing.

    Raises:
        BundleError: a bid is no number, or below 0; names its row.
    """
    found = np.empty(len(values))
    for at, value in enumerate(values):
        where = f"row {at}: bid {name!r}"
        found[at] = finite_number(value, where)
        if found[at] < 0:
            raise BundleError(f"{where}: found a number below 0; expected a bid of at least 0, or null")
    return found
