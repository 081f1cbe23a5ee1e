"""Values of the candidates of requests, those that all candidates of a request share apart from their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class RequestRows:
    """B = G·C rows: C candidates of each of G requests, one request after the other.

    Attributes:
        requests: G.
        candidates: C.
    """

    requests: int
    candidates: int

    def each(self, shared: Tensor) -> Tensor:
        """[B, …] from [G, …]: each request's values for all of its candidates."""
        return shared.unsqueeze(1).expand(-1, self.candidates, *shared.shape[1:]).flatten(0, 1)

    def total(self, shared: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
        """[B, …] sum of terms [G, …] of requests and terms [B, …] of rows; at least one of either."""
        if not own:
            return self.each(_sum(shared))
        if not shared:
            return _sum(own)
        of_rows = _sum(own)
        apart = of_rows.reshape(self.requests, self.candidates, *of_rows.shape[1:])
        return (apart + _sum(shared).unsqueeze(1)).flatten(0, 1)

    def join(self, shared: Tensor, own: Tensor, order: Tensor) -> Tensor:
        """[B, S + O, …] from [G, S, …] and [B, O, …]; column i is the one at ``order`` [S + O] of both side by side."""
        if shared.shape[1] == 0:
            return own
        expanded = self.each(shared)
        return expanded if own.shape[1] == 0 else torch.cat([expanded, own], dim=1).index_select(1, order)


@dataclass(frozen=True, slots=True)
class SplitColumns:
    """Columns [B, S + O] of which S are the same for all candidates of a request.

    Attributes:
        rows: The B rows.
        shared: [G, S] the values that the candidates share.
        own: [B, O] the others.
        columns: Which of the S + O columns ``shared`` and ``own`` are.
        order: [S + O] for each column its place in both side by side.
    """

    rows: RequestRows
    shared: Tensor
    own: Tensor
    columns: tuple[Tensor, Tensor]
    order: Tensor

    def joined(self) -> Tensor:
        """[B, S + O]."""
        return self.rows.join(self.shared, self.own, self.order)


def linear_terms(
    parts: Sequence[tuple[SplitColumns, Tensor]], bias: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Terms of one linear layer over several splits side by side, each with its columns [out, S + O] of the weight.

    Returns:
        At most one term [G, out] of requests, and at most one [B, out] of rows.
    """
    terms: tuple[list[Tensor], list[Tensor]] = [], []
    for side, found in enumerate(terms):
        filled = [
            (values, weight.index_select(1, part.columns[side]))
            for part, weight in parts
            if (values := (part.shared, part.own)[side]).shape[1]
        ]
        if filled:
            inputs = torch.cat([values for values, _ in filled], dim=1)
            weights = torch.cat([weight for _, weight in filled], dim=1)
            # The bias goes with the smaller of both.
            found.append(functional.linear(inputs, weights, bias))
            bias = None
    return terms


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
