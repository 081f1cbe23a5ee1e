"""All tasks read the same hidden units."""

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.heads.head_shape import HeadShape


class SharedUnits(nn.Module):
    """h_t = h for each task t (Caruana, Machine Learning 1997). It has no weights.

    A ranker without gates and stopped gradients does without this module: its last layer reads h itself.

    Args:
        shape: What the tasks read.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.out_width = shape.width
        self.own = nn.ModuleList(nn.Identity() for _ in shape.tasks)
        self.readers: list[nn.Linear] = []
        self._shape = shape

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, H] from the hidden units [B, H]."""
        return torch.stack([self._shape.as_read_by(task, hidden) for task in range(len(self._shape.tasks))], dim=1)
