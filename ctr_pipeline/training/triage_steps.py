"""The first steps of a training that is watched from outside: batches, gradients, updates."""

import copy
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.adapters.rehearsal import kept_buffers, without_gradients
from ctr_pipeline.gradients.contracts.clip_direction import gradient_values
from ctr_pipeline.gradients.contracts.kept_state import kept_generators
from ctr_pipeline.gradients.contracts.random_batches import RandomBatches
from ctr_pipeline.gradients.triage.batch_rules import batch_clues
from ctr_pipeline.gradients.triage.contract_rules import contract_clues
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence
from ctr_pipeline.gradients.triage.gradient_rules import (
    Received,
    Written,
    late_clues,
    received_clues,
    state_clues,
    written_clues,
)
from ctr_pipeline.training.dataloader import gather, to_device
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.lr_schedule import learning_rate_factor
from ctr_pipeline.training.stopping import Cancelled, Stopped

_log = logging.getLogger("ctr_pipeline.training")

STEPS = 30
"""Steps that are watched; warm-up is over by then in most trainings."""

CLOSE_LOOK = (0, 1, 2, 20)
"""Steps whose gradients and updates are compared with what they should be."""

HALF_SCALE = 2.0**12
"""Factor on the loss in 16 bits: gradients as small as 1e-11 are then there, and those as large as 16."""

SMALL = 3_000_000
"""Size of a model up to which all steps are: what happens in each tenth step alone is then seen too."""

MOST_PARAMETERS = 30_000_000
"""Size of a model up to which updates are computed a second time."""


class Unwatched:
    """Stands for the contracts of a training that is to run whatever they say."""

    active = False

    def before(self, batch: BatchView, step: int) -> None:
        """Nothing is looked at."""

    def after(self, record: StepRecord) -> None:
        """Nothing is looked at."""


def run_window(trainer: Trainer, steps: int, watch: Any) -> Stopped | None:
    """Runs the first ``steps`` of a training that has not begun, with ``watch`` in place of its contracts.

    Neither contracts nor detectors stop it; a value that is not finite does.

    Args:
        trainer: The training; it cannot be used afterwards.
        steps: Steps after which it is cancelled; all of it where that is more than it has.
        watch: Called before and after each step as contracts are.

    Returns:
        Why it stopped by itself; None where it did not.
    """
    # It stands for the contracts, and detectors report as ever without stopping the run.
    setattr(trainer, "_preflight", watch)  # noqa: B010
    setattr(trainer.monitor, "broken", lambda: None)  # noqa: B010
    setattr(trainer, "_cancelled", lambda: trainer.step >= steps)  # noqa: B010
    try:
        with suppress(Cancelled):
            trainer.run(resume=False)
    except Stopped as stopped:
        return stopped
    except Exception as error:
        # A training that is looked at because it broke may break in any way.
        _log.info("the watched training ended with %s: %s", type(error).__name__, error)
    return None


@dataclass(slots=True)
class _Twin:
    """An optimizer's copy, which makes the same update from the gradients that the optimizer received."""

    names: Sequence[str]
    own: torch.optim.Optimizer

    def step(self) -> dict[str, Tensor]:
        type(self.own).step(self.own)
        parameters = [p for group in self.own.param_groups for p in group["params"]]
        return {name: p.detach() for name, p in zip(self.names, parameters, strict=True) if name}


