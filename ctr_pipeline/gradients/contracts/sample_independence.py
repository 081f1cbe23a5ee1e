"""No sample's logit depends on another sample's input."""

import copy

import torch

from ctr_pipeline.gradients.contracts.batch_tensors import in_double, select_rows
from ctr_pipeline.gradients.contracts.kept_state import fixed_random, kept_model
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "cross_sample"
LIMIT = 1e-5
"""Largest change relative to the size of the logits: rounding only, of a sum in another order."""


def check_cross_sample(
    setup: TrainingSetup, *, training: bool | None = None, limit: float = LIMIT, kept: int = 2, double: bool = True
) -> Outcome:
    """The logits of some samples stay as they are when the inputs of all others are exchanged.

    Exchanged, not differentiated: ids have no gradient. The samples stay in their places, so that dropout is the same.

    Args:
        setup: What is tested.
        training: Mode of the model; its own by default. Batch normalisation mixes samples in training by design: test such
            a model with False.
        limit: Largest change: relative to the standard deviation of the logits in float64, since those of an untrained model
            may hardly differ; else to the largest logit, or 1.
        kept: Every how many samples one is kept.
        double: Whether a copy of the model in float64 is looked at.
    """
    model, batch = setup.model, setup.batch
    if double:
        model, batch = copy.deepcopy(model).double(), in_double(batch)
    with kept_model(model), torch.no_grad():
        if training is not None:
            model.train(training)
        with fixed_random(model):
            logits = setup.forward(model, batch)
        samples = logits.shape[0]
        if samples < 2:
            return Outcome(name=NAME, verdict="not_measured", message="the batch has one sample: give it more")
        broken = (~torch.isfinite(logits)).reshape(samples, -1).any(dim=1)
        if bool(broken.any()):
            # NaN differs from itself, so a comparison would blame the exchange for what was there before it.
            message = (
                f"the logits of {int(broken.sum())} of {samples} samples are not finite before any input is exchanged, the "
                f"first of them of sample {int(broken.nonzero()[0])}: cure that first"
            )
            return Outcome(name=NAME, verdict="not_measured", message=message)
        order = torch.arange(samples)
        stay = order % kept == 0
        others = order[~stay]
        # Half of the others receive the inputs of one of them, the rest those of the samples that stay.
        order[~stay] = torch.where(others % 4 < 2, others.roll(1), others - 1)
        with fixed_random(model):
            changed = setup.forward(model, select_rows(batch, order, samples))
    stay = stay.to(logits.device)
    difference = (changed[stay] - logits[stay]).abs().double()
    spread = float(logits.std(dim=0).max())
    exact = logits.dtype == torch.float64 and spread > 0
    scale = spread if exact else float(logits.abs().max().clamp_min(1.0))
    measured = float(difference.max()) / scale
    if measured <= limit:
        message = f"logits depend on their own sample alone (largest change {measured:.2g})"
        return Outcome(name=NAME, verdict="passed", message=message, measured=measured, limit=limit)
    changed_rows = ~(difference.reshape(difference.shape[0], -1).amax(dim=1) <= limit * scale)
    share = float(changed_rows.double().mean())
    message = (
        f"when the inputs of other samples are exchanged, {share:.0%} of the logits change, by up to {measured:.3g} "
        f"(limit {limit:g}): something reduces or normalises over the batch; look for dim=0, a softmax over the wrong "
        "axis, a view that mixes rows, or batch normalisation"
    )
    return Outcome(name=NAME, verdict="failed", message=message, measured=measured, limit=limit)
