"""Runs a step's forward pass once more, exactly as it ran."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Replay:
    """The forward pass of a step.

    Attributes:
        forward: Computes the [B, T] logits as the training step does: same batch, same modules, same precision of
            each part.
        random: State of torch's generators when the step began: ``torch``, and ``cuda`` (None on a CPU).
        device: Where the model computes.
    """

    forward: Callable[[], Tensor]
    random: Mapping[str, Any]
    device: torch.device

    def run(self) -> Tensor:
        """The step's logits again, without gradients; generators are left as they were before the call."""
        with _generators_at(self.random, self.device), torch.no_grad():
            return self.forward()


@contextmanager
def _generators_at(random: Mapping[str, Any], device: torch.device) -> Iterator[None]:
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.set_rng_state(random["torch"])
        if on_gpu:
            torch.cuda.set_rng_state(random["cuda"], device)
        yield
