"""The first steps of a training that is watched from outside: batches, gradients, updates."""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.contracts.random_batches import RandomBatches
from ctr_pipeline.gradients.triage.contract_rules import contract_clues
from ctr_pipeline.gradients.triage.difference_rules import initial_differences
from ctr_pipeline.gradients.triage.differential import at_stage
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence
from ctr_pipeline.gradients.triage.gradient_rules import state_clues
from ctr_pipeline.gradients.triage.state_rules import state_differences
from ctr_pipeline.training.declared_training import DeclaredTraining
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.lr_schedule import learning_rate_factor
from ctr_pipeline.training.step_comparison import StepComparison
from ctr_pipeline.training.step_recorder import SparseGradient, StepRecorder
from ctr_pipeline.training.stopping import Cancelled, Stopped
from ctr_pipeline.training.update_comparison import copies_of, states_of

_log = logging.getLogger("ctr_pipeline.training")

STEPS = 30
"""Steps that are watched; warm-up is over by then in most trainings."""

CLOSE_LOOK = (0, 1, 2, 20)
"""Steps whose gradients and updates are compared with what they should be."""

SMALL = 3_000_000
"""Size of a model up to which all steps are: what happens in each tenth step alone is then seen too."""


class Unwatched:
    """Stands for the contracts of a training that is to run whatever they say."""

    active = False

    def before(self, batch: BatchView, step: int) -> None:
        """Nothing is looked at."""

    def after(self, record: StepRecord) -> None:
        """Nothing is looked at."""

    def close(self) -> None:
        """Nothing is held."""