@dataclass(slots=True)
class StepWatch:
    """Takes the place of a training's contracts, and compares what each step does with what it should do.

    Attributes:
        trainer: The training.
        clues: What was noticed.
        norms: Gradient norm of each step before clipping.
        losses: Loss of each step.
        ratios: By parameter, ‖update‖ / ‖weights‖, as at the peak of the learning rate, of the steps that were looked at closely.
    """

    trainer: Trainer
    clues: list[Clue] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    active: bool = False
    _expected: dict[str, Tensor] = field(default_factory=dict)
    _received: dict[str, Tensor] = field(default_factory=dict)
    _before: dict[str, Tensor] = field(default_factory=dict)
    _touched: dict[str, Tensor] = field(default_factory=dict)
    _twins: list[_Twin] = field(default_factory=list)
    _rehearsing: bool = False
    _close: bool = False
    _stepped: dict[int, int] = field(default_factory=dict)
    _kept: set[str] = field(default_factory=set)
    _digests: list[int] = field(default_factory=list)
    _reached: dict[str, float] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _earlier: dict[str, Tensor] = field(default_factory=dict)
    _first: dict[str, Tensor] = field(default_factory=dict)
    _left: dict[str, Tensor] = field(default_factory=dict)
    _composition: RandomBatches | None = None

    def __post_init__(self) -> None:
        """Observes the model's head and the optimizers."""
        trainer = self.trainer
        self._composition = RandomBatches(trainer.train.labels, trainer.dataset.layout.tasks)
        self._names = {id(p): name for name, p in trainer.model.named_parameters()}
        trainer.model.head.register_forward_pre_hook(lambda *_: self._at_forward())
        for place, optimizer in enumerate(trainer.optimizers):
            optimizer.register_step_pre_hook(lambda own, *_, place=place: self._at_step(own, place))

    def before(self, batch: BatchView, step: int) -> None:
        """Computes what the step's gradients must be."""
        self._earlier = self._expected
        self._expected, self._received, self._before, self._twins, self._touched = {}, {}, {}, [], {}
        self._stepped = {}
        self._close = step in CLOSE_LOOK or self._parameters() <= SMALL
        self._between_steps()
        if input_fault(batch, self.trainer.dataset.layout, step) is not None:
            self._close = False
            return
        self._look_at(batch)
        if not self._close:
            return
        state = self.trainer.state
        self._rehearsing = True
        with kept_generators(state.model), kept_buffers(state.model), without_gradients(state.model):
            seen = to_device(batch, state.group.device)
            counts = state.objectives.known_counts(seen.labels, seen.delays)
            loss, _ = state.loss(state.forward(seen), seen, counts)
            # By a scale of its own, whatever the training does with its: what is small would else be 0 in the gradient that
            # the step's is compared with.
            scale = HALF_SCALE if state.precision.name == "fp16" else 1.0
            if loss.requires_grad:
                (loss * scale).backward()  # type: ignore[no-untyped-call]
            for name, parameter in state.model.named_parameters():
                if parameter.grad is not None:
                    self._expected[name] = gradient_values(parameter).detach().double().clone() / scale
                    size = float(self._expected[name].abs().max()) if self._expected[name].numel() else 0.0
                    self._reached[name] = max(self._reached.get(name, 0.0), size)
        self._rehearsing = False

    def after(self, record: StepRecord) -> None:
        """Compares the step with what it should be."""
        self.norms.append(record.grad_norm)
        self.losses.append(record.loss)
        if not self._close or record.skipped or not self._received:
            return
        pairs = [
            Received(name, self._expected[name], found)
            for name, found in self._received.items()
            if name in self._expected and self._expected[name].shape == found.shape
        ]
        self._keep(received_clues(pairs, self.trainer.state.clip_norm))
        self._keep(late_clues(self._dense(self._received), self._expected, self._earlier))
        expected = {name: values for twin in self._twins for name, values in twin.step().items()}
        rates = {
            self._names[id(p)]: float(group["lr"])
            for optimizer in self.trainer.optimizers for group in optimizer.param_groups for p in group["params"]
            if id(p) in self._names
        }  # fmt: skip
        tables = {f"{n}.weight" for n, m in self.trainer.model.named_modules() if isinstance(m, nn.Embedding)}
        written = []
        for name, parameter in self.trainer.model.named_parameters():
            if name in self._before:
                own = self._before[name], parameter.detach()
                written.append(Written(name, own[0], own[1], expected.get(name), name in tables))
                self._note_ratio(name, *own)
        if self._twins:
            self._first = self._first or self._before
            self._keep(written_clues(written, rates, self._first))
            self._left = {name: p.detach().clone() for name, p in self.trainer.model.named_parameters()}

    def _parameters(self) -> int:
        return sum(p.numel() for p in self.trainer.model.parameters())

    def _dense(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values for name, values in gradients.items() if name not in self._touched}

    def _between_steps(self) -> None:
        """Weights are at the start of a step what they were at the end of the one before."""
        left, self._left = self._left, {}
        changed = [
            n for n, p in self.trainer.model.named_parameters() if n in left and not torch.equal(p.detach(), left[n])
        ]
        if changed:
            text = f"{changed[0]} and {len(changed) - 1} more are written between two steps, not by an optimizer"
            self._keep(
                iter([Clue(cause="weights_overwritten", weight=0.93, text=text, location=changed[0], separating=True)])
            )

    def summary(self) -> Iterator[Clue]:
        """Clues from all steps together; call after the last one."""
        yield from self.clues
        yield from self._reach_clues()
        yield from self._rate_clues()
        norms = [norm for norm in self.norms if math.isfinite(norm)]
        clip = self.trainer.state.clip_norm
        if norms and clip < 0.02 * median(norms) and clip < 0.05:
            text = f"gradients are limited to a norm of {clip:g}, and theirs is {median(norms):.3g}"
            yield Clue(cause="clip_too_tight", weight=0.85, text=text, separating=True)

    def _keep(self, clues: Iterator[Clue]) -> None:
        """Each kind of clue once: the same fault is seen in every step."""
        for clue in clues:
            if clue.cause not in self._kept:
                self.clues.append(clue)
        self._kept |= {clue.cause for clue in self.clues}

    def _at_forward(self) -> None:
        if self._rehearsing or not torch.is_grad_enabled():
            return
        stopped = [name or "the model" for name, module in self.trainer.model.named_modules() if not module.training]
        if stopped:
            text = f"{stopped[0]} in evaluation mode in a training step"
            self._keep(iter([Clue(cause="eval_mode", weight=0.95, text=text, location=stopped[0], separating=True)]))
        held = {id(p) for o in self.trainer.optimizers for group in o.param_groups for p in group["params"]}
        named = self.trainer.model.named_parameters()
        # What no optimizer holds is cleared by none, and is another fault.
        left = [name for name, p in named if p.grad is not None and id(p) in held]
        if left and self.norms:
            text = f"{len(left)} parameters, {left[0]} among them, have the gradients of the step before when a step begins"
            self._keep(
                iter([Clue(cause="missing_zero_grad", weight=0.95, text=text, location=left[0], separating=True)])
            )

    @torch.no_grad()
    def _at_step(self, optimizer: torch.optim.Optimizer, place: int) -> None:
        if not self._close:
            return
        model = self.trainer.model
        small = self._parameters() <= MOST_PARAMETERS
        self._stepped[place] = self._stepped.get(place, 0) + 1
        if self._stepped[place] > 1:
            text = f"{type(optimizer).__name__} makes {self._stepped[place]} updates in one step"
            self._keep(iter([Clue(cause="weights_overwritten", weight=0.9, text=text, separating=True)]))
            return
        if not self._before:
            self._before = {name: p.detach().clone() for name, p in model.named_parameters()} if small else {}
        held = [p for group in optimizer.param_groups for p in group["params"]]
        self._keep(state_clues(optimizer, len(self.norms)))
        for parameter in held:
            name = self._names.get(id(parameter))
            if name is not None and parameter.grad is not None:
                self._received[name] = gradient_values(parameter).detach().double().clone()
                if parameter.grad.is_sparse:
                    self._touched[name] = parameter.grad._indices()[0].clone()
        if not small:
            return
        twin = copy.deepcopy(optimizer)
        copies = [p for group in twin.param_groups for p in group["params"]]
        for parameter, own in zip(held, copies, strict=True):
            own.grad = None if parameter.grad is None else parameter.grad.clone()
            if (name := self._names.get(id(parameter))) in self._before:
                own.copy_(self._before[str(name)])
        self._twins.append(_Twin([self._names.get(id(p), "") for p in held], twin))

    def _note_ratio(self, name: str, before: Tensor, after: Tensor) -> None:
        rows = self._touched.get(name)
        if rows is not None:
            before, after = before[rows], after[rows]
        if before.ndim < 2 or not before.numel():
            return
        floor = (0.01 if rows is None else 0.2) * before.numel() ** 0.5
        ratio = float((after - before).norm()) / max(float(before.norm()), floor)
        # As it will be once the learning rate has warmed up.
        share = learning_rate_factor(self.trainer.step, self.trainer.steps, self.trainer.job.training.warmup_fraction)
        ratio /= max(share, 1e-3)
        self.ratios.setdefault(name, []).append(ratio)

    def _look_at(self, batch: BatchView) -> None:
        content = torch.cat(
            [batch.ids.double(), batch.numeric.double().nan_to_num(1e300), batch.labels.double()], dim=1
        )
        digest = hash(content.numpy(force=True).tobytes())
        alike = len(content) < 2 or bool((content == content[:1]).all())
        if digest in self._digests and not alike and self.trainer.epoch == 0:
            text = f"the batch of step {self.trainer.step} has been there before in the same epoch"
            self._keep(iter([Clue(cause="stale_batch", weight=0.93, text=text, separating=True)]))
        self._digests.append(digest)
        if self._composition is not None:
            found = self._composition.outcome(batch.labels.numpy(force=True))
            self._keep(contract_clues(RunEvidence(outcomes=[found.to_dict()])))
        rows = batch.rows.cpu()
        if len(rows) > 16 and bool((rows.sort().values.diff() == 1).all()):
            text = "batches are rows that stand side by side: the order is not random"
            self._keep(iter([Clue(cause="stale_batch", weight=0.6, text=text)]))
        stored = gather(self.trainer.train, rows.numpy())
        layout = self.trainer.dataset.layout
        names = [column.name for column in layout.numeric], [column.name for column in layout.id_columns]
        self._keep(batch_clues(batch, stored, *names))

    def _reach_clues(self) -> Iterator[Clue]:
        named = [name for name, p in self.trainer.model.named_parameters() if p.requires_grad]
        if not self._reached:
            return
        unreached = [name for name in named if name not in self._reached]
        silent = [name for name in named if self._reached.get(name, 1.0) == 0 and not name.startswith("position")]
        if unreached:
            text = f"backward does not reach {unreached[0]} and {len(unreached) - 1} more: an output is detached, or no loss uses it"
            yield Clue(cause="detached_tower", weight=0.93, text=text, location=unreached[0], separating=True)
        elif silent:
            text = f"the gradient of {silent[0]} and {len(silent) - 1} more is 0 in all steps that were looked at"
            yield Clue(cause="detached_tower", weight=0.4, text=text, location=silent[0])
            yield Clue(cause="dead_relu", weight=0.35, text=text, location=silent[0])

    def _rate_clues(self) -> Iterator[Clue]:
        largest = {name: max(values) for name, values in self.ratios.items() if not math.isnan(max(values))}
        if not largest:
            return
        worst = max(largest, key=lambda name: largest[name])
        if largest[worst] > 1.0:
            text = f"at the peak of the learning rate one update moves {worst} by {largest[worst]:.3g} of its own size"
            weight = 0.85 if largest[worst] > 3 else 0.5
            yield Clue(cause="huge_lr", weight=weight, text=text, location=worst, separating=weight > 0.8)
        moved = {name: value for name, value in largest.items() if value > 0}
        if moved and max(moved.values()) < 1e-5:
            text = f"no update moves a weight by more than {max(moved.values()):.2g} of its own size"
            yield Clue(cause="tiny_lr", weight=0.85, text=text, separating=True)
        for optimizer, peak in zip(self.trainer.optimizers, self.trainer.state.peaks, strict=False):
            rates = {float(group["lr"]) for group in optimizer.param_groups}
            if peak > 0 and min(rates) < 1e-4 * peak and self.trainer.step > 5:
                text = f"a learning rate of {type(optimizer).__name__} is {min(rates):g}, and its peak {peak:g}"
                yield Clue(cause="tiny_lr", weight=0.85, text=text, separating=True)
