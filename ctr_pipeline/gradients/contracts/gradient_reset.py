"""A step starts without gradients, and parts of a batch add up to the whole."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.kept_state import fixed_random, kept_state
from ctr_pipeline.gradients.contracts.outcome import Outcome, listed
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

RESET = "gradients_reset"
ACCUMULATION = "accumulation"


def check_gradients_reset(setup: TrainingSetup) -> Outcome:
    """A second step does the same whether the first one's gradients were cleared by hand in between or not."""
    with kept_state(setup):
        by_hand, own = _second_step(setup, clear=True), _second_step(setup, clear=False)
    largest, where = 0.0, ""
    for name, expected in by_hand.items():
        difference = float((own[name] - expected).abs().max()) if expected.numel() else 0.0
        if not difference <= largest:
            largest, where = difference, name
    if where:
        message = (
            f"a step adds the gradients of the step before to its own ({where} differs by {largest:.3g}): call "
            "optimizer.zero_grad() of every optimizer in each step"
        )
        return Outcome(name=RESET, verdict="failed", message=message, measured=largest, limit=0.0, where=where)
    return Outcome(name=RESET, verdict="passed", message="each step starts anew", measured=0.0, limit=0.0)


def gradients_at_start(model: nn.Module) -> Outcome:
    """Whether no gradient is left at the start of a step; call it between clearing and backward."""
    left = [name for name, p in model.named_parameters() if p.grad is not None and bool((_values(p.grad) != 0).any())]
    if left:
        message = (
            f"gradients of {listed(left)} are left from the step before: call optimizer.zero_grad() of every optimizer in "
            "each step"
        )
        return Outcome(
            name=RESET, verdict="failed", message=message, measured=float(len(left)), limit=0.0, where=left[0]
        )
    return Outcome(name=RESET, verdict="passed", message="the step starts without gradients", measured=0.0, limit=0.0)


def check_accumulation(setup: TrainingSetup, parts: Sequence[Any], losses: Sequence[Tensor] | None = None) -> Outcome:
    """Gradients accumulated over the parts of a batch are those of the whole.

    Args:
        setup: What is tested; its ``batch`` is the whole. Its modules must not depend on the batch's size.
        parts: Batches of equal size that make up the whole.
        losses: Loss of each part as the training computes it, from which backward is run; by default the setup's loss
            divided by the number of parts.
    """
    model = setup.model
    with kept_state(setup), fixed_random(model):
        model.zero_grad(set_to_none=True)
        if losses is None:
            losses = [setup.loss(setup.forward(model, part), part) / len(parts) for part in parts]
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
        accumulated = _gradients(model)
        model.zero_grad(set_to_none=True)
        setup.loss(setup.forward(model, setup.batch), setup.batch).backward()  # type: ignore[no-untyped-call]
        whole = _gradients(model)
    scale = float(torch.linalg.vector_norm(whole))
    ratio = float(accumulated @ whole) / scale**2 if scale else 1.0
    error = float(torch.linalg.vector_norm(accumulated - whole)) / scale if scale else 0.0
    limit = 1e-4
    if error > limit:
        why = (
            f"they are {ratio:.4g} times as large: divide each part's loss by the {len(parts)} parts"
            if abs(ratio / len(parts) - 1) < 0.01
            else f"they differ by {error:.3g}: weigh each part by its share of the known labels"
        )
        message = f"gradients accumulated over {len(parts)} parts are not those of the whole batch: {why}"
        return Outcome(name=ACCUMULATION, verdict="failed", message=message, measured=ratio, limit=1.0)
    message = f"{len(parts)} parts have the gradient of the whole batch (error {error:.2g})"
    return Outcome(name=ACCUMULATION, verdict="passed", message=message, measured=ratio, limit=1.0)


def _second_step(setup: TrainingSetup, clear: bool) -> dict[str, Tensor]:
    with kept_state(setup), fixed_random(setup.model):
        setup.take_step()
        if clear:
            setup.model.zero_grad(set_to_none=True)
        setup.take_step()
        return {name: p.detach().clone() for name, p in setup.model.named_parameters()}


def _gradients(model: nn.Module) -> Tensor:
    found = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([gradient.double().flatten() for gradient in found])


def _values(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.is_sparse else gradient
