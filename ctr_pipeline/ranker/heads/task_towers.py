"""Hidden layers of each task's own."""

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.heads.head_layers import first_linear, hidden_layers
from ctr_pipeline.ranker.heads.head_shape import HeadShape
from ctr_pipeline.spec.heads import TaskTowers


class OwnTowers(nn.Module):
    """h_t = tower_t(h): the tasks share the embeddings and the tower below, and nothing above it.

    With ``model.hidden: []`` they share the embeddings alone (the entire-space model of Ma et al., SIGIR 2018, has this
    form).

    Args:
        shape: What the tasks read.
        section: The spec's section.
    """

    def __init__(self, shape: HeadShape, section: TaskTowers) -> None:
        super().__init__()
        self.out_width = section.tower[-1]
        self.own = nn.ModuleList(hidden_layers(shape.width, section.tower, shape.model) for _ in shape.tasks)
        self._shape = shape

    @property
    def readers(self) -> list[nn.Linear]:
        """The first layer of each tower."""
        return [first_linear(tower) for tower in self.own]

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, K] from the hidden units [B, H]."""
        towers = enumerate(self.own)
        return torch.stack([tower(self._shape.as_read_by(task, hidden)) for task, tower in towers], dim=1)
