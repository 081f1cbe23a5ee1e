"""A weight for each combination of two categories: what neither of them says alone."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.ranker.embeddings import sum_of_features
from ctr_pipeline.ranker.errors import RankerError

MOST_ROWS = 20_000_000
"""Combinations, over all pairs, up to which they are worth a weight each."""


class PairWeights(nn.Module):
    """Adds, for each pair of features (f, g) and task t, a weight w_t[f's value, g's value] to the logits.

    These are the cross-product features of the wide part of Cheng et al. (DLRS 2016), all of them, with missing and unknown
    values as values of their own. Weights start at 0.

    Args:
        layout: The packed layout.
        pairs: Names of the two features of each pair.

    Raises:
        RankerError: a feature is none of the layout's, or holds lists, or there are too many combinations.
    """

    firsts: Tensor
    seconds: Tensor
    heights: Tensor
    starts: Tensor

    def __init__(self, layout: Layout, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        columns = {column.name: column for column in layout.ids if column.pooled is None}
        place_of = {column.name: place.start for column, place in zip(layout.ids, layout.id_places, strict=True)}
        if absent := sorted({name for pair in pairs for name in pair} - columns.keys()):
            raise RankerError(
                f"`model.pairs` names {absent[0]!r}, which is no category of one value of the dataset; "
                f"use {', '.join(sorted(columns))}"
            )
        self.names = tuple(f"{first} × {second}" for first, second in pairs)
        sizes = [columns[first].rows * columns[second].rows for first, second in pairs]
        if sum(sizes) > MOST_ROWS:
            largest = max(range(len(sizes)), key=sizes.__getitem__)
            raise RankerError(
                f"`model.pairs` has {sum(sizes):,} combinations, at most {MOST_ROWS:,} expected; {self.names[largest]} alone has "
                f"{sizes[largest]:,}. Leave it out, or raise `min_count` of its features."
            )
        self.ends = tuple(accumulate(sizes))
        # Derived from the layout, so none is part of the stored state.
        for name, values in (
            ("firsts", [place_of[first] for first, _ in pairs]),
            ("seconds", [place_of[second] for _, second in pairs]),
            ("heights", [columns[second].rows for _, second in pairs]),
            ("starts", [end - size for end, size in zip(self.ends, sizes, strict=True)]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64), persistent=False)
        self.table = nn.Embedding(sum(sizes), len(layout.tasks), sparse=True)
        nn.init.zeros_(self.table.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] of vocabulary rows [B, F]."""
        return self.of(torch.index_select(ids, 1, self.firsts), torch.index_select(ids, 1, self.seconds))

    def of(self, first: Tensor, second: Tensor) -> Tensor:
        """[B, T] of the vocabulary rows [B, P] of each pair's first feature, and [B, P] of its second."""
        return sum_of_features(self._weights(first, second))

    def of_each(self, ids: Tensor) -> Tensor:
        """[B, P, T] the weights of each pair of vocabulary rows [B, F]."""
        return self._weights(torch.index_select(ids, 1, self.firsts), torch.index_select(ids, 1, self.seconds))

    def _weights(self, first: Tensor, second: Tensor) -> Tensor:
        weights: Tensor = self.table(first.long() * self.heights + second.long() + self.starts)
        return weights

    def locate(self, row: int) -> tuple[str, int]:
        """Name of the pair that owns ``row`` of the table, and the row within it."""
        place = next(at for at, end in enumerate(self.ends) if row < end)
        return self.names[place], row - int(self.starts[place])
