"""Finds the first non-finite tensor of a step, in the order of the computation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.adapters.parameters import feature_of
from ctr_pipeline.gradients.core.diagnosis import Diagnosis, Kind
from ctr_pipeline.gradients.core.localiser import Origin, localise, state_origin
from ctr_pipeline.gradients.core.norms import GradientNorms
from ctr_pipeline.gradients.triage.replay import Replay
from ctr_pipeline.ranker.model import Ranker

MOST_ROWS = 0.5
"""Share of the rows above which a fault is no row's."""


def diagnose(
    model: Ranker,
    batch: BatchView,
    layout: Layout,
    step: int,
    losses: Sequence[float],
    norms: GradientNorms | None,
    replay: Replay,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> Diagnosis:
    """Name the first tensor that is not finite: input, parameter, optimizer's state, activation, loss, gradient.

    Runs the step once more; call it with the parameters still those of the step's start. Gradients that a replay cannot
    bring again, such as those of a fault that comes and goes, are judged as they are.

    Args:
        model: The ranker.
        batch: The step's batch, on the model's device.
        layout: The packed layout.
        step: Steps taken before this one.
        losses: Loss of each task.
        norms: The step's gradients, None when the step did not get that far.
        replay: The step.
        optimizers: Those that update the model.
    """
    return (
        input_fault(batch, layout, step)
        or _first_origin(model, batch, layout, step, norms, replay, optimizers)
        or _loss_fault(losses, layout, step)
        or _gradient_fault(model, layout, step, norms)
    )


def wrong_update(
    model: Ranker,
    layout: Layout,
    step: int,
    name: str,
    row: int,
    value: float,
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> Diagnosis:
    """The cause of a step whose update wrote a value that is not finite, from finite gradients.

    Args:
        model: The ranker.
        layout: The packed layout.
        step: Steps taken before this one.
        name: Name of the parameter that was written.
        row: First index into it.
        value: What was written.
        optimizers: Those that update the model, as they were before the update.
    """
    if (origin := state_origin(model, optimizers)) is not None and origin.place == "optimizer_state":
        table, _, key = origin.name.rpartition(".")
        what = f"has the optimizer state {key} {origin.value}, from which the update writes {value}"
        return _embedding_or_plain("optimizer_state", model, layout, step, table, (*origin.index, 0)[0], what)
    what = f"was set to {value} by its optimizer; loss and gradients are finite, and the update was taken back"
    return _embedding_or_plain("update", model, layout, step, name, row, what)


def _first_origin(
    model: Ranker,
    batch: BatchView,
    layout: Layout,
    step: int,
    norms: GradientNorms | None,
    replay: Replay,
    optimizers: Sequence[torch.optim.Optimizer],
) -> Diagnosis | None:
    with replay.generators():
        origin = localise(model, replay.value, {"numeric": batch.numeric}, optimizers, missing=("numeric",))
    if origin is None:
        return None
    if origin.place == "backward" and norms is not None and origin.edge in norms.names:
        # At the leaf itself the gradient of the step says more: which rows of a table.
        values = norms.values[norms.names.index(origin.edge)]
        if (found := _bad_gradient(model, layout, step, origin.edge, values)) is not None:
            return found
    return _origin_fault(model, batch, layout, step, origin)


def _origin_fault(model: Ranker, batch: BatchView, layout: Layout, step: int, origin: Origin) -> Diagnosis:
    """The origin in the words of the layout: features, vocabulary rows, rows of the training arrays."""
    value = origin.value
    if origin.place in ("parameter", "optimizer_state"):
        name, _, key = (origin.name, "", "") if origin.place == "parameter" else origin.name.rpartition(".")
        what = f"is {value} before the step" if not key else f"has the optimizer state {key} {value} before the step"
        return _embedding_or_plain(origin.place, model, layout, step, name, (*origin.index, 0)[0], what)
    if origin.place in ("buffer", "input"):
        message = f"step {step}: {origin.place} {origin.name} is {value} at {list(origin.index)} before the step"
        return Diagnosis(kind=origin.place, tensor=origin.name, feature=None, row=None, step=step, message=message)
    if origin.place == "backward":
        return _backward_fault(model, batch, layout, step, origin)
    tensor, at = origin.module or f"{origin.name} of the loss", f" ({origin.name}, {origin.source})"
    row = _row_of(batch, origin)
    if origin.parameter:
        row, what = (
            None,
            f"the cast of {origin.parameter} in {tensor} is {value}: it is beyond the range of the precision",
        )
    else:
        what = f"the output of {tensor} is not finite{_for_row(row)}, its inputs are"
    kind: Kind = "activation" if origin.module else "loss"
    return Diagnosis(
        kind=kind,
        tensor=tensor,
        feature=None,
        row=row,
        step=step,
        message=f"step {step}: {what}{at}",
        source=origin.source,
    )


def _backward_fault(model: Ranker, batch: BatchView, layout: Layout, step: int, origin: Origin) -> Diagnosis:
    names = {name for name, _ in model.named_parameters()}
    if origin.edge in names:
        what = f"is {origin.value}; loss and logits are finite"
        return _embedding_or_plain("gradient", model, layout, step, origin.edge, (*origin.index, 0)[0], what)
    row = _row_of(batch, origin)
    message = (
        f"step {step}: the backward pass of {origin.edge} gives {origin.value}{_for_row(row)} from finite values; "
        f"its forward pass is {origin.source or 'not known'}"
    )
    return Diagnosis(
        kind="gradient", tensor=origin.edge, feature=None, row=row, step=step, message=message, source=origin.source
    )


def _row_of(batch: BatchView, origin: Origin) -> int | None:
    """The row of the training arrays that a value belongs to, where its tensor has one of each sample first.

    Where most samples have such a value, none of them is to blame.
    """
    if not origin.index or origin.shape[:1] != (len(batch.rows),) or origin.share > MOST_ROWS:
        return None
    return int(batch.rows[origin.index[0]])


def _for_row(row: int | None) -> str:
    return "" if row is None else f" for row {row} of the training arrays"


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
        if (found := _bad_gradient(model, layout, step, name, values)) is not None:
            return found
    largest = max(
        named, key=lambda name: float(named[name].abs().max()) if named[name].numel() else 0.0, default="none"
    )
    return Diagnosis(
        kind="overflow", tensor=largest, feature=None, row=None, step=step,
        message=f"step {step}: every gradient is finite but their norm overflows; the largest values are in {largest}",
    )  # fmt: skip


def _bad_gradient(model: Ranker, layout: Layout, step: int, name: str, values: Tensor) -> Diagnosis | None:
    """The first value of a parameter's gradient that is not finite; ``values`` of touched rows, for a table."""
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return None
    first = (~finite).nonzero()[0]
    value = float(values[tuple(first)])
    gradient = model.get_parameter(name).grad
    row = int(first[0]) if len(first) else 0
    if gradient is not None and gradient.is_sparse:
        bad = (~finite).any(dim=1)
        if int(bad.sum()) > max(1, int(len(bad) * MOST_ROWS)):
            # What came from behind the table reaches all rows: none of them is to blame.
            message = f"step {step}: gradient {name} is {value} in {int(bad.sum())} of its {len(bad)} rows"
            return Diagnosis(kind="gradient", tensor=name, feature=None, row=None, step=step, message=message)
        row = int(gradient.indices()[0, row])
    return _embedding_or_plain("gradient", model, layout, step, name, row, f"is {value}; loss and logits are finite")
