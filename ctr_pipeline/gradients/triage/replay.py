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
        loss: Computes the scalar from which backward started, likewise; None where only the forward pass is known.
    """

    forward: Callable[[], Tensor]
    random: Mapping[str, Any]
    device: torch.device
    loss: Callable[[], Tensor] | None = None

    @contextmanager
    def generators(self) -> Iterator[None]:
        """The generators as they were when the step began; afterwards as they were before the block."""
        with _generators_at(self.random, self.device):
            yield

    def value(self) -> Tensor:
        """The scalar from which backward starts: the loss, or where it is not known the sum of the logits."""
        return self.forward().sum() if self.loss is None else self.loss()


@contextmanager
def _generators_at(random: Mapping[str, Any], device: torch.device) -> Iterator[None]:
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.set_rng_state(random["torch"])
        if on_gpu:
            torch.cuda.set_rng_state(random["cuda"], device)
        yield
