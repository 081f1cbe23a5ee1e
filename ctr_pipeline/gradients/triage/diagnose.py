"""Finds the first non-finite tensor of a step, in the order of the computation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.adapters.parameters import feature_of
from ctr_pipeline.gradients.core.diagnosis import Diagnosis, Kind
from ctr_pipeline.gradients.core.norms import GradientNorms
from ctr_pipeline.gradients.triage.replay import Replay
from ctr_pipeline.ranker.model import Ranker


def diagnose(
    model: Ranker,
    batch: BatchView,
    layout: Layout,
    step: int,
    losses: Sequence[float],
    norms: GradientNorms | None,
    replay: Replay,
) -> Diagnosis:
    """Name the first tensor that is not finite: input, parameter, activation, loss, gradient.

    Runs the forward pass once more; call it with the parameters still those of the step's start.

    Args:
        model: The ranker.
        batch: The step's batch, on the model's device.
        layout: The packed layout.
        step: Steps taken before this one.
        losses: Loss of each task.
        norms: The step's gradients, None when the step did not get that far.
        replay: The step's forward pass.
    """
    return (
        input_fault(batch, layout, step)
        or _parameter_fault(model, layout, step)
        or _activation_fault(model, batch, step, replay)
        or _loss_fault(losses, layout, step)
        or _gradient_fault(model, layout, step, norms)
    )


def _parameter_fault(model: Ranker, layout: Layout, step: int) -> Diagnosis | None:
    for name, parameter in model.named_parameters():
        finite = torch.isfinite(parameter.detach())
        if bool(finite.all()):
            continue
        at = [int(v) for v in (~finite).nonzero()[0]]
        value = float(parameter.detach()[tuple(at)])
        return _embedding_or_plain("parameter", model, layout, step, name, at[0], f"is {value} before the step")
    return None


def _embedding_or_plain(
    kind: Kind, model: Ranker, layout: Layout, step: int, name: str, row: int, what: str
) -> Diagnosis:
    if (found := feature_of(model, layout, name, row)) is not None:
        feature, own_row = found
        return Diagnosis(
            kind=kind, tensor=name, feature=feature, row=own_row, step=step,
            message=f"step {step}: {kind} {name}: the embedding of feature {feature}, vocabulary row {own_row}, {what}",
        )  # fmt: skip
    message = f"step {step}: {kind} {name} {what}"
    return Diagnosis(kind=kind, tensor=name, feature=None, row=None, step=step, message=message)


@contextmanager
def _output_hooks(model: nn.Module, found: list[tuple[str, int]]) -> Iterator[None]:
    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append((name, int((~torch.isfinite(output)).nonzero()[0][0])))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if name and not list(module.children())]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _activation_fault(model: Ranker, batch: BatchView, step: int, replay: Replay) -> Diagnosis | None:
    found: list[tuple[str, int]] = []
    with _output_hooks(model, found):
        logits = replay.run()
    finite = torch.isfinite(logits)
    if not found and not bool(finite.all()):
        found.append(("logits", int((~finite).nonzero()[0][0])))
    if not found:
        return None
    name, at = found[0]
    row = int(batch.rows[at])
    message = f"step {step}: the output of {name} is not finite for row {row} of the training arrays, its inputs are"
    return Diagnosis(kind="activation", tensor=name, feature=None, row=row, step=step, message=message)


def _loss_fault(losses: Sequence[float], layout: Layout, step: int) -> Diagnosis | None:
    for task, loss in zip(layout.tasks, losses, strict=True):
        if not torch.isfinite(torch.tensor(loss)):
            message = f"step {step}: the loss of task {task} is {loss} although every logit is finite"
            return Diagnosis(kind="loss", tensor=f"loss_{task}", feature=None, row=None, step=step, message=message)
    return None


def _gradient_fault(model: Ranker, layout: Layout, step: int, norms: GradientNorms | None) -> Diagnosis:
    named = dict(zip(norms.names, norms.values, strict=True)) if norms is not None else {}
    # Backward runs from the loss to the inputs: of several bad gradients the last parameter's came first.
    for name, values in reversed(named.items()):
        finite = torch.isfinite(values)
        if bool(finite.all()):
            continue
        first = (~finite).nonzero()[0]
        value = float(values[tuple(first)])
        gradient = model.get_parameter(name).grad
        row = int(first[0])
        if gradient is not None and gradient.is_sparse:
            row = int(gradient.indices()[0, row])
        return _embedding_or_plain(
            "gradient", model, layout, step, name, row, f"is {value}; loss and logits are finite"
        )
    largest = max(
        named, key=lambda name: float(named[name].abs().max()) if named[name].numel() else 0.0, default="none"
    )
    return Diagnosis(
        kind="overflow", tensor=largest, feature=None, row=None, step=step,
        message=f"step {step}: every gradient is finite but their norm overflows; the largest values are in {largest}",
    )  # fmt: skip
