"""A model that can learn learns one batch by heart."""

import math

from ctr_pipeline.gradients.contracts.kept_state import kept_state
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "overfits_one_batch"


def check_overfits_one_batch(setup: TrainingSetup, *, steps: int = 200, share: float = 0.5) -> Outcome:
    """After ``steps`` steps on one batch the loss is below ``share`` of what it was.

    Give it a small batch, no dropout and a learning rate at which the model learns.
    """
    with kept_state(setup):
        first = setup.measured_loss()
        if first <= 0:
            message = f"the loss of the batch is {first:.4g}: a share of it means nothing; test a loss that is positive"
            return Outcome(name=NAME, verdict="not_measured", message=message, measured=first)
        lowest, last = first, first
        for done in range(1, steps + 1):
            setup.take_step()
            if done % 10 == 0 or done == steps:
                last = setup.measured_loss()
                if not math.isfinite(last):
                    break
                lowest = min(lowest, last)
                if lowest < share * first:
                    message = f"the loss of one batch fell from {first:.4g} to {last:.4g} in {done} steps"
                    return Outcome(name=NAME, verdict="passed", message=message, measured=lowest / first, limit=share)
    ratio = last / first
    message = (
        f"{done} steps on one batch brought the loss from {first:.4g} to {last:.4g} (below {share * first:.4g} expected): "
        "the gradient, the update, the labels or the learning rate is wrong, or the model is too small for the batch"
    )
    return Outcome(name=NAME, verdict="failed", message=message, measured=ratio, limit=share)
