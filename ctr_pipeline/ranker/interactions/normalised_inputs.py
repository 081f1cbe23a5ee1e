"""What the interactions with weights read: the numbers of a row, and its embeddings normalised."""

from typing import Literal

import torch
from torch import Tensor, nn

from ctr_pipeline.ranker.errors import RankerError
from ctr_pipeline.ranker.shapes import InputShape, check_shape

BOUND = 3.0
"""Largest number, in standard deviations, that a module with normalised inputs reads."""


class NormalisedInputs(nn.Module):
    """Checks the shapes of a batch and normalises its embeddings: v ↦ γ ⊙ (v - mean(v)) / std(v) + β (Ba et al., 2016).

    Mean and standard deviation are those of the row itself, so that it scores the same in any batch. Products of several
    inputs need it: embeddings grow while they are learnt, and a product of three grows with the third power. Numbers are
    standardised already, and bounded: x ↦ 3 tanh(x / 3), so that the products of a row with an extreme value keep their
    digits. Their 0/1 columns for missing values are left out: the hidden layers and the wide part read them, with weights
    that stay 0 where no training row misses a value, and a product with them would have no such zero.

    Args:
        shape: The ranker's inputs.
        normalisation: ``layer`` over all embeddings of the row together, ``field`` over each by itself; ``none`` leaves
            embeddings and numbers as they are.
        module: What asks, for messages.

    Raises:
        RankerError: there is nothing to read, or ``field`` meets an embedding of width 1.
    """

    def __init__(self, shape: InputShape, normalisation: Literal["layer", "field", "none"], module: str) -> None:
        super().__init__()
        self.shape, self.normalisation, self.module = shape, normalisation, module
        first, end = shape.flags
        self._flags = first, end
        self.numbers = shape.numbers - (end - first)
        """Width of the numbers that are read."""
        self.width = self.numbers + shape.embedded_width
        """Width of all that is read, side by side."""
        if not self.width:
            raise RankerError(f"{module} has no inputs: declare features, or remove {module} from `model.interactions`")
        self.whole: nn.LayerNorm | None = None
        self.each = nn.ModuleList()
        if normalisation == "layer" and shape.embedded_width > 1:
            self.whole = nn.LayerNorm(shape.embedded_width)
        if normalisation == "field":
            for group in shape.groups:
                if group.width == 1:
                    raise RankerError(
                        f"{module} with `normalisation: field`: the embedding of {group.columns[0]} has width 1, and would "
                        "always be 0. Make it wider, or use `normalisation: layer`"
                    )
                self.each.append(FieldNorm(len(group.columns), group.width))

    def split(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Numbers [B, :attr:`numbers`] and embeddings [B, F, d] of each group, normalised.

        Raises:
            RankerError: the batch has another shape than the module was built for.
        """
        self._check(numbers, fields)
        own = self._numbers(numbers)
        if self.whole is not None:
            flat = self.whole(torch.cat([group.flatten(1) for group in fields], dim=1))
            widths = [len(group.columns) * group.width for group in self.shape.groups]
            parts = torch.split(flat, widths, dim=1)
            fields = tuple(
                part.reshape(-1, len(group.columns), group.width)
                for part, group in zip(parts, self.shape.groups, strict=True)
            )
        elif len(self.each):
            fields = tuple(norm(group) for norm, group in zip(self.each, fields, strict=True))
        return own, fields

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        """[B, :attr:`width`] of numbers [B, D] and embeddings [B, F, d] of each group: numbers, then embeddings, normalised.

        Raises:
            RankerError: the batch has another shape than the module was built for.
        """
        if self.whole is None:
            own, normalised = self.split(numbers, fields)
            return torch.cat([own, *(group.flatten(1) for group in normalised)], dim=1)
        self._check(numbers, fields)
        flat = self.whole(torch.cat([group.flatten(1) for group in fields], dim=1))
        return torch.cat([self._numbers(numbers), flat], dim=1)

    def _numbers(self, numbers: Tensor) -> Tensor:
        first, end = self._flags
        own = numbers if first == end else torch.cat([numbers[:, :first], numbers[:, end:]], dim=1)
        return own if self.normalisation == "none" or not self.numbers else BOUND * torch.tanh(own / BOUND)

    def _check(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> None:
        check_shape(f"numbers of {self.module}", numbers, self.shape.numbers)
        if len(fields) != len(self.shape.groups):
            raise RankerError(f"{self.module}: {len(fields)} groups of embeddings, {len(self.shape.groups)} expected")
        for group, found in zip(self.shape.groups, fields, strict=True):
            check_shape(f"embeddings of {self.module}", found, len(group.columns), group.width, rows=numbers.shape[0])


class FieldNorm(nn.Module):
    """Layer normalisation of each embedding by itself, with a weight and a bias for each value of each field.

    Args:
        fields: Number of fields F.
        width: Width d of an embedding.
    """

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.weight = nn.Parameter(torch.ones(fields, width))
        self.bias = nn.Parameter(torch.zeros(fields, width))

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, F, d] of [B, F, d]."""
        normalised: Tensor = self.norm(vectors) * self.weight + self.bias
        return normalised
