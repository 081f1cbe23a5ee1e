"""One training step as a function of its arguments: forward, loss, backward, sum over processes, measure, propose.

:func:`take_step` changes nothing but the gradients. It returns what it measured and what it proposes: to update, to skip
the update, or to stop. :func:`update` carries an update out, looks at what was written, and takes it back where it must
not stand. The loop, the replay of a stopped step and the tests call the same two functions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients import AppliedRate, Diagnosis, LossView, StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import InputCheck
from ctr_pipeline.gradients.core.measurements import Block, largest_rows, zero_shares
from ctr_pipeline.gradients.core.monitor import GradientMonitor
from ctr_pipeline.gradients.core.norms import GradientNorms, clip_gradients, gradient_norms
from ctr_pipeline.gradients.triage.diagnose import diagnose, wrong_update
from ctr_pipeline.gradients.triage.replay import Replay
from ctr_pipeline.losses.balances import TaskBalance
from ctr_pipeline.losses.multi_task import TaskObjectives, multi_task_loss
from ctr_pipeline.ranker.model import Ranker
from ctr_pipeline.training.checkpoint import generator_state
from ctr_pipeline.training.dataloader import to_device
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.last_good import LastGood
from ctr_pipeline.training.lr_schedule import set_learning_rate
from ctr_pipeline.training.precision import Precision
from ctr_pipeline.training.stopping import elsewhere

Decision = Literal["update", "skip", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What a step reads and an update changes.

    Attributes:
        model: The ranker, in training mode.
        named: All its parameters by name.
        layout: Its packed layout.
        inputs: Looks at each batch.
        objectives: The tasks' objectives.
        balance: The weights of the tasks in the loss.
        shared: What the tasks share, where their balance compares gradients.
        optimizers: Those of the dense parameters and of the embedding tables.
        peaks: Peak learning rate of each optimizer.
        precision: Arithmetic of the dense part.
        group: The processes.
        monitor: Receives every step.
        last_good: The parameters before the update.
        clip_norm: Largest global gradient norm.
    """

    model: Ranker
    named: list[tuple[str, nn.Parameter]]
    layout: Layout
    inputs: InputCheck
    objectives: TaskObjectives
    balance: TaskBalance
    shared: list[nn.Parameter]
    optimizers: list[torch.optim.Optimizer]
    peaks: list[float]
    precision: Precision
    group: ProcessGroup
    monitor: GradientMonitor
    last_good: LastGood
    clip_norm: float

    @property
    def loss_weights(self) -> Tensor:
        """[T] weights of the tasks in the loss."""
        return self.balance.weights

    def forward(self, batch: BatchView) -> Tensor:
        """[B, T] logits: tower and interactions at the run's precision, what is before and after them in fp32."""
        inputs = self.model.encode(batch.numeric, batch.ids, batch.position)
        with self.precision.autocast():
            hidden = self.model.hidden(inputs)
        return self.model.score(hidden.float(), inputs)

    def loss(self, logits: Tensor, batch: BatchView, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar to minimise and [T] each task's mean loss: this process's shares.

        Args:
            logits: [B, T] logits of ``batch``.
            batch: The rows.
            counts: [T] known labels over all processes.
        """
        sums = self.objectives.task_sums(logits, batch.labels, batch.weights, batch.delays)
        self.weigh(sums, counts)
        return multi_task_loss(sums, counts, self.loss_weights)

    def weigh(self, sums: Tensor, counts: Tensor) -> None:
        """Set the weights of the tasks from the gradients of their mean losses, where the balance asks for it."""
        if self.balance.reads_gradients and torch.is_grad_enabled():
            # Scaled, as gradients of 16 bits would else be lost; the weights do not depend on it.
            means = self.precision.scale(sums / counts.clamp_min(1).to(sums.dtype))
            self.balance.from_gradients(means, self.shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPosition:
    """Where in the run a step is.

    Attributes:
        step: Steps taken before it.
        epoch: Epoch, from 0.
        rows: Rows of its batch, over all processes.
        rate_factor: Share of the peak learning rates.
    """

    step: int
    epoch: int
    rows: int
    rate_factor: float


# Not frozen, as a step's record: to freeze one doubles the time that making it takes.
@dataclass(slots=True, kw_only=True)
class TakenStep:
    """What a step measured, and what it proposes.

    Attributes:
        decision: Whether to update, to skip the update (the search of the fp16 scaler), or to stop.
        cancelled: Whether a process was asked to end.
        record: The numbers of the step.
        batch: This process's rows.
        seen: What the model saw of them, on its device: no rows where ``input`` is a fault.
        input: A value of this process's rows that no model may see.
        counts: [T] known labels of each task over all processes.
        random: State of torch's generators at the start of the step.
        norms: The gradients, not yet clipped, and their norms; they share memory with ``parameter.grad``.
        each_norm: The norms on the host.
        loss: Logits and their gradient, on steps that are measured in detail.
        rate_factor: Share of the peak learning rates that the optimizers were given.
    """

    decision: Decision
    cancelled: bool
    record: StepRecord
    batch: BatchView
    seen: BatchView
    input: Diagnosis | None
    counts: Tensor
    random: Mapping[str, Any]
    norms: GradientNorms
    each_norm: Sequence[float]
    loss: LossView | None
    rate_factor: float


def take_step(state: StepState, batch: BatchView, at: StepPosition, cancelled: bool = False) -> TakenStep:
    """Compute the gradients of ``batch`` and propose what to do with them; parameters stay as they are.

    The same arguments, generators included, give the same result to the last bit.

    Args:
        state: Model, optimizers and loss.
        batch: This process's rows.
        at: Where in the run the step is.
        cancelled: Whether this process was asked to end; every process of the group then learns of it.
    """
    single = state.group.is_single
    random = generator_state(state.group.device)
    for optimizer, peak in zip(state.optimizers, state.peaks, strict=True):
        set_learning_rate(optimizer, peak * at.rate_factor)
        optimizer.zero_grad(set_to_none=True)
    fault = None if batch.faulty is False else state.inputs.fault(batch, at.step)
    # A faulty batch must not reach the tables; this process then takes part with no rows.
    seen = to_device(batch if fault is None else batch.without_rows(), state.group.device)
    counts = state.group.sum(state.objectives.known_counts(seen.labels, seen.delays))
    state.monitor.begin(at.step)
    measured = state.monitor.probing
    if measured:
        with state.monitor.forward():
            logits = state.forward(seen)
    else:
        logits = state.forward(seen)
    loss, means = state.loss(logits, seen, counts)
    if measured:
        # After the loss: to compare the tasks' gradients is a backward pass too, and would be added.
        logits.retain_grad()
    torch.autograd.backward(state.precision.scale(loss))
    loss_view = _loss_view(state, logits, seen, counts) if measured else None
    extra = [means.detach(), loss.detach().reshape(1)]
    if not single:
        flags = torch.tensor([float(cancelled), float(fault is not None)], device=loss.device)
        extra = [state.group.sum_gradients([parameter for _, parameter in state.named], torch.cat([*extra, flags]))]
    state.precision.unscale(state.optimizers)
    norms = gradient_norms(state.named)
    # The only wait for the device before the update: every number that the host needs, in one tensor.
    host = torch.cat([*extra, norms.total.reshape(1), norms.each]).tolist()
    tasks = len(state.layout.tasks)
    first = tasks + 2 if single else tasks + 4
    losses, total, norm, each = host[:tasks], host[tasks], host[first - 1], host[first:]
    stop, faults = (cancelled, fault is not None) if single else (host[tasks + 1] > 0, host[tasks + 2] > 0)
    finite = math.isfinite(norm)
    decision = _decision(faults or not math.isfinite(total), finite, state.precision.may_skip())
    record = StepRecord(
        step=at.step,
        epoch=at.epoch,
        loss=total,
        task_losses=dict(zip(state.layout.tasks, losses, strict=True)),
        grad_norm=norm,
        norm_ratio=state.monitor.norm_ratio(norm) if finite else None,
        clipped=decision == "update" and norm > state.clip_norm,
        skipped=decision == "skip",
        learning_rate=state.peaks[0] * at.rate_factor,
        rows=at.rows,
        known_labels=dict(zip(state.layout.tasks, counts.tolist(), strict=True)),
        loss_scale=state.precision.factor,
        batch_hash=batch.content,
        layer_norms=state.monitor.layer_norms(norms.names, each),
        task_weights=dict(zip(state.layout.tasks, state.loss_weights.tolist(), strict=True))
        if state.balance.moves
        else {},
    )
    return TakenStep(
        decision=decision, cancelled=stop, record=record, batch=batch, seen=seen, input=fault, counts=counts, random=random,
        norms=norms, each_norm=each, loss=loss_view, rate_factor=at.rate_factor,
    )  # fmt: skip


def update(state: StepState, taken: TakenStep) -> Diagnosis | None:
    """Carry out what ``taken`` proposes, and look at what was written.

    Returns:
        None where the run may go on. Else why it must stop; parameters and optimizers are then those of the start of the
        step, and the monitor has noted the step as the one that stopped the run.
    """
    if taken.decision == "stop":
        state.monitor.stop(taken.record, taken.loss)
        return cause_of(state, taken)
    measured = state.monitor.probing
    if taken.decision == "update":
        clip_gradients(taken.norms, taken.record.grad_norm, state.clip_norm)
        kept = measured or state.last_good.is_needed()
        if kept:
            state.last_good.keep()
        state.precision.step(state.optimizers)
        state.monitor.applied(taken.record.step, _other_rates(state, taken.rate_factor))
        if kept and (cause := _wrong_update(state, taken)) is not None:
            return cause
    changed = state.last_good.updates() if measured and taken.decision == "update" else []
    blocks = _details(state, taken) if measured else []
    state.monitor.after_update(taken.record, taken.norms.names, taken.each_norm, taken.loss, changed, blocks)
    if measured and (cause := _broken_health(state, taken)) is not None:
        if taken.decision == "update":
            state.last_good.restore()
        return cause
    state.precision.adapt(taken.decision == "skip")
    if state.balance.moves and taken.decision == "update":
        state.balance.observe(list(taken.record.task_losses.values()), list(taken.record.known_labels.values()))
    return None


def _other_rates(state: StepState, rate_factor: float) -> list[AppliedRate]:
    """The learning rates after an update of the optimizers that made it with others than they were given before it."""
    found = []
    for optimizer, peak in zip(state.optimizers, state.peaks, strict=True):
        planned = peak * rate_factor
        for group in optimizer.param_groups:
            if group["lr"] != planned:
                rates = [float(own["lr"]) for own in optimizer.param_groups]
                found.append(AppliedRate(type(optimizer).__name__, planned, min(rates), max(rates)))
                break
    return found


def _details(state: StepState, taken: TakenStep) -> list[Block]:
    """What the detailed record has beside what detectors measure."""
    samples = taken.seen.rows.tolist() if state.monitor.lookups else []
    return [*zero_shares(taken.norms), *largest_rows(state.monitor.lookups, taken.record.loss_scale, samples)]


def _wrong_update(state: StepState, taken: TakenStep) -> Diagnosis | None:
    """Take an update back that wrote a value that is not finite, and say which."""
    wrong = state.last_good.wrong_value()
    if wrong is None:
        return None
    state.last_good.restore()
    state.monitor.stop(taken.record, taken.loss)
    at = taken.record.step, wrong.name, wrong.row, wrong.value
    return wrong_update(state.model, state.layout, *at, state.optimizers)


def _broken_health(state: StepState, taken: TakenStep) -> Diagnosis | None:
    """Why a detector stops the run; every process learns of what one of them found in its rows."""
    found, step = state.monitor.broken(), taken.record.step
    if not state.group.is_single:
        anywhere = state.group.sum(torch.tensor(float(found is not None), device=state.group.device))
        if not float(anywhere):
            return None
    elif found is None:
        return None
    if found is None:
        return elsewhere(step)
    return Diagnosis(
        kind="health", tensor=found.finding.tensor or found.name, feature=None, row=None, step=step,
        message=f"step {step}: {found.name}: {found.finding.message}", leading=found.name,
    )  # fmt: skip


def cause_of(state: StepState, taken: TakenStep) -> Diagnosis:
    """The first value of a stopped step, in the order of the computation, that was not finite."""
    if taken.input is not None:
        return taken.input

    def loss() -> Tensor:
        return state.precision.scale(state.loss(state.forward(taken.seen), taken.seen, taken.counts)[0])

    replay = Replay(lambda: state.forward(taken.seen), taken.random, state.group.device, loss)
    losses, step = list(taken.record.task_losses.values()), taken.record.step
    return diagnose(state.model, taken.seen, state.layout, step, losses, taken.norms, replay, state.optimizers)


def _decision(bad: bool, finite_norm: bool, may_skip: bool) -> Decision:
    if not bad and not finite_norm and may_skip:
        return "skip"
    return "stop" if bad or not finite_norm else "update"


def _loss_view(state: StepState, logits: Tensor, batch: BatchView, counts: Tensor) -> LossView | None:
    """The loss for the detectors, on steps that are measured in detail."""
    if logits.grad is None or not logits.shape[0]:
        return None
    return LossView(
        logits=logits.detach(),
        labels=batch.labels,
        weights=batch.weights,
        gradient=logits.grad / state.precision.factor,
        counts=counts,
        loss_weights=state.loss_weights,
        formula=state.objectives,
    )
