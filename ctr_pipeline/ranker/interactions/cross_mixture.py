"""The cross network of DCN-v2 with mixtures of low-rank experts."""

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.interactions.normalised_inputs import NormalisedInputs
from ctr_pipeline.ranker.interactions.output_layers import OutputLayers
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.spec.interactions import CrossMixture


class MixtureCross(nn.Module):
    """One cross x ↦ Σ_k G_k(x) · x_0 ⊙ (U_k tanh(C_k tanh(V_kᵀ x)) + b) + x, G = softmax(x W_G), of K experts of rank r.

    Since the gates sum to 1 and x_0 ⊙ is linear, the sum is x_0 ⊙ (U (G ⊙ h) + b) with U = [U_1 … U_K]: two products of
    matrices [n, K r], whatever K.

    (DCN-v2: Wang et al., WWW 2021, eq. 5 and 6.)

    Args:
        width: Number of inputs n.
        experts: Number of experts K.
        rank: Their rank r.
    """

    def __init__(self, width: int, experts: int, rank: int) -> None:
        super().__init__()
        self.experts, self.rank = experts, rank
        self.down = nn.Linear(width, experts * rank, bias=False)
        self.within = nn.Parameter(torch.empty(experts, rank, rank))
        self.up = nn.Linear(experts * rank, width)
        self.gate = nn.Linear(width, experts, bias=False)
        nn.init.uniform_(self.within, -((3 / rank) ** 0.5), (3 / rank) ** 0.5)
        for linear in (self.down, self.up, self.gate):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """[B, n] of x_0 [B, n] and x [B, n]."""
        low = torch.tanh(self.down(crossed)).reshape(-1, self.experts, self.rank)
        low = torch.tanh(torch.bmm(low.transpose(0, 1), self.within).transpose(0, 1))
        gates = torch.softmax(self.gate(crossed), dim=1)
        mixed: Tensor = self.up((gates.unsqueeze(2) * low).flatten(1))
        return first * mixed + crossed


class CrossMixtureNetwork(nn.Module):
    """Crosses of :class:`MixtureCross` after each other, from the row's n inputs on.

    A cross has 2 n K r + K r² + n (K + 1) weights instead of n².

    Args:
        shape: The ranker's inputs.
        section: The module's fields; ``dropout`` is a number.

    Raises:
        RankerError: there are no inputs, or they do not suit the normalisation.
    """

    def __init__(self, shape: InputShape, section: CrossMixture) -> None:
        super().__init__()
        self.inputs = NormalisedInputs(shape, section.normalisation, section.kind)
        width = self.inputs.width
        self.crosses = nn.ModuleList(MixtureCross(width, section.experts, section.rank) for _ in range(section.layers))
        self.output = OutputLayers(width, section.hidden, section.dropout or 0.0)
        self.out_width = self.output.out_width

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, out_width] of numbers [B, D] and embeddings [B, F, d] of each group."""
        first = crossed = self.inputs(numbers, fields)
        for cross in self.crosses:
            crossed = cross(first, crossed)
        output: Tensor = self.output(crossed)
        return output


build = CrossMixtureNetwork
