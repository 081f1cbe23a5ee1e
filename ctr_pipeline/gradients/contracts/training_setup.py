"""What the contracts are checked on: a model, a batch, a loss, and the step that trains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """What has a state that a checkpoint keeps: an optimizer, a scaler, a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Continue from it."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """A model and how it is trained. Contracts leave all of it as they found it.

    Attributes:
        model: Any module.
        batch: One batch: a tensor, or tensors in tuples, lists, mappings or dataclasses. B samples.
        forward: Computes the logits, [B] or [B, T], from a model and a batch. It must use the model that it is given,
            which may be a copy.
        loss: The scalar to minimise, from logits and a batch.
        optimizers: Those that update the model.
        labels: [B] or [B, T] labels of a batch, 0 or 1; below 0 where not known.
        weights: Weights of the labels, where the loss has any; of the shape of the labels.
        without_labels: A batch with no known label of one task (its column; 0 for the only one).
        clip: Limits the gradients of parameters, as the step does before its update; None where it does not.
        step: The step that is tested: from a batch to an update of ``model``. By default the usual one.
        others: Further parts with a state that a step changes: loss scaler, schedule, averaged weights.
    """

    model: nn.Module
    batch: Any
    forward: Callable[[nn.Module, Any], Tensor]
    loss: Callable[[Tensor, Any], Tensor]
    optimizers: Sequence[torch.optim.Optimizer] = ()
    labels: Callable[[Any], Tensor] | None = None
    weights: Callable[[Any], Tensor] | None = None
    without_labels: Callable[[Any, int], Any] | None = None
    clip: Callable[[Sequence[nn.Parameter]], object] | None = None
    step: Callable[[Any], object] | None = None
    others: Sequence[Stateful] = ()

    def take_step(self, batch: Any | None = None) -> None:
        """One step on ``batch``, by default the setup's own: the one that is tested, or the usual one."""
        batch = self.batch if batch is None else batch
        if self.step is not None:
            self.step(batch)
            return
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.loss(self.forward(self.model, batch), batch).backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            self.clip([p for p in self.model.parameters() if p.grad is not None])
        for optimizer in self.optimizers:
            optimizer.step()

    def measured_loss(self, batch: Any | None = None) -> float:
        """The loss on ``batch`` now."""
        batch = self.batch if batch is None else batch
        with torch.no_grad():
            return float(self.loss(self.forward(self.model, batch), batch))


def device_of(model: nn.Module) -> torch.device:
    """Where the model computes; the CPU for one without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def padding_rows(model: nn.Module) -> Mapping[str, int]:
    """For each embedding table with a padding row, by the name of its weight, that row: it has no gradient by design."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
            found[f"{name}.weight" if name else "weight"] = int(module.padding_idx)
    return found
