"""Gates on the inputs: in which context a feature counts, and how much."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.initialisation import start_at_zero
from ctr_pipeline.ranker.interactions.normalised_inputs import NormalisedInputs
from ctr_pipeline.ranker.interactions.output_layers import OutputLayers
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.spec.interactions import FeatureGates


class GatedInputs(nn.Module):
    """x ↦ x ⊙ g, g = 2 sigmoid(W_2 relu(W_1 c + b_1) + b_2): gates in (0, 2) on the row's n inputs x, from its context c.

    A gate belongs to one value of x (``by: element``), or to one embedding or all numbers (``by: field``). c is x, or the
    embeddings of the features that ``context`` names. W_2 starts with zeros, so that all gates start at 1. Hidden layers
    read the gated inputs. (Feature embedding gate: GateNet, Huang et al., 2020; gates by context in a feed model: LiRank,
    Borisyuk et al., KDD 2024; the factor 2: FinalMLP, Mao et al., AAAI 2023.)

    Args:
        shape: The ranker's inputs.
        section: The module's fields; ``dropout`` is a number.

    Raises:
        RankerError: there are no inputs, they do not suit the normalisation, or ``context`` names a feature that has no
            embedding.
    """

    widths: Tensor

    def __init__(self, shape: InputShape, section: FeatureGates) -> None:
        super().__init__()
        self.inputs = NormalisedInputs(shape, section.normalisation, section.kind)
        self._context = self._columns(shape, section)
        context = self.inputs.width if self._context is None else len(self._context)
        # How many values each gate covers.
        widths = [self.inputs.numbers] if self.inputs.numbers else []
        widths += [group.width for group in shape.groups for _ in group.columns]
        self.by_field = section.by == "field"
        gate_of = [gate for gate, width in enumerate(widths) for _ in range(width)]
        self.register_buffer("gate_of", torch.tensor(gate_of, dtype=torch.int64), persistent=False)
        self.register_buffer("read", torch.tensor(self._context or [], dtype=torch.int64), persistent=False)
        self.aggregation = nn.Linear(context, section.gate_width)
        self.gates = nn.Linear(section.gate_width, len(widths) if self.by_field else self.inputs.width)
        nn.init.kaiming_uniform_(self.aggregation.weight, nonlinearity="relu")
        nn.init.zeros_(self.aggregation.bias)
        start_at_zero(self.gates)
        nn.init.zeros_(self.gates.bias)
        self.output = OutputLayers(self.inputs.width, section.hidden, section.dropout or 0.0)
        self.out_width = self.output.out_width

    def _columns(self, shape: InputShape, section: FeatureGates) -> list[int] | None:
        """Places of the context among the inputs side by side; None for all of them."""
        if not section.context:
            return None
        starts, at = dict[str, range](), self.inputs.numbers
        for group in shape.groups:
            for name in group.columns:
                starts[name] = range(at, at + group.width)
                at += group.width
        if unknown := [name for name in section.context if name not in starts]:
            raise RankerError(
                f"{section.kind}: `context` names {', '.join(unknown)}; embedded features: {', '.join(starts) or 'none'}"
            )
        return [place for name in section.context for place in starts[name]]

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, out_width] of numbers [B, D] and embeddings [B, F, d] of each group."""
        inputs = self.inputs(numbers, fields)
        context = inputs if self._context is None else torch.index_select(inputs, 1, self.get_buffer("read"))
        gates = 2 * torch.sigmoid(self.gates(functional.relu(self.aggregation(context))))
        if self.by_field:
            gates = torch.index_select(gates, 1, self.get_buffer("gate_of"))
        output: Tensor = self.output(inputs * gates)
        return output


build = GatedInputs
