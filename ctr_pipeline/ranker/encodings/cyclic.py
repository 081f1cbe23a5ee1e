"""Where in its period a number is."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_pipeline.ranker.encodings.encoding import NumberEncoding, Place


class Angles(NumberEncoding):
    """Sine and cosine of 2π·x/period. A missing value gives zeros: the middle of the circle, as far from each angle.

    Args:
        places: The columns with their encodings.
    """

    keeps_value = False
    period: Tensor

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__()
        self.width = 2 * len(places)
        columns, periods = zip(*((column, encoding.period) for column, encoding in places), strict=True)
        self.hold_columns(columns)
        self.hold("period", periods)

    def forward(self, raw: Tensor) -> Tensor:
        """[B, width] inputs of raw values [B, D]: all sines, then all cosines."""
        turns = torch.index_select(raw, 1, self.column) / self.period
        # The whole turns go first: the sine of a large angle depends on who computes it.
        angle = (turns - torch.floor(turns)) * (2 * math.pi)
        return torch.nan_to_num(torch.cat([torch.sin(angle), torch.cos(angle)], dim=1), 0.0)
