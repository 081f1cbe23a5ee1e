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
        terms: For each term the column of its task, its weight, and the name of its bid.
    """

    terms: tuple[tuple[int, float, str | None], ...]

    @classmethod
    def of(cls, declared: Sequence[RankingTerm], tasks: Sequence[str]) -> Self:
        """The score of the spec's terms, for probabilities of ``tasks`` in this order."""
        return cls(tuple((tasks.index(term.task), term.weight, term.bid) for term in declared))

    @property
    def bids(self) -> tuple[str, ...]:
        """Names of the bids, each once."""
        return tuple(dict.fromkeys(bid for _, _, bid in self.terms if bid is not None))

    def scores(self, probabilities: NDArray[np.floating[Any]], bids: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """[N] ranking scores of probabilities [N, T] and bids [N] by name; NaN where a bid is missing."""
        total: NDArray[np.float64] | None = None
        for column, weight, bid in self.terms:
            term = np.multiply(probabilities[:, column], weight, dtype=np.float64)
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
