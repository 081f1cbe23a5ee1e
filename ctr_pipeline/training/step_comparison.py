"""One step of a training, stage by stage beside the declared one, each stage given what the training's own was given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients import LossView, StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.rehearsal import kept_buffers
from ctr_pipeline.gradients.contracts.kept_state import kept_generators
from ctr_pipeline.gradients.contracts.outcome import listed
from ctr_pipeline.gradients.triage.batch_rules import batch_clues, order_clues
from ctr_pipeline.gradients.triage.difference_rules import forward_difference
from ctr_pipeline.gradients.triage.differential import at_stage
from ctr_pipeline.gradients.triage.evidence import Clue
from ctr_pipeline.gradients.triage.forms import Form, form_of, is_apart
from ctr_pipeline.gradients.triage.gradient_rules import Received, late_clues, received_clues
from ctr_pipeline.gradients.triage.lookup_rules import OwnedRows, lookup_differences
from ctr_pipeline.gradients.triage.loss_rules import step_loss_clues
from ctr_pipeline.training.dataloader import gather
from ctr_pipeline.training.declared_training import DeclaredTraining
from ctr_pipeline.training.part_comparison import TOLD, owned_rows, probed_form
from ctr_pipeline.training.step_recorder import ROWS, Gradient, Outputs, SparseGradient, StepRecorder
from ctr_pipeline.training.update_comparison import (
    UpdateComparison,
    changed_buffers,
    copies_of,
    states_of,
    written_in_forward,
)

LIMIT: Mapping[str, float] = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}
"""Relative difference by precision up to which the outputs of a part of the model are the same; both sides run the same
operations on the same numbers, and agree to the bit in all trainings that were measured."""

LOSS_LIMIT = 1e-4
"""Largest relative difference of a loss in float32 from its formula in float64."""

GRADIENT_LIMIT = 2e-3
"""The same of the gradient at the logits, relative to its largest value."""

NOISE = 0.05
"""Root mean square of what is added to weights, at least."""

LOGITS = ("head", "score()")
"""Parts whose outputs are logits."""


@dataclass(slots=True)
class StepComparison:
    """Compares recorded steps of a training with the declared one.

    Attributes:
        declared: The declared training.
        recorder: What the step did.
        rows: The rows that the training has in memory.
        reached: By parameter, the largest gradient that the declared training has had.
        random: State of torch's generator when the step began.
        states: By parameter, copies of its optimizer's state when the step began.
    """

    declared: DeclaredTraining
    recorder: StepRecorder
    rows: PackedSplit
    reached: dict[str, float] = field(default_factory=dict)
    random: Tensor = field(default_factory=torch.get_rng_state)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    _earlier: Mapping[str, Gradient] = field(default_factory=dict)
    _wanted: Mapping[str, Gradient] = field(default_factory=dict)
    _first: dict[str, Tensor] = field(default_factory=dict)
    _at_loss: dict[str, Tensor] = field(default_factory=dict)
    _buffers: Mapping[str, Tensor] = field(default_factory=dict)
    _probed: dict[str, Form | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keeps the weights as the forward pass leaves them."""
        self.recorder.on_logits = lambda: self._at_loss.update(copies_of(self.recorder.state.model))

    def begin(self) -> None:
        """Call before a step that is to be compared."""
        state = self.recorder.state
        self.declared.take_over(state)
        self.random = torch.get_rng_state()
        self.states = states_of(state.model, state.optimizers)
        self._first = self._first or copies_of(state.model)
        self._at_loss.clear()

    def clues(self, batch: BatchView, record: StepRecord, epoch: int, place: int) -> Iterator[Clue]:
        """Clues from the step that was recorded.

        Args:
            batch: What the step was given.
            record: What it measured.
            epoch: Its epoch.
            place: Its place in the epoch.
        """
        rows = self.declared.order(len(self.rows), epoch, place)
        yield from at_stage(order_clues(batch.rows.numpy(force=True), rows), "batches")
        stored = gather(self.rows, batch.rows.numpy(force=True)) if self._are_rows(batch.rows) else batch
        layout = self.declared.trainer.dataset.layout
        names = [column.name for column in layout.numeric], [column.name for column in layout.id_columns]
        given = self._given(batch)
        yield from at_stage(batch_clues(given, stored, *names, layout.tasks), "batches")
        if record.skipped or self.recorder.logits is None:
            return
        logits = self.declared.forward(given, self.random)
        self._buffers = dict(self.declared.state.model.named_buffers())
        differing = list(at_stage([*self._entered(given, *names), *self._forward()], "forward"))
        yield from differing
        yield from at_stage(self._loss(given, record), "loss")
        if not differing and self.recorder.logit_gradient is not None:
            expected = self.declared.gradients(logits, self.recorder.logit_gradient)
            yield from at_stage(self._gradients(expected, record), "gradients")
        yield from at_stage(self._received(record), "received")
        # With the settings that they had: that they are not the declared ones is told apart.
        yield from at_stage(written_in_forward(self.declared.state.model, self._at_loss), "forward")
        yield from at_stage(changed_buffers(self.recorder.state.model, self._buffers), "forward")
        update = UpdateComparison(self.declared, self.recorder, self.states, self._first)
        yield from at_stage(update.clues(record.step), "update")
        self._earlier = dict(self.recorder.backward)

    def evaluation(self, batch: BatchView) -> Iterator[Clue]:
        """Clues from the forward pass in evaluation mode."""
        state, own = self.recorder.state, self.declared.state.model
        self.declared.take_over(state)
        random = torch.get_rng_state()
        self.recorder.begin(active=True)
        state.model.eval()
        state.forward(batch)
        self.recorder.active = False
        own.eval()
        self.declared.forward(batch, random)
        own.train()
        # Whatever its form: that a part does otherwise when scoring alone is the cause.
        for clue in self._forward():
            text = f"in evaluation mode {clue.text}"
            yield Clue(cause="scoring_differs", weight=0.85, text=text, location=clue.location, stage="scoring")

    def perturbed(self, batch: BatchView) -> Iterator[Clue]:
        """Clues from a forward pass with other weights, none of them 0: what a part does to zeros shows nowhere.

        The weights and the generators are left as they were.
        """
        model = self.recorder.state.model
        kept = [p.detach().clone() for p in model.parameters()]
        with kept_generators(model), kept_buffers(model):
            torch.manual_seed(11)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn_like(p) * max(float(p.float().square().mean().sqrt()), NOISE))
            self.declared.take_over(self.recorder.state)
            random = torch.get_rng_state()
            model.train()
            self.recorder.begin(active=True)
            self.recorder.state.forward(batch)
            self.recorder.active = False
            self.declared.forward(batch, random)
            found = list(self._forward())
        with torch.no_grad():
            for p, value in zip(model.parameters(), kept, strict=True):
                p.copy_(value)
        for clue in found:
            yield replace(clue, text=f"with weights that are not 0 {clue.text}")

    def _are_rows(self, rows: Tensor) -> bool:
        return not len(rows) or (int(rows.min()) >= 0 and int(rows.max()) < len(self.rows))

    def _given(self, batch: BatchView) -> BatchView:
        """The batch as model and loss were given it."""
        own = self.recorder
        if len(own.read) >= 2 and len(own.read[0]) == len(batch.rows):
            position = own.read[2] if len(own.read) > 2 else batch.position
            batch = replace(batch, numeric=own.read[0], ids=own.read[1], position=position)
        if own.labels is not None and own.weights is not None and len(own.labels) == len(batch.rows):
            batch = replace(batch, labels=own.labels, weights=own.weights)
        return batch

    def _entered(self, given: BatchView, numbers: Sequence[str], ids: Sequence[str]) -> Iterator[Clue]:
        """What lies between the model's inputs and its first parts."""
        inner, (own, own_ids) = self.recorder.inner, self.recorder.state.model.own_columns
        outer = replace(given, numeric=given.numeric[:, :own], ids=given.ids[:, :own_ids])
        entered = replace(outer, numeric=inner.get("numeric", outer.numeric), ids=inner.get("ids", outer.ids))
        if entered.numeric.shape == outer.numeric.shape and entered.ids.shape == outer.ids.shape:
            yield from batch_clues(entered, outer, numbers[:own], ids[:own_ids])

    def _forward(self) -> Iterator[Clue]:
        limit = LIMIT[self.recorder.state.precision.name]
        found = _by_name(self.recorder.outputs)
        for name, wanted in _by_name(self.declared.outputs).items():
            own = found.get(name)
            if own is None or len(own) != len(wanted):
                times = 0 if own is None else len(own)
                text = f"{name} computes {times} tensors in a step, and {len(wanted)} are declared"
                yield Clue(cause="forward_differs", weight=0.76, text=text, location=name)
                return
            for mine, theirs in zip(own, wanted, strict=True):
                if name.endswith(ROWS) and not torch.equal(mine, theirs):
                    place = name.removesuffix(ROWS)
                    owners = owned_rows(self.declared.state.model, place, self.declared.trainer.dataset.layout)
                    yield from lookup_differences(place, mine, theirs, owners)
                    return
                if is_apart(mine, theirs, limit):
                    form = form_of(mine, theirs)
                    if form.name not in TOLD:
                        form = self._probe(name) or form
                    yield from forward_difference(name, form, of_logits=name in LOGITS)
                    return

    def _probe(self, name: str) -> Form | None:
        if name not in self._probed:
            models = self.recorder.state.model, self.declared.state.model
            self._probed[name] = probed_form(*models, name, self.declared.given.get(name))
        return self._probed[name]

    def _loss(self, given: BatchView, record: StepRecord) -> Iterator[Clue]:
        own, tasks = self.recorder, self.declared.trainer.dataset.layout.tasks
        assert own.logits is not None
        weights = self.declared.task_weights(record)
        total, means, gradient = self.declared.loss(own.logits, given, weights)
        if not bool(torch.isfinite(gradient).all()):
            return
        scale = record.loss_scale
        reached = torch.zeros_like(gradient) if own.logit_gradient is None else own.logit_gradient.double() / scale
        if is_apart(reached, gradient, GRADIENT_LIMIT):
            counts = self.declared.state.objectives.known_counts(given.labels, given.delays)
            view = LossView(
                logits=own.logits, labels=given.labels, weights=given.weights, gradient=reached, counts=counts,
                loss_weights=weights, formula=self.declared.state.objectives,
            )  # fmt: skip
            yield from step_loss_clues(view, form_of(reached, gradient).text)
        elif abs(record.loss - float(total)) > LOSS_LIMIT * max(abs(float(total)), 1e-3):
            text = (
                f"the loss of a step is {record.loss:.6g}, and {float(total):.6g} by its formula; its gradient is right"
            )
            yield Clue(cause="loss_differs", weight=0.76, text=text)
        else:
            for task, found, wanted in zip(tasks, record.task_losses.values(), means.tolist(), strict=True):
                if abs(found - wanted) > LOSS_LIMIT * max(abs(wanted), 1e-3):
                    text = f"the loss of task {task} is {found:.6g}, and {wanted:.6g} by its formula; its gradient is right"
                    yield Clue(cause="loss_differs", weight=0.76, text=text, location=task)

    def _gradients(self, expected: Mapping[str, Gradient], record: StepRecord) -> Iterator[Clue]:
        own, scale = self.recorder.backward, record.loss_scale
        for name, gradient in expected.items():
            values = gradient.values if isinstance(gradient, SparseGradient) else gradient
            size = float(values.abs().max()) / scale if values.numel() else 0.0
            self.reached[name] = max(self.reached.get(name, 0.0), size)
        parameters = dict(self.recorder.state.model.named_parameters())
        unreached = [n for n in expected if n in parameters and parameters[n].requires_grad and n not in own]
        if unreached:
            text = f"backward does not reach {listed(unreached)}: an output is detached, or no loss uses it"
            yield Clue(cause="detached_tower", weight=0.93, text=text, location=unreached[0], separating=True)
        # What no optimizer holds is cleared by none, and is another fault.
        held = {id(p) for o in self.recorder.state.optimizers for group in o.param_groups for p in group["params"]}
        names = [n for n in own if n in expected and n in parameters and id(parameters[n]) in held]
        silent = list(self._silent_features(own, expected))
        yield from silent
        left = {clue.location for clue in silent}
        pairs = [
            Received(name, *_aligned(expected[name], own[name]))
            for name in names
            if not left or name not in self._tables()
        ]
        yield from received_clues(_over(pairs, scale), float("inf"))
        yield from _late(own, expected, self._wanted)
        self._wanted = expected

    def _tables(self) -> dict[str, list[OwnedRows]]:
        """By the name of a table's weights, which of its rows are of which feature."""
        model, layout = self.declared.state.model, self.declared.trainer.dataset.layout
        places = [
            name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith(".table.weight")
        ]
        return {f"{place}.weight": owners for place in places if (owners := owned_rows(model, place, layout))}

    def _silent_features(self, own: Mapping[str, Gradient], expected: Mapping[str, Gradient]) -> Iterator[Clue]:
        """Features of a table to whose rows no gradient comes, while it comes to those of others."""
        for name, owners in self._tables().items():
            found, wanted = own.get(name), expected.get(name)
            if not isinstance(found, SparseGradient) or not isinstance(wanted, SparseGradient):
                continue
            there, missing = [
                {o.feature for o in owners if _has_gradient(part, o) == has}
                for part, has in ((wanted, True), (found, False))
            ]
            if (silent := sorted(there & missing)) and len(silent) < len(there):
                text = f"backward does not reach the rows of {listed(silent)} in {name}, and those of other features it does"
                yield Clue(cause="detached_tower", weight=0.93, text=text, location=silent[0], separating=True)
                return

    def _received(self, record: StepRecord) -> Iterator[Clue]:
        own, scale = self.recorder, record.loss_scale
        pairs = []
        for name, gradient in own.backward.items():
            wanted, found = _aligned(gradient, own.received.get(name, gradient))
            pairs.append(Received(name, wanted / scale, found if name in own.received else found / scale))
        yield from received_clues(pairs, self.declared.state.clip_norm)
        yield from _late(own.received, own.backward, self._earlier)


