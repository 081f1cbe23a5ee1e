"""Every trainable weight moves in the first steps; where one does not, why."""

from collections.abc import Collection, Mapping
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.kept_state import kept_state
from ctr_pipeline.gradients.contracts.outcome import Outcome, listed
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

NAME = "weights_move"
STEPS = 3


def check_weights_move(setup: TrainingSetup, *, steps: int = STEPS, still: Collection[str] = ()) -> Outcome:
    """After some steps each tensor has changed.

    Args:
        setup: What is tested.
        steps: Steps on the batch.
        still: Names of tensors that need not move; ``*`` stands for any text.
    """
    with kept_state(setup):
        before = {name: p.detach().clone() for name, p in setup.model.named_parameters()}
        sizes = dict.fromkeys(before, 0.0)
        reached = dict.fromkeys(before, False)
        for _ in range(steps):
            setup.model.zero_grad(set_to_none=True)
            setup.loss(setup.forward(setup.model, setup.batch), setup.batch).backward()  # type: ignore[no-untyped-call]
            note_gradients(setup.model, reached, sizes)
            setup.model.zero_grad(set_to_none=True)
            setup.take_step()
        return movement_outcome(setup.model, before, reached, sizes, steps, still)


def note_gradients(model: nn.Module, reached: dict[str, bool], sizes: dict[str, float]) -> None:
    """Notes for each parameter whether backward reached it, and its largest gradient so far."""
    for name, parameter in model.named_parameters():
        if (gradient := parameter.grad) is not None:
            reached[name] = True
            values = gradient._values() if gradient.is_sparse else gradient
            if values.numel():
                sizes[name] = max(sizes[name], float(values.abs().max()))


def movement_outcome(
    model: nn.Module,
    before: Mapping[str, Tensor],
    reached: Mapping[str, bool],
    sizes: Mapping[str, float],
    steps: int,
    still: Collection[str] = (),
) -> Outcome:
    """The contract from the weights before the steps, and what backward brought to them meanwhile."""
    frozen: list[str] = []
    detached: list[str] = []
    unmoved: list[str] = []
    silent: list[str] = []
    watched = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if name in before and not any(fnmatch(name, pattern) for pattern in still)
    ]
    for name, parameter in watched:
        if not parameter.requires_grad:
            frozen.append(name)
        elif not reached.get(name, False):
            detached.append(name)
        elif sizes.get(name, 0.0) == 0:
            # Not by whether it moved: decay alone moves it.
            silent.append(name)
        elif torch.equal(parameter.detach(), before[name]):
            unmoved.append(name)
    for names, why in (
        (frozen, "frozen: requires_grad is False; set it to True, or name what is frozen on purpose"),
        (detached, "not reached by backward: look for detach(), no_grad(), .data, or an output that no loss uses"),
        (unmoved, "has a gradient and is not updated: no optimizer holds it, or its learning rate is 0"),
        (silent, "has a gradient of 0 throughout: look for dead units after it, a zero before it, or a mask"),
    ):
        if names:
            message = f"after {steps} steps {listed(names)} did not move: {why}"
            return Outcome(
                name=NAME, verdict="failed", message=message, measured=float(len(names)), limit=0.0, where=names[0]
            )
    message = f"each of {len(watched)} tensors moved within {steps} steps"
    return Outcome(name=NAME, verdict="passed", message=message, measured=0.0, limit=0.0)
