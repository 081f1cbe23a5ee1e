"""Progressive layered extraction."""

from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.heads.head_layers import first_linear, hidden_layers, mixed, new_gate
from ctr_pipeline.ranker.heads.head_shape import HeadShape
from ctr_pipeline.spec.heads import Ple


class LayeredExtraction(nn.Module):
    """Levels of experts, some of each task's own and some shared (Tang et al., RecSys 2020).

    On level l task t reads x_t and the shared experts read x_0; both are h on the first level::

        x_t ← Σ_e softmax(G_t x_t)_e f_e,  e over the task's own experts (of x_t) and the shared ones (of x_0)
        x_0 ← Σ_e softmax(G_0 x_0)_e f_e,  e over all experts of the level; not on the last level

    and h_t = tower_t(x_t) after the last one. The gates are 0 at first: equal shares. A task's own experts and its gate
    belong to its own modules.

    Args:
        shape: What the tasks read.
        section: The spec's section.
    """

    def __init__(self, shape: HeadShape, section: Ple) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.ModuleDict() for _ in shape.tasks)
        self.shared_experts, self.shared_gates = nn.ModuleList(), nn.ModuleList()
        width, out = shape.width, section.expert[-1]
        experts = section.shared_experts + section.task_experts
        for level in range(section.levels):
            self.shared_experts.append(self._experts(section.shared_experts, width, shape, section))
            if level + 1 < section.levels:
                self.shared_gates.append(
                    new_gate(width, section.shared_experts + section.task_experts * len(shape.tasks))
                )
            for own in self._tasks():
                own[f"experts_{level}"] = self._experts(section.task_experts, width, shape, section)
                own[f"gate_{level}"] = new_gate(width, experts)
            width = out
        for own in self._tasks():
            own["tower"] = hidden_layers(out, section.tower, shape.model)
        self.out_width = [*section.expert, *section.tower][-1]
        self._shape, self._levels = shape, section.levels

    @property
    def readers(self) -> list[nn.Linear]:
        """The first layers of the experts of the first level, and its gates."""
        first: list[Any] = [self.shared_experts[0], *(own["experts_0"] for own in self._tasks())]
        gates = [own["gate_0"] for own in self._tasks()] + list(self.shared_gates)[:1]
        return [first_linear(expert) for experts in first for expert in experts] + gates

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, K] from the hidden units [B, H]."""
        tasks = self._tasks()
        shared = hidden
        read = [self._shape.as_read_by(task, hidden) for task in range(len(tasks))]
        for level in range(self._levels):
            common: Any = self.shared_experts[level]
            of_shared = [expert(shared) for expert in common]
            of_tasks = [
                [expert(own) for expert in task[f"experts_{level}"]] for task, own in zip(tasks, read, strict=True)
            ]
            scores = [task[f"gate_{level}"](own) for task, own in zip(tasks, read, strict=True)]
            if level + 1 < self._levels:
                everything = [*of_shared, *(output for outputs in of_tasks for output in outputs)]
                shared = mixed(self.shared_gates[level](shared), everything)
            read = [
                mixed(scores[task], [*of_tasks[task], *(self._shape.as_read_by(task, output) for output in of_shared)])
                for task in range(len(tasks))
            ]
        return torch.stack([task["tower"](own) for task, own in zip(tasks, read, strict=True)], dim=1)

    def _experts(self, count: int, width: int, shape: HeadShape, section: Ple) -> nn.ModuleList:
        return nn.ModuleList(hidden_layers(width, section.expert, shape.model) for _ in range(count))

    def _tasks(self) -> list[Any]:
        return list(self.own)
