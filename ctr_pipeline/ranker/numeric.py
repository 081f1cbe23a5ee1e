"""Raw numbers to the model's inputs, inside the graph, so that training and serving cannot differ."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import NumericColumn
from ctr_pipeline.ranker.encodings import KINDS, NumberEncoding, Place
from ctr_pipeline.ranker.errors import RankerError

LIMIT = 10.0
"""Standard deviations at which standardised values are clamped: one extreme value must not dominate the gradient."""

LONGEST = 1e37
"""Longest interval of bins: its inverse is a normal number in single precision."""


class NumericEncoder(nn.Module):
    """Fill, signed log, standardise, clamp, 0/1 inputs for missing values, and the columns' encodings.

    Args:
        columns: The numeric columns in the order of the packed array.

    Raises:
        RankerError: A column's statistics do not fit single precision, or its encoding is not known here.
    """

    fill: Tensor
    mean: Tensor
    std: Tensor
    takes_log: Tensor
    indicated: Tensor
    kept: Tensor
    told: Tensor

    def __init__(self, columns: Sequence[NumericColumn]) -> None:
        super().__init__()
        self.register_buffer("fill", torch.tensor([c.fill for c in columns], dtype=torch.float32))
        self.register_buffer("mean", torch.tensor([c.mean for c in columns], dtype=torch.float32))
        self.register_buffer("std", torch.tensor([c.std for c in columns], dtype=torch.float32))
        takes_log = [column.transform == "signed_log1p" for column in columns]
        self.register_buffer("takes_log", torch.tensor(takes_log, dtype=torch.bool))
        for column, *values in zip(columns, self.fill.tolist(), self.mean.tolist(), self.std.tolist(), strict=True):
            if not all(map(math.isfinite, values)) or values[2] <= 0:
                raise RankerError(
                    f"numeric feature {column.name!r} has fill, mean, std {values} in single precision: all must be "
                    "finite and std positive; use `transform: signed_log1p` or rescale the column"
                )
        indicated = [index for index, column in enumerate(columns) if column.indicator]
        self.register_buffer("indicated", torch.tensor(indicated, dtype=torch.int64))
        # A column without an indicator says that a missing value is its fill, and so it is in its encoding.
        self.register_buffer("told", torch.tensor([c.indicator for c in columns], dtype=torch.bool), persistent=False)
        self.tells_all = all(column.indicator for column in columns)
        encodings = _encodings(columns)
        self.encodings = nn.ModuleDict(encodings)
        kept = [
            index
            for index, column in enumerate(columns)
            if column.encoding is None or encodings[column.encoding.kind].keeps_value
        ]
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.int64), persistent=False)
        self.keeps_all = len(kept) == len(columns)
        self.flags = slice(len(kept), len(kept) + len(indicated))
        self.width = self.flags.stop + sum(module.width for module in encodings.values())
        self.owners = (*kept, *indicated, *(owner for module in encodings.values() for owner in module.owners))
        """The column of the numeric array that each output is of."""

    def forward(self, raw: Tensor) -> Tensor:
        """Encode raw values.

        Args:
            raw: [B, D] raw values, NaN where missing.

        Returns:
            [B, width]: the standardised values of the columns that keep it, one 0/1 column for each feature with an
            indicator (at :attr:`flags`), then the inputs of each encoding.
        """
        raw = raw.to(self.mean.dtype)
        missing = torch.isnan(raw)
        filled = torch.where(missing, self.fill, raw)
        magnitude = filled.abs()
        # log(1 + x) and not log1p, which ONNX lacks: the exported graph then computes the same.
        logged = torch.sign(filled) * torch.log(1 + magnitude)
        value = torch.where(self.takes_log, logged, filled)
        standardised = torch.clamp((value - self.mean) / self.std, -LIMIT, LIMIT)
        if not self.keeps_all:
            standardised = torch.index_select(standardised, 1, self.kept)
        flags = torch.index_select(missing.to(standardised.dtype), 1, self.indicated)
        known = raw if self.tells_all else torch.where(self.told, raw, filled)
        return torch.cat([standardised, flags, *(encoding(known) for encoding in self.encodings.values())], dim=1)


def _encodings(columns: Sequence[NumericColumn]) -> dict[str, NumberEncoding]:
    """A module for each kind of encoding that occurs, in the order of their first columns."""
    places: dict[str, list[Place]] = {}
    for index, column in enumerate(columns):
        if column.encoding is None:
            continue
        kind, edges = column.encoding.kind, column.encoding.edges
        if kind not in KINDS:
            raise RankerError(
                f"numeric feature {column.name!r} has encoding {kind!r}; known here: {', '.join(KINDS)}. Use the version "
                "of the package that packed the dataset."
            )
        if edges and edges[-1] - edges[0] > LONGEST:
            raise RankerError(
                f"numeric feature {column.name!r} has bins from {edges[0]:g} to {edges[-1]:g}: longer than single precision "
                "can divide by. Rescale the column, or use `encoding: standard`"
            )
        places.setdefault(kind, []).append((index, column.encoding))
    return {kind: KINDS[kind](of_kind) for kind, of_kind in places.items()}
