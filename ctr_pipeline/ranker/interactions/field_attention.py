"""Self-attention over the fields of a row."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.interactions.normalised_inputs import NormalisedInputs
from ctr_pipeline.ranker.interactions.output_layers import OutputLayers
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.spec.interactions import FieldAttention


class AttentionLayer(nn.Module):
    """Fields E [F, d] ↦ relu([head_1 … head_H] + E W_R), head_h = softmax(Q_h K_hᵀ / √(d/H)) V_h.

    Q_h = E W_Qh, K_h = E W_Kh, V_h = E W_Vh, each [F, d/H] (AutoInt: Song et al., CIKM 2019, eq. 5 to 8; scaled as in
    Vaswani et al., NeurIPS 2017).

    Args:
        width: Width d of a field.
        heads: Number of heads H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width // heads
        # Queries, keys, values and the residual in one product.
        self.projections = nn.Linear(width, 4 * width, bias=False)
        for part in self.projections.weight.chunk(4):
            nn.init.xavier_uniform_(part)

    def forward(self, fields: Tensor) -> Tensor:
        """[B, F, d] of [B, F, d]."""
        queries, keys, values, residual = self.projections(fields).chunk(4, dim=2)
        split = [
            part.unflatten(2, (self.heads, self.width)).transpose(1, 2) for part in (queries, keys, values)
        ]  # [B, H, F, d/H]
        scores = torch.softmax(split[0] @ split[1].transpose(2, 3) * self.width**-0.5, dim=3)
        attended = (scores @ split[2]).transpose(1, 2).flatten(2)
        return functional.relu(attended + residual)


class FieldAttentionNetwork(nn.Module):
    """Layers of :class:`AttentionLayer` over the fields; the output is all fields side by side.

    Each embedding, whatever its width, is mapped to the module's width; all numbers together are one more field.

    Args:
        shape: The ranker's inputs.
        section: The module's fields; ``dropout`` is a number.

    Raises:
        RankerError: there are fewer than two fields, or they do not suit the normalisation.
    """

    def __init__(self, shape: InputShape, section: FieldAttention) -> None:
        super().__init__()
        self.inputs = NormalisedInputs(shape, section.normalisation, section.kind)
        self.fields = sum(len(group.columns) for group in shape.groups) + bool(self.inputs.numbers)
        if self.fields < 2:
            raise RankerError(
                f"{section.kind} compares fields with each other, and there is only one: declare another feature, or remove "
                f"{section.kind} from `model.interactions`"
            )
        width = section.width
        self.of_numbers = nn.Linear(self.inputs.numbers, width) if self.inputs.numbers else None
        self.of_embeddings = nn.ModuleList(nn.Linear(group.width, width, bias=False) for group in shape.groups)
        for linear in [*self.of_embeddings, *([] if self.of_numbers is None else [self.of_numbers])]:
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_uniform_(linear.weight)
        if self.of_numbers is not None:
            nn.init.zeros_(self.of_numbers.bias)
        self.layers = nn.ModuleList(AttentionLayer(width, section.heads) for _ in range(section.layers))
        self.output = OutputLayers(self.fields * width, section.hidden, section.dropout or 0.0)
        self.out_width = self.output.out_width

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, out_width] of numbers [B, D] and embeddings [B, F, d] of each group."""
        own, normalised = self.inputs.split(numbers, fields)
        parts = [linear(group) for linear, group in zip(self.of_embeddings, normalised, strict=True)]
        if self.of_numbers is not None:
            parts.append(self.of_numbers(own).unsqueeze(1))
        attended = torch.cat(parts, dim=1)
        for layer in self.layers:
            attended = layer(attended)
        output: Tensor = self.output(attended.flatten(1))
        return output


build = FieldAttentionNetwork
