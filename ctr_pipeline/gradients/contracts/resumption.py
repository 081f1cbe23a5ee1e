"""A training that was interrupted and continued ends with the bytes of one that was not."""

import io
import random
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from ctr_pipeline.gradients.contracts.kept_state import state_digest
from ctr_pipeline.gradients.contracts.outcome import Outcome

Training = TypeVar("Training")
NAME = "resume"


def check_resume(
    *,
    build: Callable[[], Training],
    train: Callable[[Training, int], object],
    save: Callable[[Training], Any],
    restore: Callable[[Training, Any], object],
    state: Callable[[Training], Any],
    steps: int = 3,
) -> Outcome:
    """Compares ``2 · steps`` steps with ``steps``, a checkpoint, a new object, and ``steps`` more.

    Between both halves the generators of torch, numpy and Python are moved, as another process would find them.

    Args:
        build: A new training from its start; it seeds what it needs.
        train: Takes a number of steps.
        save: The checkpoint; it goes through ``torch.save``.
        restore: Brings a new training to a checkpoint.
        state: What must be equal: state dicts, tensors, losses.
        steps: Steps of each half.
    """
    whole = build()
    train(whole, steps)
    train(whole, steps)
    expected = state_digest(state(whole))
    first = build()
    train(first, steps)
    file = io.BytesIO()
    torch.save(save(first), file)
    torch.manual_seed(987_654_321)
    np.random.seed(987_654_321)
    random.seed(987_654_321)
    file.seek(0)
    second = build()
    torch.rand(3), np.random.rand(3), random.random()
    restore(second, torch.load(file, weights_only=False))
    train(second, steps)
    found = state_digest(state(second))
    if found != expected:
        message = (
            f"after {steps} steps, a checkpoint and {steps} more the state is {found[:12]}, and without the interruption "
            f"{expected[:12]}: the checkpoint leaves something out; keep model with buffers, optimizers, schedule, scaler, "
            "position in the data and every random generator, and restore the generators last"
        )
        return Outcome(name=NAME, verdict="failed", message=message)
    message = f"an interruption after {steps} of {2 * steps} steps leaves no trace ({expected[:12]})"
    return Outcome(name=NAME, verdict="passed", message=message)
