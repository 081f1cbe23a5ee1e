"""The training loop: epochs of steps (:mod:`ctr_pipeline.training.step`), validation, checkpoints, and what is written."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import torch

from ctr_pipeline.datasets import PackedDataset, PackedSplit
from ctr_pipeline.gradients import Diagnosis, StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.ranker_contracts import BrokenContract
from ctr_pipeline.gradients.detectors import Divergence
from ctr_pipeline.gradients.triage.failed_step import dump_failed_step
from ctr_pipeline.gradients.triage.left_behind import read_json_lines
from ctr_pipeline.losses.balances import needs_rates
from ctr_pipeline.losses.label_smoothing import base_rates
from ctr_pipeline.ranker import layout_hash, load_ranker, save_ranker
from ctr_pipeline.spec.branches import Fusion
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.assembly import build_objectives, build_state
from ctr_pipeline.training.branch_stops import BranchStops
from ctr_pipeline.training.callbacks import Callback, JsonLines, StepLines
from ctr_pipeline.training.checkpoint import (
    CheckpointSchedule,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from ctr_pipeline.training.dataloader import BatchLoader, batch_bounds, batches_per_epoch, delays_of
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.gradient_record import GradientRecord
from ctr_pipeline.training.job_spec import TrainingError, TrainingJob
from ctr_pipeline.training.lr_schedule import learning_rate_factor
from ctr_pipeline.training.plan import TrainingPlan
from ctr_pipeline.training.preflight import Preflight
from ctr_pipeline.training.run_files import RunFiles
from ctr_pipeline.training.scoring import validate, validate_branches, write_position_effect, write_scores
from ctr_pipeline.training.step import StepPosition, TakenStep, take_step, update
from ctr_pipeline.training.step_bundle import own_part, step_content
from ctr_pipeline.training.stopping import Cancelled, Stopped, first_cause, with_leading_finding
from ctr_pipeline.training.training_result import TrainingResult

STEPS_BETWEEN_MEANS = 100
"""How often the means from which new ids begin follow the embeddings."""


class Trainer:
    """Fits one ranker. Build it, then :meth:`run` once.

    Args:
        job: The job.
        dataset: The packed dataset.
        plan: The settings that the job may leave open.
        group: The processes of the run.
        clock: Seconds from an arbitrary start, for the speed.
        cancelled: Asked after every batch; True stops the run with :class:`Cancelled`.
        callbacks: Called after steps and epochs, by the first process only.
        files: What it writes; ``RunFiles.of(job.output)`` when absent.
        split: Part of the dataset to learn from. ``refit`` is learnt without validation.
        stop_after: Epochs that are learnt, of those of the plan that the learning rate follows; all when absent.
        stopped_branches: By epoch the branches that stop after it, where there is no validation to tell.
    """

    def __init__(
        self,
        job: TrainingJob,
        dataset: PackedDataset,
        plan: TrainingPlan,
        group: ProcessGroup,
        clock: Callable[[], float],
        cancelled: Callable[[], bool],
        callbacks: Sequence[Callback] = (),
        files: RunFiles | None = None,
        split: str = "train",
        stop_after: int | None = None,
        stopped_branches: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        self.job, self.dataset, self.plan, self.group = job, dataset, plan, group
        self._clock, self._cancelled, self._callbacks = clock, cancelled, callbacks
        self.files = files or RunFiles.of(job.output)
        self.train = train = dataset.splits[split]
        self._validation = dataset.splits["validation"] if split == "train" else None
        if len(train) == 0:
            raise TrainingError("the train split has no rows: give the run more days or shorten the other splits")
        self.steps_per_epoch = batches_per_epoch(len(train), plan.batch_size)
        self.steps = self.steps_per_epoch * plan.epochs
        self._epochs = stop_after or plan.epochs
        self._rates = base_rates(train.labels, train.weights) if _needs_rates(job) else ()
        self.objectives = build_objectives(job, dataset.layout, delays_of(train), self._rates)
        starting_rates = self.objectives.starting_rates(train.labels)
        self.state = build_state(
            job, dataset.layout, plan, group, self.objectives, starting_rates, base_rates=self._rates
        )
        self.model, self.optimizers = self.state.model, self.state.optimizers
        self.model.learn_counts(train.ids)
        self.precision, self.monitor = self.state.precision, self.state.monitor
        fusion = job.model.fusion or Fusion()
        self._branches = BranchStops(model=self.model, fusion=fusion, given=stopped_branches or {})
        if job.health_limits is not None:
            self.monitor.calibrate(job.health_limits.limits, job.health_limits.runs)
        if split == "train" and job.last_good_steps is not None:
            self.monitor.compare_with(read_json_lines(job.last_good_steps))
        self._preflight: Preflight | None = None
        self._steps_file: StepLines | None = None
        self._record = GradientRecord(self.files.gradients)
        self._checkpoints = CheckpointSchedule(job.checkpoint_every, self.steps, clock)
        self.epoch, self.batch, self.step = 0, 0, 0
        self.best_epoch, self.best_validation = -1, math.inf
        self.model_sha256 = ""
        # Built last, so that nothing above can shift the generators of a resumed run.
        torch.manual_seed((job.seed * 1_000_003 + group.shard.rank) % 2**63)

    def run(self, resume: bool) -> TrainingResult:
        """Train, choose the best epoch, score, and write :attr:`files`.

        Args:
            resume: Continue from checkpoint.pt where there is one.

        Raises:
            Stopped: A value is not finite, a check is broken or a detector stops the run: the parameters are those before
                the step. Or the best validation is far worse than a constant.
            Cancelled: ``cancelled`` said so.
            TrainingError: The checkpoint does not belong to this job.
        """
        self.files.steps.parent.mkdir(parents=True, exist_ok=True)
        if resume and self.files.checkpoint.is_file():
            self._resume()
        elif self.group.is_first:
            self.files.remove_earlier_run()
            self._record.start()
        self.group.barrier()
        rows, seconds = 0, 0.0
        validation_file = None
        if self.group.is_first:
            self._steps_file = StepLines(self.files.steps, self.step, self._clock)
            if self._validation is not None:
                validation_file = JsonLines(self.files.validation, self.epoch)
        finished = False
        try:
            while self.epoch < self._epochs and self.epoch - self.best_epoch <= self.job.training.patience:
                started = self._clock()
                rows += self._train_epoch(self._steps_file)
                seconds += self._clock() - started
                self._finish_epoch(validation_file)
            finished = True
        finally:
            for file in (self._steps_file, validation_file):
                if file is not None:
                    file.close()
            if self.group.is_first:
                self._record.close(self.monitor.rows, finished=finished)
        self._refuse_divergence()
        self._score()
        return TrainingResult(
            best_epoch=self.best_epoch,
            best_validation=self.best_validation if math.isfinite(self.best_validation) else None,
            epochs=self.epoch,
            steps=self.step,
            rows=rows,
            seconds=seconds,
            health=self.monitor.report(),
            model_sha256=self.model_sha256,
        )

    def _train_epoch(self, steps_file: StepLines | None) -> int:
        self.model.train()
        rows = 0
        if self._preflight is None:
            self._preflight = self._new_preflight()
        where = self.job.seed, self.epoch, self.batch, self.state.inputs
        reader = BatchLoader(self.train, self.plan.batch_size, self.group.shard, *where)
        with reader as batches:
            for batch in self._read(batches):
                self._refuse(self._preflight.before(batch, self.step))
                # What a contract finds wrong in an update is taken back.
                self.state.last_good.always = self._preflight.active
                record = self._train_step(batch)
                self._refuse(self._preflight.after(record), taken_back=not record.skipped)
                rows += record.rows
                if self.group.is_first:
                    if steps_file is not None:
                        steps_file.add(record)
                    for callback in self._callbacks:
                        callback.on_step(record, self.steps)
                self.step += 1
                self.batch += 1
                if self.step % STEPS_BETWEEN_MEANS == 0:
                    self.model.follow_embeddings()
                self._write_measurements(all_of_them=False)
                due = self._checkpoints.is_due(self.step) and self.batch < self.steps_per_epoch
                # The clock of the first process decides for all.
                if due and self.group.gather_objects(self._checkpoints.is_worth_its_time())[0]:
                    self._save_checkpoint()
        return rows

    def _read(self, batches: Iterator[BatchView]) -> Iterator[BatchView]:
        """The batches as they reach the steps; a drill changes them here."""
        return batches

    def _new_preflight(self) -> Preflight:
        return Preflight(
            model=self.model, layout=self.dataset.layout, optimizers=self.optimizers, objectives=self.objectives,
            sections=[self.job.objectives.get(task, Binary()) for task in self.dataset.layout.tasks],
            loss_weights=self.state.loss_weights, weigh=self.state.weigh, smoothing=self.job.training.label_smoothing, base_rates=self._rates,
            forward=self.state.forward, precision=self.precision, group=self.group, rows=self.train,
            reference=self._validation, peaks=self.state.peaks, fresh=self.step == 0, file=self.files.steps.with_name("contracts.json"),
        )  # fmt: skip

    def _refuse(self, broken: BrokenContract | None, *, taken_back: bool = False) -> None:
        if broken is None:
            return
        if taken_back:
            self.state.last_good.restore()
        raise Stopped(broken, self.monitor.report())

    def _train_step(self, batch: BatchView) -> StepRecord:
        taken = take_step(self.state, batch, self._position(), self._cancelled())
        if taken.cancelled:
            raise Cancelled
        cause = update(self.state, taken)
        if cause is not None:
            self._stop(taken, cause)
        return taken.record

    def _position(self) -> StepPosition:
        factor = learning_rate_factor(self.step, self.steps, self.job.training.warmup_fraction)
        return StepPosition(step=self.step, epoch=self.epoch, rows=self._rows_of(self.batch), rate_factor=factor)

    def _stop(self, taken: TakenStep, own: Diagnosis) -> NoReturn:
        _, cause = first_cause(self.group.gather_objects(own))
        health = self.monitor.report()
        cause = with_leading_finding(cause, health)
        parts = self.group.gather_objects(own_part(taken))
        bundle = None
        if self.group.is_first:
            given = self.job, self.plan, self.state, self._position(), parts, delays_of(self.train), self._rates
            bundle = dump_failed_step(self.files.failed_step, cause, step_content(*given), self.monitor.ring)
        self.group.barrier()
        raise Stopped(cause, health, bundle)

    def _finish_epoch(self, validation_file: JsonLines | None) -> None:
        self.model.follow_embeddings()
        if self._validation is None:
            self.best_epoch = self.epoch
            if self.epoch + 1 == self._epochs:
                self._save_model()
            self._branches.after(self.epoch)
        else:
            self._validate_epoch(self._validation, validation_file)
        self.epoch, self.batch = self.epoch + 1, 0
        self._save_checkpoint()

    def _validate_epoch(self, split: PackedSplit, validation_file: JsonLines | None) -> None:
        losses, entropies = validate(self.model, self.objectives, split, self.group, self._check)
        known = [value for value in entropies if value is not None]
        score = sum(known) / len(known) if known else math.inf
        score = math.inf if math.isnan(score) else score
        self.monitor.validated(self.step, dict(zip(self.dataset.layout.tasks, entropies, strict=True)))
        # Without a usable validation split the last epoch counts as the best.
        if score < self.best_validation or not known or self.best_epoch < 0:
            self.best_epoch, self.best_validation = self.epoch, score
            self._save_model()
        branches = validate_branches(self.model, self.objectives, split, self.group, self._check)
        of_branches = self._branches.validated(branches)
        if self.group.is_first:
            metrics: dict[str, Any] = {"epoch": self.epoch, "steps": self.step}
            metrics["ne"] = score if known else None
            for task, loss, entropy in zip(self.dataset.layout.tasks, losses, entropies, strict=True):
                metrics |= {f"log_loss_{task}": loss, f"ne_{task}": entropy}
            metrics |= of_branches
            metrics["best_epoch"] = self.best_epoch
            if validation_file is not None:
                validation_file.write(metrics)
            for callback in self._callbacks:
                callback.on_epoch(metrics)

    def _refuse_divergence(self) -> None:
        """A model that predicts far worse than a constant is not scored: its logits are beyond what an export can keep."""
        health = self.monitor.report()
        finding = health.finding(Divergence.name) if Divergence.name in self.monitor.detectors else None
        if finding is None or finding.severity != "error":
            return
        cause = Diagnosis(
            kind="divergence",
            tensor=finding.tensor or "",
            feature=None,
            row=None,
            step=self.step,
            message=finding.message,
        )
        raise Stopped(with_leading_finding(cause, health), health)

    def _score(self) -> None:
        self.group.barrier()
        best = load_ranker(self.files.model, self.dataset.layout, self.job.model).to(self.group.device)
        for name in self.files.scored:
            write_scores(self.files.scores, name, best, self.dataset.splits[name], self.group, self._check)
        if self.group.is_first and self.files.position is not None:
            write_position_effect(self.files.position, best, self.train)

    def _save_model(self) -> None:
        if self.group.is_first:
            self.model_sha256 = save_ranker(self.files.model, self.model, self.dataset.layout)

    def _check(self) -> None:
        if self._cancelled():
            raise Cancelled

    def _rows_of(self, batch: int) -> int:
        start, end = batch_bounds(len(self.train), self.plan.batch_size, batch)
        return end - start

    def _identity_of_job(self) -> dict[str, Any]:
        return {
            "seed": self.job.seed,
            "model": self.job.model.model_dump_json(),
            "training": self.job.training.model_dump_json(),
            "plan": asdict(self.plan) | {"stop_after": self._epochs},
            "task_weights": dict(sorted(self.job.task_weights.items())),
            **{f"objective of {task}": section.model_dump_json() for task, section in self.job.objectives.items()},
            "layout": layout_hash(self.dataset.layout),
            "rows": len(self.train),
            "processes": self.group.shard.world,
            "detectors": self.monitor.detectors,
        }

    def _weights(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.precision.state_dict(),
            "balance": self.state.balance.state_dict(),
        }

    def _write_measurements(self, *, all_of_them: bool) -> None:
        """Move what was measured in detail out of memory; the other processes measure the same."""
        if self.group.is_first:
            self._record.write(self.monitor.rows, all_of_them=all_of_them)
        else:
            self.monitor.rows.clear()

    def _save_checkpoint(self) -> None:
        started = self._clock()
        self._write_measurements(all_of_them=True)
        states = self.group.gather_objects(random_state(self.group.device))
        if self._steps_file is not None:
            self._steps_file.flush()
        if self.group.is_first:
            position = {"epoch": self.epoch, "batch": self.batch, "step": self.step}
            best = {"epoch": self.best_epoch, "validation": self.best_validation, "sha256": self.model_sha256}
            save_checkpoint(
                self.files.checkpoint,
                {
                    "job": self._identity_of_job(), "position": position, "best": best, "random": states,
                    "monitor": self.monitor.state_dict(), "parts": self._record.parts, **self._weights(),
                },
            )  # fmt: skip
        self.group.barrier()
        self._checkpoints.written(started)

    def _resume(self) -> None:
        state = load_checkpoint(self.files.checkpoint)
        expected = self._identity_of_job()
        found = state["job"]
        differing = [key for key in sorted({*expected, *found}) if found.get(key) != expected.get(key)]
        if differing:
            raise TrainingError(
                f"checkpoint.pt belongs to another job, which differs in {', '.join(differing)}: "
                "remove it or choose another output directory"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.precision.load_state_dict(state["scaler"])
        self.state.balance.load_state_dict(state["balance"])
        self.monitor.load_state_dict(state["monitor"])
        if self.group.is_first:
            self._record.start(state["parts"])
        self.epoch, self.batch, self.step = (state["position"][key] for key in ("epoch", "batch", "step"))
        best = state["best"]
        self.best_epoch, self.best_validation, self.model_sha256 = best["epoch"], best["validation"], best["sha256"]
        restore_random_state(state["random"][self.group.shard.rank], self.group.device)


def _needs_rates(job: TrainingJob) -> bool:
    """Whether the training depends on the base rates of its labels."""
    return bool(job.training.label_smoothing) or needs_rates(job.training.balance)