def _has_gradient(gradient: SparseGradient, owner: OwnedRows) -> bool:
    of_it = (gradient.rows >= owner.start) & (gradient.rows < owner.end)
    return bool((gradient.values[of_it] != 0).any())


def _by_name(outputs: Outputs) -> dict[str, list[Tensor]]:
    found: dict[str, list[Tensor]] = {}
    for name, tensors in outputs:
        found.setdefault(name, []).extend(tensors)
    return found


def _aligned(expected: Gradient, found: Gradient) -> tuple[Tensor, Tensor]:
    """Two gradients of a parameter as tensors of one shape, in float64: of tables, those of the rows of both."""
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        return expected.double(), found.double()
    pair = [_rows(gradient) for gradient in (expected, found)]
    rows = torch.from_numpy(np.union1d(pair[0].rows.numpy(), pair[1].rows.numpy()))
    full = []
    for gradient in pair:
        values = torch.zeros(len(rows), gradient.values.shape[1], dtype=torch.float64)
        values[torch.searchsorted(rows, gradient.rows)] = gradient.values.double()
        full.append(values)
    return full[0], full[1]


def _rows(gradient: Gradient) -> SparseGradient:
    return gradient if isinstance(gradient, SparseGradient) else SparseGradient(torch.arange(len(gradient)), gradient)


def _over(pairs: Sequence[Received], scale: float) -> list[Received]:
    return [Received(pair.name, pair.expected / scale, pair.found / scale) for pair in pairs]


def _late(own: Mapping[str, Gradient], now: Mapping[str, Gradient], before: Mapping[str, Gradient]) -> Iterator[Clue]:
    parts = [{n: g.double() for n, g in part.items() if isinstance(g, Tensor)} for part in (own, now, before)]
    yield from late_clues(parts[0], parts[1], parts[2])
