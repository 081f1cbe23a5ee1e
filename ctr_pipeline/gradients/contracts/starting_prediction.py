"""An untrained model predicts the base rate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "starting_prediction"
LIMIT = 1.0
"""Largest root mean square of logit(prediction) − logit(base rate): a factor of e on the odds."""


def starting_prediction_outcome(
    logits: Tensor, rates: Sequence[float], tasks: Sequence[str], *, limit: float = LIMIT
) -> Outcome:
    """Whether the logits of an untrained model are near the base rate's for each task.

    A model that starts elsewhere spends its first steps, the largest ones, on unlearning noise: its initial weights are too
    large, an input is not normalised, or the head starts without its bias.

    Args:
        logits: [B, T] logits of the untrained model.
        rates: [T] share of positives of each task; a task whose rate is not in (0, 1) is left out.
        tasks: [T] names.
        limit: Largest root mean square of the differences.
    """
    worst, where, bias = -1.0, "", 0.0
    for task, (name, rate) in enumerate(zip(tasks, rates, strict=True)):
        if not 0 < rate < 1 or not logits.shape[0]:
            continue
        difference = logits[:, task].detach().double() - float(torch.logit(torch.tensor(rate, dtype=torch.float64)))
        found = float(difference.square().mean().sqrt())
        found = found if found == found else float("inf")
        if found > worst:
            worst, where, bias = found, name, float(difference.mean())
    if worst < 0:
        return Outcome(name=NAME, verdict="not_measured", message="no task has a base rate between 0 and 1")
    if worst > limit:
        what = "shifted" if abs(bias) > 0.7 * worst else "scattered"
        message = (
            f"before the first step the logits of task {where} are {what} by {worst:.3g} around its base rate (at most "
            f"{limit:g} expected): "
            + (
                "set the head's bias to the logit of the base rate"
                if what == "shifted"
                else "initial weights or embeddings are too large, or an input is not normalised"
            )
        )
        return Outcome(name=NAME, verdict="failed", message=message, measured=worst, limit=limit, where=where)
    message = f"the untrained model predicts the base rates (largest difference of the logits {worst:.2g})"
    return Outcome(name=NAME, verdict="passed", message=message, measured=worst, limit=limit, where=where)
