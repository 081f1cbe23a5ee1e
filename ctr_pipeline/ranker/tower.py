"""The hidden layers."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctr_pipeline.ranker.initialisation import start_at_zero
from ctr_pipeline.ranker.split_columns import SplitColumns, linear_terms
from ctr_pipeline.spec.model import Model

_SIXTEEN_BITS = 2**16
"""How many values a number of 16 bits has."""


class InputLinear(nn.Linear):
    """A linear layer over the numbers and the embeddings side by side, as two products.

    Numbers have no gradient, and there are many of them where each has bins: of one product over both the backward pass
    would compute it all the same.

    Args:
        numbers: Width of the encoded numbers.
        embedded: Width of all embeddings.
        out: Width of the output.
    """

    def __init__(self, numbers: int, embedded: int, out: int) -> None:
        super().__init__(numbers + embedded, out)
        self.numbers = numbers

    def forward(  # type: ignore[override]
        self, numbers: Tensor | SplitColumns, embedded: Tensor | SplitColumns
    ) -> Tensor:
        """[B, out] of [B, numbers] and [B, embedded]."""
        if isinstance(numbers, SplitColumns) or isinstance(embedded, SplitColumns):
            return self._of_requests(numbers, embedded)
        if self.numbers == 0 or self.numbers == self.in_features:
            return super().forward(numbers if self.numbers else embedded)
        of_numbers, of_embedded = torch.split(self.weight, [self.numbers, self.in_features - self.numbers], dim=1)
        return functional.linear(numbers, of_numbers, self.bias) + functional.linear(embedded, of_embedded)

    def _of_requests(self, numbers: Tensor | SplitColumns, embedded: Tensor | SplitColumns) -> Tensor:
        assert isinstance(numbers, SplitColumns), "both are split, or none"
        assert isinstance(embedded, SplitColumns), "both are split, or none"
        of_numbers, of_embedded = torch.split(self.weight, [self.numbers, self.in_features - self.numbers], dim=1)
        return numbers.rows.total(*linear_terms([(numbers, of_numbers), (embedded, of_embedded)], self.bias))


class Dropout(nn.Module):
    """Zeroes a share of the values in training and scales the others by 1/(1 - share), as torch's own module does.

    On a CPU that one draws a number for each value, which takes longer than the matrix products around it. Here one
    number of 64 bits decides on four values, so the share is one of 65,536.

    Args:
        share: Share of the values that are zeroed, below 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped = min(round(share * _SIXTEEN_BITS), _SIXTEEN_BITS - 1)

    def forward(self, values: Tensor) -> Tensor:
        """``values`` with zeros among them."""
        if not self.training or self.dropped == 0:
            return values
        drawn = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device)
        sixteen = drawn.random_(-(2**63), None).view(torch.int16)[: values.numel()].view(values.shape)
        kept = sixteen >= self.dropped - _SIXTEEN_BITS // 2
        return values * kept.to(values.dtype).mul_(_SIXTEEN_BITS / (_SIXTEEN_BITS - self.dropped))


class HiddenGate(nn.Module):
    """h ↦ h ⊙ 2 sigmoid(W h + b): each hidden unit is weighed by the layer it is in (GateNet: Huang et al., 2020).

    W and b start with zeros, so that all gates start at 1; gates are in (0, 2). (In a feed model: LiRank, Borisyuk et al.,
    KDD 2024.)

    Args:
        width: Width of the layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        start_at_zero(self.linear)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, width] of [B, width]."""
        gates: Tensor = 2 * torch.sigmoid(self.linear(hidden))
        return hidden * gates


class HiddenLayer(nn.Module):
    """A linear layer, normalisation, rectification and dropout.

    Args:
        linear: The linear layer.
        normalised: Whether its output is normalised.
        dropout: Share of values zeroed in training.
        residual: Whether the layer's input is added to its output.
        gated: Whether the layer's units have gates.
    """

    def __init__(
        self, linear: nn.Linear, *, normalised: bool, dropout: float, residual: bool = False, gated: bool = False
    ) -> None:
        super().__init__()
        self.residual = residual
        self.linear = linear
        # The statistics are those of the row itself (Ba et al., 2016): a row scores the same in any batch.
        self.norm = nn.LayerNorm(linear.out_features) if normalised else nn.Identity()
        self.activation = nn.ReLU()
        # None, not a module that does nothing: the exported graph of a model without it stays what it was.
        self.gate = HiddenGate(linear.out_features) if gated else None
        self.dropout = Dropout(dropout)

    def forward(self, *inputs: Tensor) -> Tensor:
        """[B, out] of what the linear layer reads."""
        hidden: Tensor = self.activation(self.norm(self.linear(*inputs)))
        if self.gate is not None:
            hidden = self.gate(hidden)
        hidden = self.dropout(hidden)
        return inputs[0] + hidden if self.residual else hidden


class Tower(nn.ModuleList):
    """The hidden layers, from the encoded numbers and the embeddings on.

    Args:
        numbers: Width of the encoded numbers.
        embedded: Width of all embeddings.
        model: The spec's model section.
    """

    def __init__(self, numbers: int, embedded: int, model: Model) -> None:
        super().__init__()
        self.out_width = numbers + embedded
        for place, width in enumerate(model.hidden):
            linear = nn.Linear(self.out_width, width) if place else InputLinear(numbers, embedded, width)
            self.append(
                HiddenLayer(
                    linear,
                    normalised=model.normalisation == "layer",
                    dropout=model.dropout or 0.0,
                    residual=model.residual and place > 0 and self.out_width == width,
                    gated=model.hidden_gates,
                )
            )
            self.out_width = width

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers, the first first."""
        return [layer.linear for layer in self if isinstance(layer, HiddenLayer)]

    @property
    def firsts(self) -> list[nn.Linear]:
        """The one that reads the inputs; none where there is no layer."""
        return self.linears[:1]

    @property
    def named_linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """The linear layers by the names of their initial weights."""
        for place, linear in enumerate(self.linears):
            yield f"hidden layer {place}", linear

    def forward(self, numbers: Tensor | SplitColumns, embedded: Tensor | SplitColumns) -> Tensor:
        """[B, out_width] of [B, numbers] and [B, embedded]; both side by side where there is no layer."""
        if not len(self):
            parts = [part.joined() if isinstance(part, SplitColumns) else part for part in (numbers, embedded)]
            return torch.cat(parts, dim=1)
        first, *others = self
        hidden: Tensor = first(numbers, embedded)
        for layer in others:
            hidden = layer(hidden)
        return hidden
