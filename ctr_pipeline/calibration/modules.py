"""Calibrators as torch modules, for the exported graph. Imported only where torch is needed."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """Logits [B, T] times ``slopes`` [T] plus ``offsets`` [T]."""

    slopes: Tensor
    offsets: Tensor

    def __init__(self, slopes: Sequence[float], offsets: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(slopes, dtype=torch.float32))
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float32))

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits [B, T]."""
        return logits * self.slopes + self.offsets
