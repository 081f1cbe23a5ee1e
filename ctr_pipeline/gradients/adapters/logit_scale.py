"""Nothing multiplies the logits of the ranker's heads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.rehearsal import BuiltTraining
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.ranker.position import ExaminationEffect, PositionEffect

NAME = "logit_scale"

LIMIT = 0.05
"""Largest distance from 1 of the slope of a logit by its head's bias; in float32 it is 1 to some 10⁻⁶, in 16 bits too, as heads are
computed in float32."""


FAR = 4.0
"""Second rise of the bias, by which a factor is told from a curve."""


@torch.no_grad()
def logit_scale_outcome(built: BuiltTraining, batch: BatchView, logits: Tensor) -> Outcome:
    """Whether the logit of each first step of a funnel rises by 1 with the bias of its head.

    A temperature that stayed in the model multiplies it; a sigmoid, a tanh or a limit behind the head bends it. Later steps
    of a funnel are chained to the first ones and not looked at. An examination multiplies the probability, which bends the
    logit, as it should: of its tasks, what it reads is looked at.

    Args:
        built: The training; its model is in evaluation mode.
        batch: Some rows.
        logits: [B, T] their logits.
    """
    model = built.model
    roots = [task for task, parent in enumerate(model.parents) if parent < 0]
    bias = model.head.bias
    own = bias.detach().clone()
    with _before_examination(model.position) as read:
        start = read(built.forward(batch)) if read.used else logits
        bias.add_(1.0)
        slopes = (read(built.forward(batch)) - start).double()[:, roots]
        bias.copy_(own + FAR)
        far = (read(built.forward(batch)) - start).double()[:, roots] / FAR
        bias.copy_(own)
    if not slopes.numel() or not bool(torch.isfinite(slopes).all()):
        return Outcome(name=NAME, verdict="not_measured", message="there are no finite logits")
    apart = (slopes - 1).abs().amax(dim=0)
    at = int(apart.argmax())
    task, found = built.layout.tasks[roots[at]], float(apart[at])
    if found > LIMIT:
        low, high = float(slopes[:, at].min()), float(slopes[:, at].max())
        # An untrained model has about the same logit for each row: only farther on a curve is told from a line.
        bent = float((far - slopes)[:, at].abs().max())
        constant = max(high - low, bent) <= LIMIT * max(abs(high), 1e-12)
        what = (
            f"{high:.4g}, whatever the row: something multiplies the logits; remove the factor (a temperature belongs to the "
            "calibration)"
            if constant
            else f"{low:.4g} to {high:.4g} by row: something bends them (a sigmoid, a tanh, a limit); leave logits as they are"
        )
        message = f"when the bias of the head rises by 1, the logit of task {task} rises by {what}"
        return Outcome(
            name=NAME, verdict="failed", message=message, measured=high if constant else found, limit=1 + LIMIT, where=task
        )  # fmt: skip
    message = "logits rise by 1 with the bias of their head"
    return Outcome(name=NAME, verdict="passed", message=message, measured=found, limit=LIMIT)


@dataclass(slots=True)
class _Read:
    """Logits [B, T], of the tasks with an examination those that it reads.

    Attributes:
        tasks: Columns of these tasks.
        given: [B, T] what the examination was given last; None where there is none.
    """

    tasks: tuple[int, ...] = ()
    given: Tensor | None = None

    @property
    def used(self) -> bool:
        """Whether there is an examination."""
        return bool(self.tasks)

    def __call__(self, logits: Tensor) -> Tensor:
        if self.given is None:
            return logits
        logits = logits.clone()
        columns = list(self.tasks)
        logits[:, columns] = self.given[:, columns]
        return logits


@contextmanager
def _before_examination(position: PositionEffect | None) -> Iterator[_Read]:
    """Reads what the examination of a model reads, inside the block."""
    read = _Read()
    if not isinstance(position, ExaminationEffect):
        yield read
        return
    read.tasks = position.tasks

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        read.given = given[0].detach()

    handle = position.register_forward_pre_hook(keep)
    try:
        yield read
    finally:
        handle.remove()
