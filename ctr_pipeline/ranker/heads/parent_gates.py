"""Gates on what a task reads, computed from what its parent reads."""

from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.heads.head_layers import new_gate
from ctr_pipeline.ranker.heads.head_shape import HeadShape


class ParentGates(nn.Module):
    """h'_t = h_t ⊙ 2σ(W_t h'_p + b_t), p the parent of t; h' = h of a task without one.

    A gate of a hidden layer on another's units, as the gating layers of LinkedIn's feed model (Borisyuk et al., KDD 2024,
    LiRank) and the gated linear units before them (Dauphin et al., ICML 2017). W and b are 0 at first, so that the gates
    are 1 and the model is the one without them. They belong to the child's own modules.

    Args:
        head: The architecture whose outputs [B, T, K] are gated.
        shape: What it was built of.
    """

    def __init__(self, head: Any, shape: HeadShape) -> None:
        super().__init__()
        self.out_width: int = head.out_width
        self.head = head
        gates = [new_gate(self.out_width, self.out_width) for parent in shape.parents if parent >= 0]
        self.gates = nn.ModuleList(gates)
        children = [task for task, parent in enumerate(shape.parents) if parent >= 0]
        self._gate_of = {task: place for place, task in enumerate(children)}
        self._shape = shape

    @property
    def own(self) -> list[nn.ModuleList]:
        """[T] the modules of each task's own."""
        gates = [
            [self.gates[self._gate_of[task]]] if task in self._gate_of else [] for task in range(len(self.head.own))
        ]
        return [nn.ModuleList([own, *added]) for own, added in zip(self.head.own, gates, strict=True)]

    @property
    def readers(self) -> list[nn.Linear]:
        """The linear layers that read the hidden units themselves."""
        return list(self.head.readers)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, K] gated, from the hidden units [B, H]."""
        read = self.head(hidden).unbind(dim=1)
        gated: list[Tensor] = []
        for task, parent in enumerate(self._shape.parents):
            if parent < 0:
                gated.append(read[task])
                continue
            gate = self.gates[self._gate_of[task]]
            scores = gate(self._shape.as_read_by(task, gated[parent]))
            gated.append(read[task] * (2.0 * torch.sigmoid(scores)))
        return torch.stack(gated, dim=1)
