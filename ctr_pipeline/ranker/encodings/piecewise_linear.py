"""How far a number is through each bin."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_pipeline.ranker.encodings.encoding import NumberEncoding, Place


class PiecewiseLinearBins(NumberEncoding):
    """For each bin from a to b: clamp((x - a)/(b - a), 0, 1) less its mean over the training rows.

    A linear layer on top is a piecewise linear function of the number (Gorishniy et al., NeurIPS 2022). A missing value
    gives zeros: of each bin the usual input, so that it is no value, and as good as none where no training row had one.

    Args:
        places: The columns with their encodings.
    """

    keeps_value = True
    lower: Tensor
    per_length: Tensor
    mean: Tensor

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__()
        bins = [
            (column, lower, 1 / (upper - lower), mean)
            for column, encoding in places
            for lower, upper, mean in zip(encoding.edges[:-1], encoding.edges[1:], encoding.means, strict=True)
        ]
        self.width = len(bins)
        columns, lower, per_length, mean = zip(*bins, strict=True)
        self.hold_columns(columns)
        self.hold("lower", lower)
        self.hold("per_length", per_length)
        self.hold("mean", mean)

    def forward(self, raw: Tensor) -> Tensor:
        """[B, width] inputs of raw values [B, D]."""
        # In place: there are as many numbers here as in the rest of the model, and new memory takes longer than they do.
        inputs = torch.index_select(raw, 1, self.column).sub_(self.lower).mul_(self.per_length).clamp_(0, 1)
        inputs = inputs.sub_(self.mean)
        if torch.compiler.is_exporting():
            # The exporter writes nan_to_num as eleven operations.
            return torch.where(torch.isnan(inputs), 0.0, inputs)
        return inputs.nan_to_num_(0.0)
