"""Embedding tables: all features of one width share one table, so that a lookup and its update are one operation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import IdColumn
from ctr_pipeline.ranker.shapes import group_by_width

INITIAL_STD = 0.01
"""Standard deviation of new embedding rows; small, so that rare rows start near 0, without influence."""


class FusedTable(nn.Module):
    """One table for several id columns; column i owns the rows from its offset on.

    Args:
        heights: Rows of each column.
        positions: Index of each column in the packed id array.
        width: Width of an embedding.
        std: Standard deviation of the initial values; 0 for all zeros.
    """

    offsets: Tensor
    positions: Tensor

    def __init__(self, heights: Sequence[int], positions: Sequence[int], width: int, std: float) -> None:
        super().__init__()
        starts = [0]
        for height in heights:
            starts.append(starts[-1] + height)
        self.width = width
        self.table = nn.Embedding(starts[-1], width, sparse=True)
        with torch.no_grad():
            self.table.weight.normal_(0.0, std) if std else self.table.weight.zero_()
        # Derived from the layout, so neither is part of the stored state.
        self.register_buffer("offsets", torch.tensor(starts[:-1], dtype=torch.int64), persistent=False)
        self.register_buffer("positions", torch.tensor(list(positions), dtype=torch.int64), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, F] rows within each column's vocabulary to [B, columns of this table, width]."""
        own = torch.index_select(ids, 1, self.positions)
        rows: Tensor = self.table(own.long() + self.offsets)
        return rows

    def locate(self, row: int) -> tuple[int, int]:
        """The id column (index in the packed array) that owns ``row`` of the table, and the row within that column."""
        column = int((self.offsets <= row).sum()) - 1
        return int(self.positions[column]), row - int(self.offsets[column])


@dataclass(frozen=True, slots=True)
class EmbeddedFields:
    """The embeddings of a batch of B rows.

    Attributes:
        groups: [B, F, d] for each width d that occurs, narrowest first; F features in the order of the packed array.
        flat: [B, W] all of them side by side, group by group.
    """

    groups: tuple[Tensor, ...]
    flat: Tensor


class Embeddings(nn.Module):
    """Every id column's embedding: one fused table for each width that occurs.

    Args:
        columns: The id columns in the order of the packed array.
        dropout: Share of embeddings (whole vectors) zeroed in training; the others are scaled by 1/(1 - dropout).
    """

    def __init__(self, columns: Sequence[IdColumn], dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.tables = nn.ModuleDict()
        for group in group_by_width(columns):
            positions = [index for index, column in enumerate(columns) if column.name in group.columns]
            heights = [columns[index].rows for index in positions]
            self.tables[f"width_{group.width}"] = FusedTable(heights, positions, group.width, INITIAL_STD)

    def forward(self, ids: Tensor) -> EmbeddedFields:
        """The embeddings of rows [B, F]."""
        groups: list[Tensor] = []
        # Flattened here and nowhere else: the tower's input has one order, whatever reads the groups.
        parts: list[Tensor] = []
        for table in self.tables.values():
            vectors = table(ids)
            if self.training and self.dropout > 0:
                kept = torch.rand(vectors.shape[:2], device=vectors.device) >= self.dropout
                vectors = vectors * (kept.to(vectors.dtype) / (1 - self.dropout)).unsqueeze(-1)
            groups.append(vectors)
            parts.append(vectors.flatten(1))
        if not parts:
            return EmbeddedFields((), torch.zeros((ids.shape[0], 0), dtype=torch.float32, device=ids.device))
        return EmbeddedFields(tuple(groups), torch.cat(parts, dim=1))