def run_window(trainer: Trainer, steps: int, watch: Any) -> Stopped | None:
    """Runs the first ``steps`` of a training that has not begun, with ``watch`` in place of its contracts.

    Neither contracts nor detectors stop it; a value that is not finite does.

    Args:
        trainer: The training; it cannot be used afterwards.
        steps: Steps after which it is cancelled; all of it where that is more than it has.
        watch: Called before and after each step as contracts are, and closed at the end.

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
    finally:
        watch.close()
    return None


@dataclass(slots=True)
class StepWatch:
    """Takes the place of a training's contracts, and compares what each step does with what is declared.

    Attributes:
        trainer: The training.
        declared: The declared training; None where it is not compared.
        clues: What was noticed.
        norms: Gradient norm of each step before clipping.
        losses: Loss of each step.
        ratios: By parameter, ‖update‖ / ‖weights‖, as at the peak of the learning rate, of the steps that were looked at closely.
    """

    trainer: Trainer
    declared: DeclaredTraining | None = None
    clues: list[Clue] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    active: bool = False
    _recorder: StepRecorder | None = None
    _comparison: StepComparison | None = None
    _batch: BatchView | None = None
    _close: bool = False
    _kept: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    _looked: int = 0
    _digests: list[int] = field(default_factory=list)
    _left: dict[str, Tensor] = field(default_factory=dict)
    _remembered: dict[str, dict[str, Any]] = field(default_factory=dict)
    _composition: RandomBatches | None = None

    def __post_init__(self) -> None:
        """Observes the model's head, and with a declared training all that a step does."""
        trainer = self.trainer
        self._composition = RandomBatches(trainer.train.labels, trainer.dataset.layout.tasks)
        trainer.model.head.register_forward_pre_hook(lambda *_: self._at_forward())
        if self.declared is not None:
            self._recorder = StepRecorder(trainer.state)
            self._comparison = StepComparison(self.declared, self._recorder, trainer.train)
            # Two models that are the same before the first step may be compared; a resumed one has moved.
            if trainer.step == 0:
                own, there = trainer.state.model, self.declared.state.model
                self._keep(at_stage(initial_differences(own, there), "initial"))
                mine, theirs = (states_of(s.model, s.optimizers) for s in (trainer.state, self.declared.state))
                expected = {name: theirs.get(name, {}) for name in (*theirs, *mine)}
                self._keep(at_stage(state_differences(mine, expected, "before the first step"), "initial"))

    def close(self) -> None:
        """Lets go of the training."""
        if self._recorder is not None:
            self._recorder.close()

    def before(self, batch: BatchView, step: int) -> None:
        """Notes how the step begins."""
        self._close = step in CLOSE_LOOK or self._parameters() <= SMALL
        self._between_steps()
        self._batch = batch
        usable = input_fault(batch, self.trainer.dataset.layout, step) is None
        self._close = self._close and usable and self._comparison is not None
        if usable:
            self._look_at(batch)
        if self._recorder is not None:
            self._recorder.begin(active=self._close)
        if self._close and self._comparison is not None:
            self._comparison.begin()
            for optimizer in self.trainer.optimizers:
                self._keep(at_stage(state_clues(optimizer, len(self.norms)), "between"))

    def after(self, record: StepRecord) -> None:
        """Compares the step with the declared one."""
        self.norms.append(record.grad_norm)
        self.losses.append(record.loss)
        if not self._close or self._comparison is None or self._batch is None or self._recorder is None:
            return
        self._recorder.active = False
        self._looked += 1
        self._keep(self._comparison.clues(self._batch, record, self.trainer.epoch, self.trainer.batch))
        if record.skipped:
            return
        before = dict(self._comparison.declared.state.model.named_parameters())
        for name, parameter in self.trainer.model.named_parameters():
            if name in before and before[name].shape == parameter.shape:
                self._note_ratio(name, before[name].detach(), parameter.detach())
        self._left = copies_of(self.trainer.model)
        self._remembered = states_of(self.trainer.model, self.trainer.optimizers)

    def _parameters(self) -> int:
        return sum(p.numel() for p in self.trainer.model.parameters())

    def _between_steps(self) -> None:
        """Weights and what optimizers remember are at the start of a step what they were at the end of the one before."""
        left, self._left = self._left, {}
        remembered, self._remembered = self._remembered, {}
        changed = [
            n for n, p in self.trainer.model.named_parameters() if n in left and not torch.equal(p.detach(), left[n])
        ]
        if changed:
            text = f"{changed[0]} and {len(changed) - 1} more are written between two steps, not by an optimizer"
            clue = Clue(cause="weights_overwritten", weight=0.93, text=text, location=changed[0], separating=True)
            self._keep(at_stage([clue], "between"))
        states = states_of(self.trainer.model, self.trainer.optimizers) if remembered else {}
        self._keep(at_stage(state_differences(states, remembered, "between two steps"), "between"))

    def evaluation(self, batch: BatchView) -> list[Clue]:
        """Clues from the forward pass on ``batch`` in evaluation mode; call after the last step."""
        return [] if self._comparison is None else list(self._comparison.evaluation(batch))

    def summary(self) -> Iterator[Clue]:
        """Clues from all steps together; call after the last one."""
        yield from map(self._with_steps, self.clues)
        yield from self._reach_clues()
        yield from self._rate_clues()
        norms = [norm for norm in self.norms if math.isfinite(norm)]
        clip = self.trainer.state.clip_norm
        if norms and clip < 0.02 * median(norms) and clip < 0.05:
            text = f"gradients are limited to a norm of {clip:g}, and theirs is {median(norms):.3g}"
            yield Clue(cause="clip_too_tight", weight=0.85, text=text, separating=True)

    def _keep(self, clues: Iterable[Clue]) -> None:
        """Each kind of clue once, with the steps in which it is seen: the same fault is seen in many."""
        for clue in clues:
            if (clue.cause, clue.stage) not in self._kept:
                self.clues.append(clue)
            steps = self._kept.setdefault((clue.cause, clue.stage), [])
            if self._looked and self.trainer.step not in steps[-1:]:
                steps.append(self.trainer.step)

    def _with_steps(self, clue: Clue) -> Clue:
        """With the steps in which a stage was seen to differ: in all of them, in some, or from one on."""
        steps = self._kept.get((clue.cause, clue.stage), [])
        if not clue.stage or not steps or len(steps) == self._looked:
            return clue
        apart = {b - a for a, b in pairwise(steps)}
        every = f", each {apart.pop()} steps" if len(apart) == 1 and apart != {1} else ""
        text = f"{clue.text} ({len(steps)} of {self._looked} steps, first in step {steps[0]}{every})"
        return replace(clue, text=text)

    def _at_forward(self) -> None:
        if not torch.is_grad_enabled():
            return
        stopped = [name or "the model" for name, module in self.trainer.model.named_modules() if not module.training]
        if stopped:
            text = f"{stopped[0]} in evaluation mode in a training step"
            clue = Clue(cause="eval_mode", weight=0.95, text=text, location=stopped[0], separating=True)
            self._keep(at_stage([clue], "forward"))
        held = {id(p) for o in self.trainer.optimizers for group in o.param_groups for p in group["params"]}
        named = self.trainer.model.named_parameters()
        # What no optimizer holds is cleared by none, and is another fault.
        left = [name for name, p in named if p.grad is not None and id(p) in held]
        if left and self.norms:
            text = f"{len(left)} parameters, {left[0]} among them, have the gradients of the step before when a step begins"
            clue = Clue(cause="missing_zero_grad", weight=0.95, text=text, location=left[0], separating=True)
            self._keep(at_stage([clue], "gradients"))

    def _note_ratio(self, name: str, before: Tensor, after: Tensor) -> None:
        gradient = self._recorder.received.get(name) if self._recorder is not None else None
        rows = gradient.rows if isinstance(gradient, SparseGradient) else None
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
            clue = Clue(cause="stale_batch", weight=0.95, text=text, separating=True)
            # Rows that are on disk several times may fill two batches alike; else it is the loader's doing.
            self._keep(at_stage([clue], "batches") if self._is_another(batch) else [clue])
        self._digests.append(digest)
        if self._composition is not None:
            found = self._composition.outcome(batch.labels.numpy(force=True))
            self._keep(contract_clues(RunEvidence(outcomes=[found.to_dict()])))

    def _is_another(self, batch: BatchView) -> bool:
        """Whether a batch has other rows than its place in the epoch gives to it."""
        if self.declared is None:
            return False
        declared = self.declared.order(len(self.trainer.train), self.trainer.epoch, self.trainer.batch)
        return not np.array_equal(declared, batch.rows.numpy(force=True))

    def _reach_clues(self) -> Iterator[Clue]:
        """Parameters whose gradient is 0 in the declared training too."""
        reached = {} if self._comparison is None else self._comparison.reached
        silent = [name for name, size in reached.items() if size == 0 and not name.startswith("position")]
        if silent:
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
