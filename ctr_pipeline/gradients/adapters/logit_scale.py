"""Nothing multiplies the logits of the ranker's heads."""

import torch
from torch import Tensor

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.rehearsal import BuiltTraining
from ctr_pipeline.gradients.contracts.outcome import Outcome

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
    of a funnel are chained to the first ones and not looked at.

    Args:
        built: The training; its model is in evaluation mode.
        batch: Some rows.
        logits: [B, T] their logits.
    """
    model = built.model
    roots = [task for task, parent in enumerate(model.parents) if parent < 0]
    bias = model.head.bias
    own = bias.detach().clone()
    slopes = _rise(built, batch, logits, 1.0)[:, roots]
    bias.copy_(own)
    far = _rise(built, batch, logits, FAR)[:, roots]
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


def _rise(built: BuiltTraining, batch: BatchView, logits: Tensor, by: float) -> Tensor:
    """[B, T] by how much the logits rise with the biases of the heads, a unit; the biases are left ``by`` higher."""
    built.model.head.bias.add_(by)
    return (built.forward(batch) - logits).double() / by
