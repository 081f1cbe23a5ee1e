"""Layers of which the architectures are made: hidden layers, mixtures of experts, the last layer of all tasks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.initialisation import start_at_zero
from ctr_pipeline.ranker.shapes import check_shape
from ctr_pipeline.ranker.tower import HiddenLayer
from ctr_pipeline.spec.model import Model


class TaskOutputs(nn.Linear):
    """The last layer: a weight vector and a bias for each task, z_t = ⟨w_t, h_t⟩ + b_t.

    Its parameters have the names and shapes of a linear layer [T, K] over units that all tasks read.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T] of what each task reads, [B, T, K]."""
        check_shape("what the tasks read", hidden, self.out_features, self.in_features)
        return (hidden * self.weight).sum(dim=2) + self.bias


def hidden_layers(width: int, widths: Sequence[int], model: Model) -> nn.Sequential:
    """Hidden layers as those of the tower, of [B, width]; their weights are drawn from torch's generator.

    Rectified units keep the variance of what they read (He et al., ICCV 2015); biases are 0.
    """
    layers: list[HiddenLayer] = []
    for out in widths:
        linear = nn.Linear(width, out)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers.append(HiddenLayer(linear, normalised=model.normalisation == "layer", dropout=model.dropout or 0.0))
        width = out
    return nn.Sequential(*layers)


def first_linear(layers: nn.Module) -> nn.Linear:
    """The linear layer of the first of some hidden layers."""
    return next(module for module in layers.modules() if isinstance(module, nn.Linear))


def new_gate(width: int, outputs: int) -> nn.Linear:
    """A linear layer that gives 0 everywhere until it has learnt: equal shares in a soft-max, ½ in a sigmoid."""
    gate = nn.Linear(width, outputs)
    start_at_zero(gate)
    nn.init.zeros_(gate.bias)
    return gate


def mixed(scores: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """[B, W] Σ_e g_e f_e of the outputs f_e [B, W] of E experts, g the soft-max of the scores [B, E]."""
    shares = torch.softmax(at_least_single(scores), dim=1)
    total = shares[:, :1] * outputs[0]
    for place in range(1, len(outputs)):
        total = total + shares[:, place : place + 1] * outputs[place]
    return total


def at_least_single(values: Tensor) -> Tensor:
    """``values`` in 32 bits where autocast made them of 16: what a soft-max takes as an exponent."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
