"""Arithmetic of the dense part: single precision, or 16 bits where the hardware gains from it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

MAX_SKIPS = 20
"""Skipped fp16 steps in a row after which the loss scale has collapsed; 16 halvings lead from its start to 1."""


class Precision:
    """Autocast for the dense part and, for fp16, the loss scaler.

    Args:
        name: fp32, bf16 or fp16.
        device: Where the model computes.
    """

    def __init__(self, name: Literal["fp32", "bf16", "fp16"], device: torch.device) -> None:
        self.name = name
        self._device = device
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
        self._scales = name == "fp16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._scales)
        self._skips = 0

    def warning(self) -> str | None:
        """Why this precision may be slower here than fp32; None when it should not be."""
        if self.name == "bf16" and not _has_bf16(self._device):
            return "this hardware has no bf16 arithmetic: precision bf16 works but is slower than fp32 here"
        if self.name == "fp16" and self._device.type == "cpu":
            return "fp16 on a CPU is for trials only: it is slower than fp32"
        return None

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which the dense part runs."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self.name != "fp32")

    @property
    def factor(self) -> float:
        """Factor on the loss, and thereby on gradients before :meth:`unscale`."""
        return float(self._scaler.get_scale()) if self._scales else 1.0

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to run backward from."""
        if not self._scales:
            return loss
        scaled: Tensor = self._scaler.scale(loss)
        return scaled

    def unscale(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Divide gradients by the factor; before they are measured or clipped."""
        if self._scales:
            for optimizer in optimizers:
                self._scaler.unscale_(optimizer)

    def may_skip(self) -> bool:
        """Whether a non-finite gradient is the scaler's search for a factor and no fault."""
        return self._scales and self._skips < MAX_SKIPS

    def step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Let the optimizers step; the factor stays until :meth:`adapt`."""
        for optimizer in optimizers:
            if self._scales:
                self._scaler.step(optimizer)
            else:
                optimizer.step()

    def adapt(self, skipped: bool) -> None:
        """Adapt the factor to a step that was taken or ``skipped``."""
        if self._scales:
            self._skips = self._skips + 1 if skipped else 0
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"scaler": self._scaler.state_dict(), "skips": self._skips}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._scaler.load_state_dict(state["scaler"])
        self._skips = state["skips"]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
