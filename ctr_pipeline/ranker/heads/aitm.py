"""Adaptive information transfer along the funnel."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.heads.head_layers import at_least_single, first_linear, hidden_layers
from ctr_pipeline.ranker.heads.head_shape import HeadShape
from ctr_pipeline.spec.heads import Aitm


class AdaptiveTransfer(nn.Module):
    """Each task's tower attends to itself and to what its parent's passes on (Xi et al., KDD 2021, "AITM").

    With q_t = tower_t(h) and p_t = relu(A_t h_p + a_t), p the parent of t, both [B, K]::

        h_t = Σ_{u ∈ {p_t, q_t}} softmax_u(⟨K_t u, Q_t u⟩ / √K) V_t u

    and h_t = q_t of a task without a parent. The paper adds a penalty on a child that is likelier than its parent; with
    ``heads: chain`` none is.

    Args:
        shape: What the tasks read.
        section: The spec's section.
    """

    def __init__(self, shape: HeadShape, section: Aitm) -> None:
        super().__init__()
        width = section.tower[-1]
        self.out_width = width
        self.own = nn.ModuleList()
        for parent in shape.parents:
            own = nn.ModuleDict({"tower": hidden_layers(shape.width, section.tower, shape.model)})
            if parent >= 0:
                own["transfer"] = nn.Linear(width, width)
                own.update({name: nn.Linear(width, width, bias=False) for name in ("key", "query", "value")})
            self.own.append(own)
        self._shape = shape

    @property
    def readers(self) -> list[nn.Linear]:
        """The first layer of each tower."""
        return [first_linear(own["tower"]) for own in self._tasks()]

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, K] from the hidden units [B, H]."""
        read: list[Tensor] = []
        for task, (own, parent) in enumerate(zip(self._tasks(), self._shape.parents, strict=True)):
            query = own["tower"](self._shape.as_read_by(task, hidden))
            if parent < 0:
                read.append(query)
                continue
            passed = torch.relu(own["transfer"](self._shape.as_read_by(task, read[parent])))
            read.append(self._attended(own, passed, query))
        return torch.stack(read, dim=1)

    def _attended(self, own: Any, passed: Tensor, query: Tensor) -> Tensor:
        """[B, K] the two vectors [B, K], each weighted by how it answers itself."""
        both = torch.stack([passed, query.to(passed.dtype)], dim=1)
        products = at_least_single(own["key"](both)) * at_least_single(own["query"](both))
        answers = products.sum(dim=2) / math.sqrt(self.out_width)
        attended: Tensor = (torch.softmax(answers, dim=1).unsqueeze(2) * own["value"](both)).sum(dim=1)
        return attended

    def _tasks(self) -> list[Any]:
        return list(self.own)
