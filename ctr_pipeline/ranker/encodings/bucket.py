"""Which bin a number is in."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_pipeline.ranker.encodings.encoding import NumberEncoding, Place


class Buckets(NumberEncoding):
    """For each bin 1 where the number is in it and else 0, less the bin's share of the training rows.

    A value at an edge is in the bin above. A missing value gives zeros: the usual input of each bin.

    Args:
        places: The columns with their encodings.
    """

    keeps_value = False
    lower: Tensor
    upper: Tensor
    share: Tensor

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__()
        # Nothing reaches NaN, infinity neither: the last bin has no upper edge.
        bins = [
            (column, lower, upper, share)
            for column, encoding in places
            for lower, upper, share in zip(
                (-math.inf, *encoding.edges), (*encoding.edges, math.nan), encoding.means, strict=True
            )
        ]
        self.width = len(bins)
        columns, lower, upper, share = zip(*bins, strict=True)
        self.hold_columns(columns)
        self.hold("lower", lower)
        self.hold("upper", upper)
        self.hold("share", share)

    def forward(self, raw: Tensor) -> Tensor:
        """[B, width] inputs of raw values [B, D]."""
        value = torch.index_select(raw, 1, self.column)
        inside = (value >= self.lower).logical_and_(~(value >= self.upper))
        return inside.to(value.dtype).sub_(self.share).masked_fill_(torch.isnan(value), 0.0)
