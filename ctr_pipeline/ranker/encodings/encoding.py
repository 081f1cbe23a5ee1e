"""What an encoding of numbers must be able to do."""

from abc import ABC, abstractmethod
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Encoding

Place: TypeAlias = tuple[int, Encoding]
"""A column of the numeric array, and its encoding."""


class NumberEncoding(nn.Module, ABC):
    """Makes inputs of raw numbers, for all columns of one kind.

    It computes from the raw values, because arithmetic on single-precision numbers gives the same bits here and in the
    exported graph, and a logarithm does not: what a rounding error decides must not differ when the model serves. Its
    buffers come from the layout, so none is part of the stored state.
    """

    keeps_value: bool
    """Whether the model gets the standardised value too."""
    width: int
    """Number of inputs."""
    column: Tensor
    """Column of the numeric array of each input; where a column has several inputs, all columns by turns."""

    @property
    def owners(self) -> list[int]:
        """The column of the numeric array that each input is of."""
        columns: list[int] = self.column.tolist()
        return columns * (self.width // len(columns))

    @abstractmethod
    def forward(self, raw: Tensor) -> Tensor:
        """[B, width] finite inputs of raw values [B, D], NaN where missing; zeros for a missing value."""

    def hold(self, name: str, values: tuple[float, ...]) -> None:
        """Keeps ``values`` as the buffer ``name``."""
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def hold_columns(self, columns: tuple[int, ...]) -> None:
        """Keeps ``columns`` as the buffer :attr:`column`."""
        self.register_buffer("column", torch.tensor(columns, dtype=torch.int64), persistent=False)
