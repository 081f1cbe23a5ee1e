"""Finds the first non-finite tensor of a step, in the order of the computation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.bundle import Explanation, Kind
from ctr_pipeline.gradients.norms import GradientNorms
from ctr_pipeline.gradients.replay import Replay
from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline.ranker.model import Ranker


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch as the localiser needs it.

    Attributes:
        numeric: [B, D] raw numbers.
        ids: [B, F] vocabulary rows.
        labels: [B, T] 1, 0 or -1.
        weights: [B, T] weights.
        rows: [B] rows of the training arrays.
    """

    numeric: Tensor
    ids: Tensor
    labels: Tensor
    weights: Tensor
    rows: Tensor


def input_fault(batch: BatchView, layout: Layout, step: int) -> Explanation | None:
    """The first value of ``batch`` that no model may see: an infinite number, a row outside a table, a bad weight."""
    infinite = torch.isinf(batch.numeric)
    if bool(infinite.any()):
        at, column = (int(v) for v in infinite.nonzero()[0])
        name, row = layout.numeric[column].name, int(batch.rows[at])
        value = float(batch.numeric[at, column])
        return Explanation(
            kind="input", tensor="numeric", feature=name, row=row, step=step,
            message=f"step {step}: feature {name} is {value} in row {row} of the training arrays; "
            "a number must be finite or missing",
        )  # fmt: skip
    heights = torch.tensor([column.rows for column in layout.ids], dtype=batch.ids.dtype, device=batch.ids.device)
    outside = (batch.ids < 0) | (batch.ids >= heights)
    if bool(outside.any()):
        at, column = (int(v) for v in outside.nonzero()[0])
        id_column, row = layout.ids[column], int(batch.rows[at])
        return Explanation(
            kind="input", tensor="ids", feature=id_column.name, row=row, step=step,
            message=f"step {step}: feature {id_column.name} has id {int(batch.ids[at, column])} in row {row} of the "
            f"training arrays, but its table has {id_column.rows} rows; pack the dataset again",
        )  # fmt: skip
    bad = ~torch.isfinite(batch.weights) | (batch.weights < 0)
    if bool(bad.any()):
        at, task = (int(v) for v in bad.nonzero()[0])
        row = int(batch.rows[at])
        return Explanation(
            kind="input", tensor="weights", feature=None, row=row, step=step,
            message=f"step {step}: the weight of task {layout.tasks[task]} is {float(batch.weights[at, task])} in row "
            f"{row} of the training arrays; a weight must be finite and not negative",
        )  # fmt: skip
    return None


def explain(
    model: Ranker,
    batch: BatchView,
    layout: Layout,
    step: int,
    losses: Sequence[float],
    norms: GradientNorms | None,
    replay: Replay,
) -> Explanation:
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


def _parameter_fault(model: Ranker, layout: Layout, step: int) -> Explanation | None:
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
) -> Explanation:
    owner = model.get_submodule(name.removesuffix(".table.weight")) if name.endswith(".table.weight") else None
    if isinstance(owner, FusedTable):
        column, own_row = owner.locate(row)
        feature = layout.ids[column].name
        return Explanation(
            kind=kind, tensor=name, feature=feature, row=own_row, step=step,
            message=f"step {step}: {kind} {name}: the embedding of feature {feature}, vocabulary row {own_row}, {what}",
        )  # fmt: skip
    message = f"step {step}: {kind} {name} {what}"
    return Explanation(kind=kind, tensor=name, feature=None, row=None, step=step, message=message)


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


def _activation_fault(model: Ranker, batch: BatchView, step: int, replay: Replay) -> Explanation | None:
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
    return Explanation(kind="activation", tensor=name, feature=None, row=row, step=step, message=message)


def _loss_fault(losses: Sequence[float], layout: Layout, step: int) -> Explanation | None:
    for task, loss in zip(layout.tasks, losses, strict=True):
        if not torch.isfinite(torch.tensor(loss)):
            message = f"step {step}: the loss of task {task} is {loss} although every logit is finite"
            return Explanation(kind="loss", tensor=f"loss_{task}", feature=None, row=None, step=step, message=message)
    return None


def _gradient_fault(model: Ranker, layout: Layout, step: int, norms: GradientNorms | None) -> Explanation:
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
    return Explanation(
        kind="overflow", tensor=largest, feature=None, row=None, step=step,
        message=f"step {step}: every gradient is finite but their norm overflows; the largest values are in {largest}",
    )  # fmt: skip
