"""Every trainable parameter is held by one optimizer, and optimizers hold nothing else."""

from collections import Counter
from collections.abc import Collection, Sequence
from fnmatch import fnmatch

import torch
from torch import nn

from ctr_pipeline.gradients.contracts.outcome import Outcome, listed
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "optimizer_coverage"


def check_optimizer_coverage(setup: TrainingSetup, *, frozen: Collection[str] = ()) -> Outcome:
    """Optimizers and model name the same parameters, and none is frozen but those of ``frozen``.

    Args:
        setup: What is tested.
        frozen: Names of parameters that are not trained on purpose; ``*`` stands for any text.
    """
    return coverage_outcome(setup.model, setup.optimizers, frozen)


def coverage_outcome(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], frozen: Collection[str] = ()
) -> Outcome:
    """The contract from the parts."""
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    held = Counter(id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    stopped = [
        name
        for name, p in model.named_parameters()
        if not p.requires_grad and not any(fnmatch(name, pattern) for pattern in frozen)
    ]
    if stopped:
        return _broken(
            stopped[0], len(stopped),
            f"{listed(stopped)} {_is(stopped)} frozen (requires_grad is False): set it to True, or name what is frozen on "
            "purpose",
        )  # fmt: skip
    stale = sum(count for parameter, count in held.items() if parameter not in own)
    missing = [name for parameter, name in trainable.items() if parameter not in held]
    if stale:
        return _broken(
            missing[0] if missing else "", stale,
            f"an optimizer holds {stale} tensors that are not in the model"
            + (f", and none holds {listed(missing)}" if missing else "")
            + ": it was built before the model, or a part of it, was replaced; build optimizers last",
        )  # fmt: skip
    if missing:
        return _broken(
            missing[0], len(missing),
            f"no optimizer holds {listed(missing)}: {_it(missing)} would never be updated; add them to a "
            "parameter group",
        )  # fmt: skip
    twice = [name for parameter, name in own.items() if held[parameter] > 1]
    if twice:
        return _broken(
            twice[0], len(twice),
            f"{listed(twice)} {_is(twice)} held more than once: {_it(twice)} would be updated twice a step; leave one",
        )  # fmt: skip
    message = f"each of {len(trainable)} trainable parameters is held by one optimizer"
    return Outcome(name=NAME, verdict="passed", message=message, measured=0.0, limit=0.0)


def _broken(where: str, count: int, message: str) -> Outcome:
    return Outcome(name=NAME, verdict="failed", message=message, measured=float(count), limit=0.0, where=where)


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "they"
