"""The hidden layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional

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

    def forward(self, numbers: Tensor, embedded: Tensor) -> Tensor:  # type: ignore[override]
        """[B, out] of [B, numbers] and [B, embedded]."""
        if self.numbers == 0 or self.numbers == self.in_features:
            return super().forward(numbers if self.numbers else embedded)
        of_numbers, of_embedded = torch.split(self.weight, [self.numbers, self.in_features - self.numbers], dim=1)
        return functional.linear(numbers, of_numbers, self.bias) + functional.linear(embedded, of_embedded)


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


class HiddenLayer(nn.Module):
    """A linear layer, normalisation, rectification and dropout.

    Args:
        linear: The linear layer.
        model: The spec's model section.
        residual: Whether the layer's input is added to its output.
    """

    def __init__(self, linear: nn.Linear, model: Model, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.linear = linear
        # The statistics are those of the row itself (Ba et al., 2016): a row scores the same in any batch.
        self.norm = nn.LayerNorm(linear.out_features) if model.normalisation == "layer" else nn.Identity()
        self.activation = nn.ReLU()
        self.dropout = Dropout(model.dropout or 0.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """[B, out] of what the linear layer reads."""
        hidden: Tensor = self.dropout(self.activation(self.norm(self.linear(*inputs))))
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
            self.append(HiddenLayer(linear, model, model.residual and place > 0 and self.out_width == width))
            self.out_width = width

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers, the first first."""
        return [layer.linear for layer in self if isinstance(layer, HiddenLayer)]

    def forward(self, numbers: Tensor, embedded: Tensor) -> Tensor:
        """[B, out_width] of [B, numbers] and [B, embedded]; both side by side where there is no layer."""
        if not len(self):
            return torch.cat([numbers, embedded], dim=1)
        first, *others = self
        hidden: Tensor = first(numbers, embedded)
        for layer in others:
            hidden = layer(hidden)
        return hidden
