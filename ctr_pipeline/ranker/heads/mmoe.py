"""Multi-gate mixture of experts."""

from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.heads.head_layers import first_linear, hidden_layers, mixed, new_gate
from ctr_pipeline.ranker.heads.head_shape import HeadShape
from ctr_pipeline.spec.heads import Mmoe


class MixtureOfExperts(nn.Module):
    """h_t = tower_t(Σ_e softmax(G_t h + g_t)_e f_e(h)), with E experts f_e that all tasks read (Ma et al., KDD 2018).

    G and g are 0 at first: each task starts from the mean of the experts.

    Args:
        shape: What the tasks read.
        section: The spec's section.
    """

    def __init__(self, shape: HeadShape, section: Mmoe) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            hidden_layers(shape.width, section.expert, shape.model) for _ in range(section.experts)
        )
        self.own = nn.ModuleList(
            nn.ModuleDict(
                {
                    "gate": new_gate(shape.width, section.experts),
                    "tower": hidden_layers(section.expert[-1], section.tower, shape.model),
                }
            )
            for _ in shape.tasks
        )
        self.out_width = [*section.expert, *section.tower][-1]
        self._shape = shape

    @property
    def readers(self) -> list[nn.Linear]:
        """The first layer of each expert, and the gates."""
        return [first_linear(module) for module in [*self.experts, *(own["gate"] for own in self._tasks())]]

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, K] from the hidden units [B, H]."""
        outputs = [expert(hidden) for expert in self.experts]
        read = []
        for task, own in enumerate(self._tasks()):
            scores = own["gate"](self._shape.as_read_by(task, hidden))
            mixture = mixed(scores, [self._shape.as_read_by(task, output) for output in outputs])
            read.append(own["tower"](mixture))
        return torch.stack(read, dim=1)

    def _tasks(self) -> list[Any]:
        return list(self.own)
