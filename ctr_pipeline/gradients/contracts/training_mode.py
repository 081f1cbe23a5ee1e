"""Modules are in training mode while training, and a model in evaluation mode repeats itself."""

from collections.abc import Collection
from dataclasses import replace
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.kept_state import kept_model, kept_state
from ctr_pipeline.gradients.contracts.outcome import Outcome, listed
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "training_mode"


def check_training_mode(setup: TrainingSetup, *, fixed: Collection[str] = ()) -> Outcome:
    """In the test's step every module is in training mode, and in evaluation mode two passes are equal.

    Args:
        setup: What is tested; the mode is looked at while its ``step`` runs the model, else as it is.
        fixed: Names of modules that stay in evaluation mode on purpose; ``*`` stands for any text.
    """
    model, seen = setup.model, list[Outcome]()
    if setup.step is not None:
        with kept_state(setup):
            handle = model.register_forward_pre_hook(lambda module, _: seen.append(mode_outcome(module, fixed)))
            try:
                setup.take_step()
            finally:
                handle.remove()
    found = seen[0] if seen else mode_outcome(model, fixed)
    if found.failed:
        return found
    with kept_model(model), torch.no_grad():
        model.eval()
        first, second = (setup.forward(model, setup.batch) for _ in range(2))
    repeated = evaluation_outcome(first, second)
    return replace(repeated, name=NAME) if repeated.failed else found


def evaluation_outcome(first: Tensor, second: Tensor, tolerance: float = 0.0) -> Outcome:
    """Whether two passes over one batch in evaluation mode give the same.

    Args:
        first: What the model gave.
        second: What it gave for the same once more.
        tolerance: Largest difference that is none, where the device does not repeat sums to the bit.
    """
    name = "evaluation_mode"
    difference = float((first - second).abs().max()) if first.numel() else 0.0
    if not difference <= tolerance:
        message = (
            f"in evaluation mode two passes over one batch differ by up to {difference:.3g}: something draws random numbers, or "
            "changes the model, whatever its mode; ask for module.training"
        )
        return Outcome(name=name, verdict="failed", message=message, measured=difference, limit=tolerance)
    message = "two passes in evaluation mode are equal"
    return Outcome(name=name, verdict="passed", message=message, measured=difference, limit=tolerance)


def mode_outcome(model: nn.Module, fixed: Collection[str] = ()) -> Outcome:
    """Whether every module of ``model`` is in training mode but those of ``fixed``."""
    wrong = [
        name or "the model"
        for name, module in model.named_modules()
        if not module.training and not any(fnmatch(name, pattern) for pattern in fixed)
    ]
    if wrong:
        message = (
            f"{listed(wrong)} {'is' if len(wrong) == 1 else 'are'} in evaluation mode while training, without dropout and "
            "with fixed statistics: call model.train() before each epoch, after every validation"
        )
        return Outcome(
            name=NAME, verdict="failed", message=message, measured=float(len(wrong)), limit=0.0, where=wrong[0]
        )
    return Outcome(name=NAME, verdict="passed", message="every module is in training mode", measured=0.0, limit=0.0)
