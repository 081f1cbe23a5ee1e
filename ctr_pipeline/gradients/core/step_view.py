"""What is known of a training step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ctr_pipeline.gradients.core.activations import Activation

TensorRow = tuple[int, str, str, str, float]
"""A measurement in long form: step, tensor, kind, statistic, value."""


# Not frozen: to freeze it doubles the time that making one takes, and each step makes one.
@dataclass(slots=True, kw_only=True)
class StepRecord:
    """What happened in one step.

    Attributes:
        step: Steps taken before this one.
        epoch: Epoch, from 0.
        loss: The loss that was minimised.
        task_losses: Mean loss of each task, without the task's loss weight.
        grad_norm: Global gradient norm before clipping.
        norm_ratio: The norm relative to the running median; None while there is too little history.
        clipped: Whether the gradient was scaled down.
        skipped: Whether the fp16 scaler skipped the update.
        learning_rate: Step size of the dense parameters.
        rows: Rows of the batch, over all processes.
        known_labels: Labels of each task that are known, over all processes.
        loss_scale: Factor on the loss while gradients were computed; 1 but in fp16.
        batch_hash: A number of the batch's content, of this process's rows; None where nobody computed it.
        layer_norms: Gradient norm of each layer before clipping, on logged steps; else empty.
        task_weights: Weight of each task in the loss, where it may differ between steps; else empty.
    """

    step: int
    epoch: int
    loss: float
    task_losses: Mapping[str, float]
    grad_norm: float
    norm_ratio: float | None
    clipped: bool
    skipped: bool
    learning_rate: float
    rows: int
    known_labels: Mapping[str, int] = field(default_factory=dict)
    loss_scale: float = 1.0
    batch_hash: int | None = None
    layer_norms: Mapping[str, float] = field(default_factory=dict)
    task_weights: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """One flat JSON object, with loss_<task>, known_<task>, weight_<task> by task; norms by layer are in gradients.parquet."""
        # By hand: `asdict` copies what is in it, which takes as long as all else that is done for a record.
        return {
            "step": self.step, "epoch": self.epoch, "loss": self.loss, "grad_norm": self.grad_norm,
            "norm_ratio": self.norm_ratio, "clipped": self.clipped, "skipped": self.skipped,
            "learning_rate": self.learning_rate, "rows": self.rows, "loss_scale": self.loss_scale,
            "batch_hash": self.batch_hash,
            **{f"loss_{task}": value for task, value in self.task_losses.items()},
            **{f"known_{task}": value for task, value in self.known_labels.items()},
            **{f"weight_{task}": value for task, value in self.task_weights.items()},
        }  # fmt: skip

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON, at half of the cost: a step has a line, and a small model's step takes milliseconds."""
        if self.task_weights or not math.isfinite(self.loss + self.grad_norm + sum(self.task_losses.values())):
            return json.dumps(self.to_dict())
        ratio = "null" if self.norm_ratio is None else repr(self.norm_ratio)
        values = (
            self.step, self.epoch, self.loss, self.grad_norm, ratio, "true" if self.clipped else "false",
            "true" if self.skipped else "false", self.learning_rate, self.rows, self.loss_scale,
            "null" if self.batch_hash is None else self.batch_hash, *self.task_losses.values(), *self.known_labels.values(),
        )  # fmt: skip
        return _template(tuple(self.task_losses), tuple(self.known_labels)) % values


@cache
def _template(losses: tuple[str, ...], known: tuple[str, ...]) -> str:
    """Where the values of a line go."""
    fixed = (
        '"step": %d, "epoch": %d, "loss": %r, "grad_norm": %r, "norm_ratio": %s, "clipped": %s, "skipped": %s, '
        '"learning_rate": %r, "rows": %d, "loss_scale": %r, "batch_hash": %s'
    )
    named = [json.dumps(f"loss_{task}").replace("%", "%%") + ": %r" for task in losses]
    named += [json.dumps(f"known_{task}").replace("%", "%%") + ": %d" for task in known]
    return "{" + ", ".join([fixed, *named]) + "}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStart:
    """A step that begins.

    Attributes:
        step: Steps taken before this one.
        probed: Whether the step is measured in detail: :attr:`StepView.probe` will be there.
    """

    step: int
    probed: bool


@dataclass(frozen=True, slots=True)
class AppliedRate:
    """The learning rates of an optimizer's groups when it had made an update.

    Attributes:
        optimizer: Its class.
        planned: What the schedule gave all of them before the step.
        lowest: The lowest of them.
        highest: The highest.
    """

    optimizer: str
    planned: float
    lowest: float
    highest: float


class GradientFormula(Protocol):
    """A loss that may know its gradient by formula."""

    def logit_gradient(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor | None:
        """[B, T] derivative of the tasks' sums by each logit, 0 for a task without a formula; None when none has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossView:
    """The loss of a step and its gradient, this process's rows.

    Attributes:
        logits: [B, T] logits, detached.
        labels: [B, T] 1, 0, or -1 where not known.
        weights: [B, T] weights of the rows.
        gradient: [B, T] gradient of the loss with respect to the logits, as autograd brought it; not scaled.
        counts: [T] known labels of each task, over all processes.
        loss_weights: [T] weights of the tasks in the loss.
        formula: The loss, for its gradient by formula.
    """

    logits: Tensor
    labels: Tensor
    weights: Tensor
    gradient: Tensor
    counts: Tensor
    loss_weights: Tensor
    formula: GradientFormula


@dataclass(frozen=True, slots=True)
class Update:
    """A weight matrix before and after the update.

    Attributes:
        name: Name of the parameter.
        before: Its values before the update.
        after: Its values after it.
        rows: For a table with a sparse gradient the rows that it touched, which ``before`` and ``after`` hold alone;
            else None.
        norms: Norms of ``before`` and of the change, where they were computed already.
    """

    name: str
    before: Tensor
    after: Tensor
    rows: Tensor | None = None
    norms: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The tensors of a step that is measured in detail.

    Attributes:
        loss: Logits, labels and gradient; None for a process without rows.
        activations: The hidden activations of the forward pass.
        updates: The dense weight matrices.
        hidden: Whether the model has hidden layers, whose activations are expected to be seen.
    """

    loss: LossView | None
    activations: Sequence[Activation]
    updates: Sequence[Update]
    hidden: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A step as detectors see it.

    Attributes:
        record: Its numbers.
        stopped: Whether a value that is not finite stopped the run before the update.
        names: Parameters that have a gradient.
        norms: Norm of each of their gradients before clipping.
        probe: Tensors, on steps that are measured in detail.
        read: ``read(values, receive)`` passes the numbers of a tensor [K] to ``receive`` once all detectors have
            observed the step: what all of them read comes from the device in one copy.
        note: ``note(tensor, kind, statistic, value)`` adds a row to gradients.parquet.
    """

    record: StepRecord
    stopped: bool
    names: Sequence[str]
    norms: Sequence[float]
    probe: Probe | None
    read: Callable[[Tensor, Callable[[list[float]], None]], None]
    note: Callable[[str, str, str, float], None]
