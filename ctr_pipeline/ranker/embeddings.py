"""Embedding tables: all features of one width share one table, so that a lookup and its update are one operation."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ctr_pipeline.features.layout import UNKNOWN_ROW, IdColumn, Pooled
from ctr_pipeline.ranker.cold_start import ColdStart, cold_starts
from ctr_pipeline.ranker.shapes import group_by_width


@dataclass(frozen=True, slots=True)
class TableFields:
    """Some features of a fused table.

    Attributes:
        places: Their places among :attr:`FusedTable.features`, ascending.
        positions: Their columns of the array that they are looked up from.
        offsets: For each of these columns the first row of its feature in the table.
        pooled: For each feature how its list becomes one vector; None for a single value.
    """

    places: tuple[int, ...]
    positions: Tensor
    offsets: Tensor
    pooled: tuple[Pooled | None, ...]


class FusedTable(nn.Module):
    """One table for several features; each owns the rows from its start on. All rows start with zeros.

    A feature that shares the embeddings of another reads the rows of that one. With a list among them, or ``read_again``,
    the table has one more row, of zeros, for the places after the end of a list. It has no gradient, so it stays what it
    is.

    Args:
        columns: The id columns in the order of the packed array.
        wanted: Indices of those that this table embeds, ascending.
        width: Width of an embedding.
        read_again: Columns of the id array, behind those of ``columns``, that :meth:`look_up` reads, with the names of the
            columns whose rows they are.
    """

    offsets: Tensor
    positions: Tensor
    unknown: Tensor

    def __init__(
        self,
        columns: Sequence[IdColumn],
        wanted: Sequence[int],
        width: int,
        read_again: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        self.owners = tuple(index for index in wanted if columns[index].table is None)
        self.starts = (0, *accumulate(columns[index].rows for index in self.owners))
        start_of = {columns[index].name: start for index, start in self.owned()}
        self.features = tuple((index, start_of[columns[index].vocabulary]) for index in wanted)
        self.read_again = {place: start_of[name] for place, name in (read_again or {}).items()}
        self.pooled = tuple(columns[index].pooled for index in wanted)
        self.width = width
        padded = any(self.pooled) or bool(self.read_again)
        self.padding = self.starts[-1] if padded else None
        self.table = nn.Embedding(self.starts[-1] + padded, width, padding_idx=self.padding, sparse=True)
        nn.init.zeros_(self.table.weight)
        first = [0, *accumulate(column.places for column in columns)]
        places = [(first[index] + at, start) for index, start in self.features for at in range(columns[index].places)]
        # Derived from the layout, so neither is part of the stored state.
        self.register_buffer(
            "offsets", torch.tensor([start for _, start in places], dtype=torch.int64), persistent=False
        )
        self.register_buffer("positions", torch.tensor([at for at, _ in places], dtype=torch.int64), persistent=False)
        unknown = torch.tensor([start + UNKNOWN_ROW for _, start in self.features], dtype=torch.int64)
        self.register_buffer("unknown", unknown, persistent=False)
        self.cold_starts = nn.ModuleDict({str(at): of for at, of in cold_starts(columns, wanted, width).items()})

    def forward(self, ids: Tensor, forgotten: Tensor | None = None) -> Tensor:
        """[B, F] rows within each column's vocabulary to [B, features of this table, width].

        Args:
            ids: [B, F].
            forgotten: [B, features of this table] which ids are to be treated as new ones, where the feature has a cold
                start.
        """
        all_of_them = tuple(range(len(self.features)))
        fields = TableFields(all_of_them, self.positions, self.offsets, self.pooled)
        return self.embed(ids, fields, ids, forgotten)

    def embed(self, given: Tensor, fields: TableFields, ids: Tensor, forgotten: Tensor | None = None) -> Tensor:
        """As :meth:`forward`, of the features ``fields``, whose rows are ``given``; with the rows [B, F] of all columns."""
        vectors = self._looked_up(given, fields)
        if not self.cold_starts:
            return vectors
        features = list(vectors.unbind(1))
        for at, place in enumerate(fields.places):
            if str(place) not in self.cold_starts:
                continue
            # Looked up as any other row: a table's gradient is one of rows, never of the whole table.
            new = self.table(self.unknown[place : place + 1])
            known = None if forgotten is None else forgotten[:, place]
            features[at] = self.cold_starts[str(place)](features[at], new, ids, known)
        return torch.stack(features, dim=1)

    def some(self, places: Sequence[int], columns: Sequence[int]) -> TableFields:
        """The features at ``places`` of :attr:`features`, to be looked up from an array of some ``columns`` of the ids."""
        ends = [0, *accumulate(1 if pooled is None else pooled.length for pooled in self.pooled)]
        chosen = [at for place in places for at in range(ends[place], ends[place + 1])]
        at_column = {column: at for at, column in enumerate(columns)}
        positions = [at_column[int(self.positions[at])] for at in chosen]
        return TableFields(
            tuple(places),
            torch.tensor(positions, dtype=torch.int64),
            self.offsets[chosen],
            tuple(self.pooled[place] for place in places),
        )

    def learn_counts(self, ids: NDArray[np.int32]) -> None:
        """Count the ids of the training rows [N, F], for the features with a cold start."""
        for module in self.cold_starts.values():
            assert isinstance(module, ColdStart)
            module.learn_counts(ids)
        self.follow()

    def follow(self) -> None:
        """Let the means of parents follow the embeddings."""
        for at, module in self.cold_starts.items():
            assert isinstance(module, ColdStart)
            _, start = self.features[int(at)]
            module.follow(self.table.weight.detach()[start : start + len(module.share)])

    def _looked_up(self, ids: Tensor, fields: TableFields) -> Tensor:
        own = torch.index_select(ids, 1, fields.positions).long()
        if self.padding is None or not any(fields.pooled):
            rows: Tensor = self.table(own + fields.offsets)
            return rows
        ended = own < 0
        rows = self.table(torch.where(ended, self.padding, own + fields.offsets))
        parts, at = [], 0
        for pooled in fields.pooled:
            end = at + (1 if pooled is None else pooled.length)
            values = rows[:, at:end]
            parts.append(values if pooled is None else _pool(values, ended[:, at:end], pooled))
            at = end
        return torch.cat(parts, dim=1)

    def look_up(self, ids: Tensor, start: int) -> Tensor:
        """[B, L, width] of the rows [B, L] of the feature whose rows begin at ``start``, zeros where they are negative."""
        assert self.padding is not None
        own = ids.long()
        # Of one dimension more than a lookup of features, from which it is so told apart.
        rows: Tensor = self.table(torch.where(own < 0, self.padding, own + start).unsqueeze(1))
        return rows.squeeze(1)

    def locate(self, row: int) -> tuple[int, int]:
        """The id column (its index in the layout) that owns ``row`` of the table, and the row within that column."""
        column = bisect_right(self.starts, row) - 1
        return self.owners[column], row - self.starts[column]

    def owned(self) -> Iterator[tuple[int, int]]:
        """For each feature with rows of its own the index of its id column in the layout, and its first row of the table."""
        return zip(self.owners, self.starts[:-1], strict=True)


def sum_of_features(vectors: Tensor) -> Tensor:
    """[B, d] sum of [B, F, d] over the features."""
    if torch.compiler.is_exporting():
        # ONNX Runtime sums vectors of a few values one by one; a product with ones and zeros is the same.
        return vectors.flatten(1) @ torch.eye(vectors.shape[2]).repeat(vectors.shape[1], 1)
    return vectors.sum(dim=1)


def _pool(values: Tensor, ended: Tensor, pooled: Pooled) -> Tensor:
    """[B, 1, d] from the rows [B, L, d] of lists, which are zeros where the list has ``ended`` [B, L]."""
    if pooled.pooling == "max":
        largest = values.masked_fill(ended.unsqueeze(2), torch.finfo(values.dtype).min).amax(dim=1, keepdim=True)
        return torch.where(ended.all(dim=1).reshape(-1, 1, 1), 0.0, largest)
    total = values.sum(dim=1, keepdim=True)
    if pooled.pooling == "sum":
        return total
    count = (~ended).to(values.dtype).sum(dim=1).clamp(min=1)
    return total / count.reshape(-1, 1, 1)


@dataclass(frozen=True, slots=True)
class EmbeddedFields:
    """The embeddings of a batch of B rows.

    Attributes:
        groups: [B, F, d] for each width d that occurs, narrowest first; F features in the order of the packed array.
        flat: [B, W] all of them side by side, group by group.
        forgotten: [B, all features] which ids are treated as new ones, in the order of the id columns; None for none.
    """

    groups: tuple[Tensor, ...]
    flat: Tensor
    forgotten: Tensor | None = None


class Embeddings(nn.Module):
    """Every id column's embedding: one fused table for each width that occurs.

    Args:
        columns: The id columns in the order of the packed array.
        dropout: Share of embeddings (whole vectors) zeroed in training; the others are scaled by 1/(1 - dropout).
        read_again: As for :class:`FusedTable`.
    """

    def __init__(
        self, columns: Sequence[IdColumn], dropout: float, read_again: Mapping[int, str] | None = None
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.features = len(columns)
        self.tables = nn.ModuleDict()
        for group in group_by_width(columns):
            wanted = [index for index, column in enumerate(columns) if column.name in group.columns]
            again = {place: name for place, name in (read_again or {}).items() if name in group.columns}
            self.tables[f"width_{group.width}"] = FusedTable(columns, wanted, group.width, again)

    def forward(self, ids: Tensor) -> EmbeddedFields:
        """The embeddings of rows [B, F]."""
        groups: list[Tensor] = []
        forgotten: list[tuple[int, Tensor]] = []
        # Flattened here and nowhere else: the tower's input has one order, whatever reads the groups.
        parts: list[Tensor] = []
        for table in self.tables.values():
            assert isinstance(table, FusedTable)
            if self.training and self.dropout > 0:
                shape = ids.shape[0], len(table.features)
                kept = torch.rand(shape, device=ids.device) >= self.dropout
                vectors = table(ids, ~kept)
                scale = kept.to(vectors.dtype) / (1 - self.dropout)
                for at in map(int, table.cold_starts):
                    # A forgotten id is a new one, which has the mean of its parent and not zeros.
                    scale[:, at] = 1.0
                    forgotten.append((table.features[at][0], ~kept[:, at]))
                vectors = vectors * scale.unsqueeze(-1)
            else:
                vectors = table(ids)
            groups.append(vectors)
            parts.append(vectors.flatten(1))
        if not parts:
            return EmbeddedFields((), torch.zeros((ids.shape[0], 0), dtype=torch.float32, device=ids.device))
        return EmbeddedFields(tuple(groups), torch.cat(parts, dim=1), self._by_column(forgotten))

    def _by_column(self, forgotten: list[tuple[int, Tensor]]) -> Tensor | None:
        """[B, features] from the masks [B] of some of them."""
        if not forgotten:
            return None
        found = torch.zeros((len(forgotten[0][1]), self.features), dtype=torch.bool, device=forgotten[0][1].device)
        for column, mask in forgotten:
            found[:, column] = mask
        return found
