"""Embeddings of new ids: they begin as the mean of their parent's ids, and leave it as evidence grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctr_pipeline.features.layout import FIRST_VOCABULARY_ROW, MISSING_ROW, IdColumn


@dataclass(frozen=True, slots=True)
class _Children:
    """The ids of one feature that training rows have, ordered by their parent.

    Attributes:
        rows: [P] rows of the vocabulary: one for each pair of parent and id that occurs.
        counts: [P] training rows with the pair.
        lengths: [parents] number of pairs of each parent.
    """

    rows: Tensor
    counts: Tensor
    lengths: Tensor


class ColdStart(nn.Module):
    """Draws the embedding of an id towards the mean of the ids that share its parent.

    With n training rows of the id and evidence k, the embedding is

        e = s · own + (1 - s) · (mean(parent) + new),    s = n / (n + k),

    and so without anything of its own for an id that the vocabulary does not hold. ``new`` is the table's row of unknown
    ids: what new ids have in common beside their parent. It is learnt from ids that are treated as new ones while training.
    An average over outcomes is not the outcome of an average, so that new ids would be predicted too low without it. The mean of a parent is over its training rows, each
    with the own embedding of its id, together with k rows of the mean over all ids: a parent with little evidence, or a
    new one, has that. Means have no gradient: they follow the embeddings by :meth:`follow`. (Shrinkage of group means as
    in James & Stein, 1961; treating known ids as new ones while training, as in DropoutNet, Volkovs et al., NeurIPS 2017.)

    Args:
        column: The id column, with a ``cold_start``.
        parent: The id column that the parent is in.
        places: Where the column and its parent are in the id array.
        width: Width of an embedding.
    """

    share: Tensor
    means: Tensor

    def __init__(self, column: IdColumn, parent: IdColumn, places: tuple[int, int], width: int) -> None:
        super().__init__()
        assert column.cold_start is not None
        self.evidence = column.cold_start.evidence
        self.place, self.parent_place = places
        # Part of the stored state: what a served model does with a new id is decided by the training rows.
        self.register_buffer("share", torch.zeros(column.rows))
        self.register_buffer("means", torch.zeros(parent.rows, width))
        self._children: _Children | None = None

    def forward(self, own: Tensor, new: Tensor, ids: Tensor, forgotten: Tensor | None = None) -> Tensor:
        """[B, width] embeddings.

        Args:
            own: [B, width] the ids' own embeddings.
            new: [1, width] the embedding of unknown ids.
            ids: [B, F] the id array.
            forgotten: [B] whether the id is to be treated as a new one; none is when absent.
        """
        share = self.share[ids[:, self.place].long()]
        if forgotten is not None:
            share = torch.where(forgotten, 0.0, share)
        without = self.means[ids[:, self.parent_place].long()] + new
        return without + share.unsqueeze(1) * (own - without)

    def learn_counts(self, ids: NDArray[np.int32]) -> None:
        """Count ids and their parents in the training rows.

        Args:
            ids: [N, F] the id array of the training rows.
        """
        rows, parents = len(self.share), len(self.means)
        pairs = ids[:, self.parent_place].astype(np.int64) * rows + ids[:, self.place]
        found, counts = np.unique(pairs, return_counts=True)
        parent, child = np.divmod(found, rows)
        known = child >= FIRST_VOCABULARY_ROW
        parent, child, counts = parent[known], child[known], counts[known]
        of_id = np.bincount(child, weights=counts, minlength=rows)
        share = of_id / (of_id + self.evidence)
        # A missing id is no new one: it keeps the embedding that says so.
        share[MISSING_ROW] = 1.0
        device = self.share.device
        self.share.copy_(torch.from_numpy(share))
        self._children = _Children(
            rows=torch.from_numpy(child).to(device),
            counts=torch.from_numpy(counts.astype(np.float64)).to(device),
            lengths=torch.from_numpy(np.bincount(parent, minlength=parents)).to(device),
        )

    @torch.no_grad()
    def follow(self, own: Tensor) -> None:
        """Compute the means from the embeddings as they are now; nothing happens before :meth:`learn_counts`.

        Args:
            own: [rows, width] the feature's own embeddings.
        """
        if self._children is None:
            return
        of = self._children
        weighted = own[of.rows].double() * of.counts.unsqueeze(1)
        total = of.counts.sum()
        if not float(total):
            return
        overall = weighted.sum(dim=0) / total
        sums = torch.segment_reduce(weighted, "sum", lengths=of.lengths, axis=0)
        rows = torch.segment_reduce(of.counts, "sum", lengths=of.lengths)
        means = (sums + self.evidence * overall) / (rows + self.evidence).unsqueeze(1)
        self.means.copy_(means)


def cold_starts(columns: Sequence[IdColumn], wanted: Sequence[int], width: int) -> dict[int, ColdStart]:
    """For each of the ``wanted`` id columns that has one, its place among these and the module."""
    first = dict(zip([column.name for column in columns], _first_places(columns), strict=True))
    by_name = {column.name: column for column in columns}
    found: dict[int, ColdStart] = {}
    for at, index in enumerate(wanted):
        column = columns[index]
        if column.cold_start is not None:
            parent = by_name[column.cold_start.parent]
            found[at] = ColdStart(column, parent, (first[column.name], first[parent.name]), width)
    return found


def _first_places(columns: Sequence[IdColumn]) -> list[int]:
    starts, at = [], 0
    for column in columns:
        starts.append(at)
        at += column.places
    return starts
