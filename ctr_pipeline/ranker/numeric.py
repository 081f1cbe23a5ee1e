"""Raw numbers to standardised inputs, inside the graph, so that training and serving cannot differ."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import NumericColumn
from ctr_pipeline.ranker.errors import RankerError

LIMIT = 10.0
"""Standard deviations at which standardised values are clamped: one extreme value must not dominate the gradient."""


class NumericEncoder(nn.Module):
    """Fill, signed log, standardise, clamp, and 0/1 inputs for missing values.

    Args:
        columns: The numeric columns in the order of the packed array.

    Raises:
        RankerError: A column's statistics do not fit single precision.
    """

    fill: Tensor
    mean: Tensor
    std: Tensor
    takes_log: Tensor
    indicated: Tensor

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
        self.width = len(columns) + len(indicated)

    def forward(self, raw: Tensor) -> Tensor:
        """Encode raw values.

        Args:
            raw: [B, D] raw values, NaN where missing.

        Returns:
            [B, width]: D standardised values, then one 0/1 column for each feature with an indicator.
        """
        raw = raw.to(self.mean.dtype)
        missing = torch.isnan(raw)
        filled = torch.where(missing, self.fill, raw)
        magnitude = filled.abs()
        # log(1 + x) and not log1p, which ONNX lacks: the exported graph then computes the same.
        logged = torch.sign(filled) * torch.log(1 + magnitude)
        value = torch.where(self.takes_log, logged, filled)
        standardised = torch.clamp((value - self.mean) / self.std, -LIMIT, LIMIT)
        flags = torch.index_select(missing.to(standardised.dtype), 1, self.indicated)
        return torch.cat([standardised, flags], dim=1)
