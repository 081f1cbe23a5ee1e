"""The training loop. One step: forward, loss, backward, sum over processes, check, and only then update."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor

from ctr_pipeline.datasets import PackedDataset, PackedSplit
from ctr_pipeline.gradients import Diagnosis, LossView, StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.adapters.ranker_contracts import BrokenContract
from ctr_pipeline.gradients.core.monitor import GradientMonitor
from ctr_pipeline.gradients.core.norms import GradientNorms, clip_gradients, gradient_norms
from ctr_pipeline.gradients.triage.diagnose import diagnose
from ctr_pipeline.gradients.triage.failed_step import dump_failed_step
from ctr_pipeline.gradients.triage.replay import Replay
from ctr_pipeline.losses.label_smoothing import base_rates
from ctr_pipeline.losses.multi_task import TaskObjectives, multi_task_loss
from ctr_pipeline.ranker import build_ranker, layout_hash, load_ranker, save_ranker
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.callbacks import Callback, JsonLines, write_gradients
from ctr_pipeline.training.checkpoint import (
    generator_state,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from ctr_pipeline.training.dataloader import BatchLoader, batch_bounds, batches_per_epoch, delays_of, to_device
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingError, TrainingJob
from ctr_pipeline.training.lr_schedule import learning_rate_factor, set_learning_rate
from ctr_pipeline.training.optimizers import RowwiseAdagrad, dense_optimizer
from ctr_pipeline.training.plan import TrainingPlan
from ctr_pipeline.training.precision import Precision
from ctr_pipeline.training.preflight import Preflight
from ctr_pipeline.training.run_files import RunFiles
from ctr_pipeline.training.scoring import validate, write_position_effect, write_scores
from ctr_pipeline.training.stopping import Cancelled, Stopped, first_cause
from ctr_pipeline.training.training_result import TrainingResult


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
    ) -> None:
        self.job, self.dataset, self.plan, self.group = job, dataset, plan, group
        self._clock, self._cancelled, self._callbacks = clock, cancelled, callbacks
        self.files = files or RunFiles.of(job.output)
        self.train = train = dataset.splits[split]
        self._validation = dataset.splits["validation"] if split == "train" else None
        for key, named_tasks in (("task_weights", job.task_weights), ("objectives", job.objectives)):
            if unknown := set(named_tasks) - set(dataset.layout.tasks):
                raise TrainingError(f"{key} names {', '.join(sorted(unknown))}; tasks: {dataset.layout.tasks}")
        if len(train) == 0:
            raise TrainingError("the train split has no rows: give the run more days or shorten the other splits")
        settings = job.training
        self.steps_per_epoch = batches_per_epoch(len(train), plan.batch_size)
        self.steps = self.steps_per_epoch * plan.epochs
        self._epochs = stop_after or plan.epochs
        dropout = {"dropout": plan.dropout, "embedding_dropout": plan.embedding_dropout}
        self.model = build_ranker(dataset.layout, job.model.model_copy(update=dropout), job.seed)
        sections = [job.objectives.get(task, Binary()) for task in dataset.layout.tasks]
        rates = base_rates(train.labels, train.weights) if settings.label_smoothing else ()
        self._sections, self._base_rates = sections, rates
        self.objectives = TaskObjectives(sections, delays_of(train), settings.label_smoothing, rates)
        self.model.start_from_rates(self.objectives.starting_rates(train.labels))
        self.model.to(group.device)
        named = list(self.model.named_parameters())
        tables = {f"{name}.weight" for name, m in self.model.named_modules() if getattr(m, "sparse", False)}
        self.named = named
        self.dense = [(name, parameter) for name, parameter in named if name not in tables]
        self.precision = Precision(settings.precision, group.device)
        self.optimizers: list[torch.optim.Optimizer] = [
            dense_optimizer(self.dense, plan.learning_rate, settings.weight_decay)
        ]
        self._peaks = [plan.learning_rate]
        if tables:
            embeddings = [parameter for name, parameter in named if name in tables]
            self.optimizers.append(RowwiseAdagrad(embeddings, plan.embedding_learning_rate, settings.embedding_l2))
            self._peaks.append(plan.embedding_learning_rate)
        self.monitor = GradientMonitor(self.model, settings.log_every)
        weights = [job.task_weights.get(task, 1.0) for task in dataset.layout.tasks]
        self.loss_weights = torch.tensor(weights, dtype=torch.float32, device=group.device)
        self._preflight: Preflight | None = None
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
            Stopped: A loss, gradient or input is not finite; the parameters are those before the step.
            Cancelled: ``cancelled`` said so.
            TrainingError: The checkpoint does not belong to this job.
        """
        self.files.steps.parent.mkdir(parents=True, exist_ok=True)
        if resume and self.files.checkpoint.is_file():
            self._resume()
        elif self.group.is_first:
            self.files.remove_earlier_run()
        self.group.barrier()
        rows, seconds = 0, 0.0
        steps_file = validation_file = None
        if self.group.is_first:
            steps_file = JsonLines(self.files.steps, self.step)
            if self._validation is not None:
                validation_file = JsonLines(self.files.validation, self.epoch)
        try:
            while self.epoch < self._epochs and self.epoch - self.best_epoch <= self.job.training.patience:
                started = self._clock()
                rows += self._train_epoch(steps_file)
                seconds += self._clock() - started
                self._finish_epoch(validation_file)
        finally:
            for file in (steps_file, validation_file):
                if file is not None:
                    file.close()
            if self.group.is_first:
                write_gradients(self.files.gradients, self.monitor.rows)
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

    def _train_epoch(self, steps_file: JsonLines | None) -> int:
        self.model.train()
        rows = 0
        if self._preflight is None:
            self._preflight = self._new_preflight()
        reader = BatchLoader(self.train, self.plan.batch_size, self.group.shard, self.job.seed, self.epoch, self.batch)
        with reader as batches:
            for batch in batches:
                self._refuse(self._preflight.before(batch, self.step))
                record = self._train_step(batch)
                self._refuse(self._preflight.after(record))
                rows += record.rows
                if self.group.is_first:
                    if steps_file is not None:
                        steps_file.write(record.to_dict())
                    for callback in self._callbacks:
                        callback.on_step(record, self.steps)
                self.step += 1
                self.batch += 1
                if self.step % self.job.checkpoint_every == 0 and self.batch < self.steps_per_epoch:
                    self._save_checkpoint()
        return rows

    def _new_preflight(self) -> Preflight:
        return Preflight(
            model=self.model, layout=self.dataset.layout, optimizers=self.optimizers, objectives=self.objectives,
            sections=self._sections, loss_weights=self.loss_weights, smoothing=self.job.training.label_smoothing,
            base_rates=self._base_rates, forward=self._forward, precision=self.precision, group=self.group,
            rows=self.train, fresh=self.step == 0, file=self.files.steps.with_name("contracts.json"),
        )  # fmt: skip

    def _refuse(self, broken: BrokenContract | None) -> None:
        if broken is not None:
            raise Stopped(broken, self.monitor.report())

    def _train_step(self, batch: BatchView) -> StepRecord:
        step = self.step
        before = generator_state(self.group.device)
        factor = learning_rate_factor(step, self.steps, self.job.training.warmup_fraction)
        for optimizer, peak in zip(self.optimizers, self._peaks, strict=True):
            set_learning_rate(optimizer, peak * factor)
            optimizer.zero_grad(set_to_none=True)
        fault = input_fault(batch, self.dataset.layout, step)
        # A faulty batch must not reach the tables; this process then takes part with no rows.
        seen = to_device(batch if fault is None else batch.without_rows(), self.group.device)
        counts = self.group.sum(self.objectives.known_counts(seen.labels, seen.delays))
        self.monitor.begin(step)
        with self.monitor.forward():
            logits = self._forward(seen)
        if self.monitor.is_probe(step):
            logits.retain_grad()
        sums = self.objectives.task_sums(logits, seen.labels, seen.weights, seen.delays)
        loss, means = multi_task_loss(sums, counts, self.loss_weights)
        torch.autograd.backward(self.precision.scale(loss))
        loss_view = self._loss_view(logits, seen, counts)
        flags = torch.tensor([float(self._cancelled()), float(fault is not None)], device=loss.device)
        extra = torch.cat([means.detach(), loss.detach().reshape(1), flags])
        extra = self.group.sum_gradients([parameter for _, parameter in self.named], extra)
        self.precision.unscale(self.optimizers)
        norms = gradient_norms(self.named)
        # The step's only wait for the device: every number that the host needs, in one tensor.
        host = torch.cat([extra, norms.total.reshape(1), norms.each]).tolist()
        tasks = len(self.dataset.layout.tasks)
        losses, (total_loss, stop, faults, norm), each = host[:tasks], host[tasks : tasks + 4], host[tasks + 4 :]
        if stop:
            raise Cancelled
        bad = faults > 0 or not math.isfinite(total_loss)
        skipped = not bad and not math.isfinite(norm) and self.precision.may_skip()
        bad = bad or (not math.isfinite(norm) and not skipped)
        clipped = not bad and not skipped and clip_gradients(norms, norm, self.job.training.clip_norm)
        record = StepRecord(
            step=step,
            epoch=self.epoch,
            loss=total_loss,
            task_losses=dict(zip(self.dataset.layout.tasks, losses, strict=True)),
            grad_norm=norm,
            norm_ratio=self.monitor.norm_ratio(norm) if math.isfinite(norm) else None,
            clipped=clipped,
            skipped=skipped,
            learning_rate=self._peaks[0] * factor,
            rows=self._rows_of(self.batch),
            layer_norms=self.monitor.layer_norms(norms.names, each),
        )
        if bad:
            self._stop(record, batch, seen, fault, norms, before)
        self.monitor.before_update(self.dense)
        self.precision.step(self.optimizers, skipped)
        self.monitor.after_update(record, norms.names, each, loss_view)
        return record

    def _forward(self, batch: BatchView) -> Tensor:
        """[B, T] logits: tower and interactions at the run's precision, what is before and after them in fp32."""
        inputs = self.model.encode(batch.numeric, batch.ids, batch.position)
        with self.precision.autocast():
            hidden = self.model.hidden(inputs)
        return self.model.score(hidden.float(), inputs)

    def _loss_view(self, logits: Tensor, batch: BatchView, counts: Tensor) -> LossView | None:
        """The loss for the detectors, on steps that are measured in detail."""
        if not self.monitor.is_probe(self.step) or logits.grad is None or not logits.shape[0]:
            return None
        return LossView(
            logits=logits.detach(),
            labels=batch.labels,
            weights=batch.weights,
            gradient=logits.grad / self.precision.factor,
            counts=counts,
            loss_weights=self.loss_weights,
            formula=self.objectives,
        )

    def _stop(
        self,
        record: StepRecord,
        batch: BatchView,
        seen: BatchView,
        fault: Diagnosis | None,
        norms: GradientNorms,
        before: dict[str, Any],
    ) -> NoReturn:
        self.monitor.stop(record)
        losses = list(record.task_losses.values())
        replay = Replay(lambda: self._forward(seen), before, self.group.device)
        own = fault or diagnose(self.model, seen, self.dataset.layout, self.step, losses, norms, replay)
        rank, cause = first_cause(self.group.gather_objects(own))
        if rank == self.group.shard.rank:
            dump_failed_step(self.files.failed_step, cause, batch, before, self._weights(), self.monitor.ring)
        self.group.barrier()
        raise Stopped(cause, self.monitor.report())

    def _finish_epoch(self, validation_file: JsonLines | None) -> None:
        if self._validation is None:
            self.best_epoch = self.epoch
            if self.epoch + 1 == self._epochs:
                self._save_model()
        else:
            self._validate_epoch(self._validation, validation_file)
        self.epoch, self.batch = self.epoch + 1, 0
        self._save_checkpoint()

    def _validate_epoch(self, split: PackedSplit, validation_file: JsonLines | None) -> None:
        losses, entropies = validate(self.model, self.objectives, split, self.group, self._check)
        known = [value for value in entropies if value is not None]
        score = sum(known) / len(known) if known else math.inf
        # Without a usable validation split the last epoch counts as the best.
        if score < self.best_validation or not known or self.best_epoch < 0:
            self.best_epoch, self.best_validation = self.epoch, score
            self._save_model()
        if self.group.is_first:
            metrics: dict[str, Any] = {"epoch": self.epoch, "steps": self.step}
            metrics["ne"] = score if known else None
            for task, loss, entropy in zip(self.dataset.layout.tasks, losses, entropies, strict=True):
                metrics |= {f"log_loss_{task}": loss, f"ne_{task}": entropy}
            metrics["best_epoch"] = self.best_epoch
            if validation_file is not None:
                validation_file.write(metrics)
            for callback in self._callbacks:
                callback.on_epoch(metrics)

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
        }

    def _save_checkpoint(self) -> None:
        states = self.group.gather_objects(random_state(self.group.device))
        if self.group.is_first:
            position = {"epoch": self.epoch, "batch": self.batch, "step": self.step}
            best = {"epoch": self.best_epoch, "validation": self.best_validation, "sha256": self.model_sha256}
            save_checkpoint(
                self.files.checkpoint,
                {
                    "job": self._identity_of_job(), "position": position, "best": best, "random": states,
                    "monitor": self.monitor.state_dict(), **self._weights(),
                },
            )  # fmt: skip
        self.group.barrier()

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
        self.monitor.load_state_dict(state["monitor"])
        self.epoch, self.batch, self.step = (state["position"][key] for key in ("epoch", "batch", "step"))
        best = state["best"]
        self.best_epoch, self.best_validation, self.model_sha256 = best["epoch"], best["validation"], best["sha256"]
        restore_random_state(state["random"][self.group.shard.rank], self.group.device)
