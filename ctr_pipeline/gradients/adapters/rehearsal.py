"""The first step computed beforehand by other means: what its loss and its gradients must be."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.loss_oracle import has_formula, oracle_means
from ctr_pipeline.gradients.contracts.clip_direction import compare_clipped, gradient_values
from ctr_pipeline.gradients.contracts.kept_state import kept_generators
from ctr_pipeline.gradients.contracts.loss_values import FAR
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.table_lookups import Lookup, lookup_outcome, observed_lookups
from ctr_pipeline.gradients.contracts.task_balance import LEAST_WEIGHT, balance_outcome, shared_gradients
from ctr_pipeline.gradients.core.norms import clip_gradients, gradient_norms
from ctr_pipeline.losses.multi_task import TaskObjectives, multi_task_loss
from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline.ranker.initialisation import EMBEDDING_LENGTH
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.spec.objectives import ObjectiveSection

LOSS_LIMIT = 1e-4
"""Largest relative error of a loss in float32 against its oracle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltTraining:
    """A training that is about to begin.

    Attributes:
        model: The ranker.
        layout: Its layout.
        optimizers: Those that update it.
        objectives: The tasks' objectives as the training uses them.
        sections: The objective of each task in the spec.
        loss_weights: [T] weights of the tasks.
        rates: [T] the rates from which the model starts.
        smoothing: Share of each label that is the task's base rate, ``base_rates`` [T].
        base_rates: [T] those rates; empty without smoothing.
        forward: [B, T] logits of a batch, as a step computes them.
        scale: Factor on the loss under which gradients are computed.
        half: Whether the step computes in 16 bits.
        alone: Whether this process has the whole batch.
        peaks: Largest learning rate of each optimizer; empty where it is not known.
        weigh: Sets ``loss_weights`` for a step from [T] sums of losses and numbers of labels, where gradients decide.
    """

    model: Ranker
    layout: Layout
    optimizers: Sequence[torch.optim.Optimizer]
    objectives: TaskObjectives
    sections: Sequence[ObjectiveSection]
    loss_weights: Tensor
    rates: Sequence[float]
    forward: Callable[[BatchView], Tensor]
    smoothing: float = 0.0
    base_rates: Sequence[float] = ()
    scale: float = 1.0
    half: bool = False
    alone: bool = True
    peaks: Sequence[float] = ()
    weigh: Callable[[Tensor, Tensor], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What the first step must come to.

    Attributes:
        outcomes: What was found on the way.
        logits: [B, T] the step's logits.
        loss: Its loss; None where other processes hold a part of the batch.
        gradients: Its gradients by parameter; empty where they are not known or not finite.
    """

    outcomes: list[Outcome]
    logits: Tensor
    loss: float | None
    gradients: Mapping[str, Tensor]


def rehearse(built: BuiltTraining, batch: BatchView) -> Rehearsal:
    """Computes the step on ``batch`` with the generators as they are, and puts all back as it was."""
    model = built.model
    with kept_generators(model), kept_buffers(model), without_gradients(model):
        with observed_lookups(model) as lookups:
            logits = built.forward(batch)
        if built.weigh is not None:
            counts = built.objectives.known_counts(batch.labels, batch.delays)
            built.weigh(built.objectives.task_sums(logits, batch.labels, batch.weights, batch.delays), counts)
        outcomes = [lookup_outcome(lookups), own_rows_outcome(model, built.layout, lookups)]
        loss, outcome = _losses(built, logits, batch)
        outcomes += [outcome, _balance(built, logits, batch)]
        (loss * built.scale).backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in model.parameters() if p.grad is not None]
        gradients = {n: gradient_values(p).clone() for n, p in model.named_parameters() if p.grad is not None}
        norms = gradient_norms(list(model.named_parameters()))
        norm = float(norms.total)
        if math.isfinite(norm) and norm > 0:
            outcomes.append(compare_clipped(parameters, lambda _: clip_gradients(norms, norm, norm / 2), norm / 2))
        else:
            gradients = {}
    return Rehearsal(
        outcomes=outcomes,
        logits=logits.detach(),
        loss=float(loss.detach()) if built.alone else None,
        gradients=gradients if built.alone else {},
    )


def _losses(built: BuiltTraining, logits: Tensor, batch: BatchView) -> tuple[Tensor, Outcome]:
    """The step's loss in float64, by the oracle where it can tell; and whether the losses of settled labels follow it."""
    exact, weights = logits.double(), built.loss_weights.double()
    oracle = oracle_means(built.sections, exact, batch.labels, batch.weights, built.smoothing, built.base_rates)
    with torch.no_grad():
        counts = built.objectives.known_counts(batch.labels)
        sums = built.objectives.task_sums(logits, batch.labels, batch.weights)
        _, means = multi_task_loss(sums, counts, built.loss_weights)
    outcome = _loss_outcome(built.layout.tasks, means, oracle)
    by_formula = [value for value in oracle if value is not None]
    if batch.delays is None and len(by_formula) == len(oracle):
        return (torch.stack(by_formula) * weights).sum(), outcome
    counts = built.objectives.known_counts(batch.labels, batch.delays)
    sums = built.objectives.task_sums(exact, batch.labels, batch.weights.double(), batch.delays)
    return multi_task_loss(sums, counts, weights)[0], outcome


def _balance(built: BuiltTraining, logits: Tensor, batch: BatchView) -> Outcome:
    """Each task's gradient on the layers before the heads, without and with its loss weight."""
    tasks, weights = built.layout.tasks, built.loss_weights.tolist()
    # Only loss weights that differ can unbalance the tasks; most trainings have none.
    learnt = [weight for weight in weights if weight > 0]
    if len(learnt) > 1 and max(learnt) < LEAST_WEIGHT * min(learnt):
        return balance_outcome(dict.fromkeys(tasks, 1.0), dict.fromkeys(tasks, 1.0))
    tables = {id(module.weight) for module in built.model.modules() if isinstance(module, nn.Embedding)}
    heads = {id(parameter) for parameter in built.model.head.parameters()}
    shared = [p for p in built.model.parameters() if p.requires_grad and id(p) not in tables | heads]
    counts = built.objectives.known_counts(batch.labels, batch.delays)
    sums = built.objectives.task_sums(logits, batch.labels, batch.weights, batch.delays)
    _, means = multi_task_loss(sums, counts, built.loss_weights)
    norms = shared_gradients(list(means.unbind()), shared) if shared else [0.0] * len(tasks)
    return balance_outcome(dict(zip(tasks, norms, strict=True)), dict(zip(tasks, weights, strict=True)))


def _loss_outcome(tasks: Sequence[str], means: Tensor, oracle: Sequence[Tensor | None]) -> Outcome:
    name, worst, where, numbers = "loss_oracle", -1.0, "", ""
    for task, found, expected in zip(tasks, means.tolist(), oracle, strict=True):
        if expected is None:
            continue
        right = float(expected.detach())
        error = abs(found - right) / max(abs(right), 1e-6)
        error = error if error == error else math.inf
        if error > worst:
            worst, where, numbers = error, task, f"{found:.6g}, and {right:.6g} by its formula in float64"
    if worst < 0:
        return Outcome(name=name, verdict="not_measured", message="no task's loss has a formula here")
    if worst > LOSS_LIMIT:
        message = (
            f"the loss of task {where} is {numbers} (largest difference {LOSS_LIMIT:g} of it): look for a sum in place of "
            "the mean, a second sigmoid, a sign, a mask, or weights that are applied twice"
        )
        return Outcome(name=name, verdict="failed", message=message, measured=worst, limit=LOSS_LIMIT, where=where)
    message = f"losses are those of their formulas in float64 to {worst:.2g}"
    return Outcome(name=name, verdict="passed", message=message, measured=worst, limit=LOSS_LIMIT)


def own_rows_outcome(model: Ranker, layout: Layout, lookups: Sequence[Lookup]) -> Outcome:
    """Each feature reads rows of its own in the tables that features share."""
    name, read = "own_rows", 0
    tables = {f"{path}.table.weight": m for path, m in model.named_modules() if isinstance(m, FusedTable)}
    for lookup in lookups:
        table = tables.get(lookup.name)
        if table is None or lookup.rows.ndim != 2 or not lookup.rows.numel():
            continue
        column = 0
        for index, start in table.features:
            feature = layout.ids[index]
            rows = lookup.rows[:, column : column + feature.places]
            column += feature.places
            own = (rows >= start) & (rows < start + feature.rows)
            if table.padding is not None:
                own |= rows == table.padding
            read += 1
            if not bool(own.all()):
                row = int(rows[~own][0])
                message = (
                    f"feature {feature.name} reads row {row} of {lookup.name}, and its own rows are {start} to "
                    f"{start + feature.rows - 1}: the offsets of the table do not belong to this layout"
                )
                return Outcome(
                    name=name, verdict="failed", message=message, measured=float(row), limit=float(start + feature.rows - 1),
                    where=lookup.name, feature=feature.name,
                )  # fmt: skip
    if not read:
        return Outcome(name=name, verdict="not_measured", message="no shared table was read")
    return Outcome(name=name, verdict="passed", message=f"{read} features read rows of their own")


def empty_mask_outcome(built: BuiltTraining, logits: Tensor, batch: BatchView) -> Outcome:
    """A task without a known label in the batch adds exactly 0 to the loss and to its logits' gradient."""
    name = "empty_mask"
    for task, label in enumerate(built.layout.tasks):
        labels = batch.labels.clone()
        labels[:, task] = -1
        emptied = replace(batch, labels=labels, elapsed=None, delay=None)
        own = logits.detach().clone().requires_grad_()
        counts = built.objectives.known_counts(emptied.labels)
        sums = built.objectives.task_sums(own, emptied.labels, emptied.weights)
        loss, means = multi_task_loss(sums, counts, built.loss_weights)
        (gradient,) = torch.autograd.grad(loss, own)
        amount = max(abs(float(means[task].detach())), float(gradient[:, task].abs().max()) if len(own) else 0.0)
        if amount != 0 or not bool(torch.isfinite(gradient).all()) or not bool(torch.isfinite(loss)):
            message = (
                f"without a known label of task {label} its loss is {means[task].item():g}, and exactly 0 is expected: mask "
                "with torch.where and divide by count.clamp_min(1)"
            )
            return Outcome(name=name, verdict="failed", message=message, measured=amount, limit=0.0, where=label)
    return Outcome(
        name=name, verdict="passed", message="tasks without a known label contribute 0", measured=0.0, limit=0.0
    )


def loss_range_outcome(built: BuiltTraining, batch: BatchView) -> Outcome:
    """The loss and its gradient are finite at logits far from 0, and each wrong prediction there is corrected.

    The latter of the losses with a formula here: one of an extension may well be bounded.
    """
    name = "loss_range"
    corrects = torch.tensor([has_formula(section) for section in built.sections], device=batch.labels.device)
    known = (batch.labels >= 0) & corrects
    for size in FAR:
        for value in (size, -size):
            logits = torch.full_like(batch.weights, value, requires_grad=True)
            counts = built.objectives.known_counts(batch.labels)
            sums = built.objectives.task_sums(logits, batch.labels, batch.weights)
            loss, means = multi_task_loss(sums, counts, built.loss_weights)
            (gradient,) = torch.autograd.grad(loss, logits)
            wrong = known & (batch.labels == (0 if value > 0 else 1)) & (batch.weights * built.loss_weights > 0)
            finite = torch.isfinite(means) & torch.isfinite(gradient).all(dim=0)
            bad = ~finite | ((gradient == 0) & wrong).any(dim=0)
            if bool(bad.any()):
                task = int(bad.nonzero()[0])
                message = (
                    f"at logits of {value:g} the loss of task {built.layout.tasks[task]} is {means[task].item():g}, or has no "
                    "gradient where the prediction is wrong: compute it from logits (softplus, logsigmoid), not from "
                    "probabilities"
                )
                return Outcome(
                    name=name, verdict="failed", message=message, measured=value, limit=max(FAR),
                    where=built.layout.tasks[task],
                )  # fmt: skip
    message = f"losses and their gradients are finite for logits up to {max(FAR):g}"
    return Outcome(name=name, verdict="passed", message=message, measured=max(FAR), limit=max(FAR))


def initial_tables(model: Ranker, layout: Layout) -> tuple[dict[str, tuple[Tensor, float]], dict[str, str]]:
    """By feature a sample of its embeddings with the root mean square that they start with; and the name of its table."""
    found: dict[str, tuple[Tensor, float]] = {}
    names: dict[str, str] = {}
    for name, table in model.embeddings.tables.items():
        assert isinstance(table, FusedTable)
        for index, start in table.owned():
            column = layout.ids[index]
            rows = table.table.weight.detach()[start : start + column.rows]
            found[column.name] = rows[:: max(1, column.rows // 1000)], EMBEDDING_LENGTH / math.sqrt(table.width)
            names[column.name] = f"embeddings.tables.{name}.table.weight"
    return found, names


def padding_rows(model: nn.Module) -> dict[str, int]:
    """By the name of each table that lists read, the row of the places after the end of a list."""
    return {
        f"{path}.table": module.padding
        for path, module in model.named_modules()
        if isinstance(module, FusedTable) and module.padding is not None
    }


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """A block that starts without gradients; those that were there are there again after it."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Puts buffers, such as running statistics, and the modes of the modules back as they were."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, content in buffers:
                buffer.copy_(content)
        for module, training in modes:
            module.training = training
