"""Runs a fault in a real training on made-up rows."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ctr_pipeline.datasets import SPLITS, PackedDataset, write_split
from ctr_pipeline.gradients import Diagnosis, HealthReport, StepRecord
from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.callbacks import Callback
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.drilling.made_up_rows import LAYOUT, LIST, make_rows, with_list
from ctr_pipeline.training.drilling.metrics_log import MetricsLog
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.plan import known_outcomes, plan_training
from ctr_pipeline.training.stopping import Stopped

ROWS, OTHER_ROWS = 12_000, 4_000
SETTINGS: dict[str, Any] = {
    "epochs": 3, "batch_size": 200, "threads": 1, "log_every": 4, "detail_every": 4, "learning_rate": 0.003, "embedding_learning_rate": 0.05,
    "refit": False,
}  # fmt: skip

MODEL: dict[str, Any] = {"embedding_dim": 4, "hidden": [32, 16], "dropout": 0.1, "embedding_dropout": 0.1}


class Unchecked:
    """Stands for the contracts where a drill runs without them."""

    active = False

    def before(self, batch: Any, step: int) -> None:
        """Nothing is looked at."""

    def after(self, record: StepRecord) -> None:
        """Nothing is looked at."""


class Observer(Callback, Protocol):
    """Follows a drill's training from outside."""

    def watch(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Called once, with the training as the fault left it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """How a training with a fault went.

    Attributes:
        fault: Name of the fault; empty for a healthy training.
        seed: Seed of rows, weights and fault.
        cause: Why it was stopped; None where it went to its end.
        crash: The error that ended it, as a line of text; empty where none did.
        health: What detectors found.
        warnings: Contracts that warned.
        steps: Steps taken.
        validation: Normalised entropy of the best epoch; None where there is none.
        metrics: A line for each step: loss, mean gradient, mean and variance of the first and the last layer's outputs.
    """

    fault: str
    seed: int
    cause: Diagnosis | None
    crash: str
    health: HealthReport
    warnings: tuple[str, ...]
    steps: int
    validation: float | None
    metrics: tuple[str, ...]

    @property
    def findings(self) -> tuple[tuple[str, str], ...]:
        """Detectors that did not say ``ok``, the one that explains most first: name and severity."""
        return tuple((found.name, found.finding.severity) for found in self.health.strongest)

    @property
    def found_by(self) -> str:
        """What noticed the fault: a contract, the guard, a detector, the validation; empty where nothing did."""
        if self.cause is not None:
            if self.cause.kind == "health":
                return self.cause.leading or self.cause.kind
            return getattr(self.cause, "contract", self.cause.kind)
        if self.crash:
            return "exception"
        if errors := [name for name, severity in self.findings if severity == "error"]:
            return errors[0]
        if self.validation is not None and self.validation >= 1:
            return "validation"
        warned = [*self.warnings, *(name for name, _ in self.findings)]
        return f"{warned[0]} (warning)" if warned else ""

    @property
    def found_at(self) -> int | None:
        """Steps before what noticed it: those of a stop, 0 for a contract's warning, all for what is judged at the end."""
        if self.cause is not None:
            return self.cause.step
        if not self.found_by:
            return None
        return 0 if self.warnings and self.found_by.startswith(self.warnings[0]) else self.steps

    @property
    def stopped(self) -> bool:
        """Whether the fault ends with something red: a stop, an error of a detector, a validation no better than a constant."""
        return bool(self.found_by) and not self.found_by.endswith("(warning)")


class DrilledTrainer(Trainer):
    """A trainer whose batches a fault changes on their way.

    Attributes:
        fault: The fault; None for a healthy training.
        rng: What the fault draws from while the training runs.
    """

    fault: Fault | None = None
    rng: np.random.Generator

    def _read(self, batches: Iterator[BatchView]) -> Iterator[BatchView]:
        if self.fault is None or self.fault.batches is None:
            return batches
        # The reader looked at the batch before it was changed.
        changed = self.fault.batches(batches, self.step, self.rng)
        return (replace(batch, faulty=None) for batch in changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDrill:
    """A training with a fault whose rows are written; it can be built and run again and again.

    Attributes:
        fault: The fault; None for a healthy training.
        seed: Seed of rows, weights and fault.
        job: Its job.
        dataset: Its rows.
    """

    fault: Fault | None
    seed: int
    job: TrainingJob
    dataset: PackedDataset

    def build(self, output: Path, observers: Sequence[Observer] = ()) -> Trainer:
        """The training with its fault, as before its first step, writing into ``output``: each time the same."""
        train = self.dataset.splits["train"]
        plan = plan_training(self.job.training, self.job.model, len(train), known_outcomes(train.labels))
        group = ProcessGroup(Shard(), torch.device("cpu"))
        job = self.job.model_copy(update={"output": output})
        trainer = DrilledTrainer(job, self.dataset, plan, group, lambda: 0.0, lambda: False, tuple(observers))
        trainer.fault, trainer.rng = self.fault, np.random.default_rng([self.seed, 19])
        if self.fault is not None:
            self.fault.inject(trainer, np.random.default_rng([self.seed, 18]))
        for observer in observers:
            observer.watch(trainer.model, trainer.optimizers)
        return trainer

    def run(self, *, contracts: bool = True, observers: Sequence[Observer] = ()) -> Drill:
        """Trains; the same each time.

        Args:
            contracts: Whether contracts are checked and detectors may stop the run.
            observers: Follow the training.
        """
        torch.set_num_threads(1)
        log = MetricsLog()
        trainer = self.build(self.job.output, (log, *observers))
        if not contracts:
            setattr(trainer, "_preflight", Unchecked())  # noqa: B010 - it stands for the contracts, and is none
            # Detectors report as ever, and none stops the run.
            setattr(trainer.monitor, "broken", lambda: None)  # noqa: B010
        cause, validation, crash = None, None, ""
        try:
            done = trainer.run(resume=False)
            health, validation = done.health, done.best_validation
        except Stopped as stopped:
            cause, health = stopped.cause, stopped.health
        except Exception as error:
            # What a fault makes a training raise is a result of the drill.
            crash, health = f"{type(error).__name__}: {error}", trainer.monitor.report()
        outcomes = self.job.output / "contracts.json"
        known = json.loads(outcomes.read_text(encoding="utf-8")) if contracts and outcomes.is_file() else []
        warned = [outcome["name"] for outcome in known if outcome["verdict"] == "failed" and not outcome["hard"]]
        return Drill(
            fault="" if self.fault is None else self.fault.name, seed=self.seed, cause=cause, crash=crash, health=health,
            warnings=tuple(warned), steps=trainer.step, validation=validation, metrics=tuple(log.lines),
        )  # fmt: skip


def prepare_drill(fault: Fault | None, seed: int, directory: Path) -> PreparedDrill:
    """Writes the rows of a drill into ``directory``.

    Args:
        fault: The fault; None for a healthy training.
        seed: Seed of rows, weights and fault.
        directory: Receives the dataset, and the runs.
    """
    rng = np.random.default_rng([seed, 17])
    layout = LAYOUT
    rows = {name: make_rows(ROWS if name == "train" else OTHER_ROWS, seed * 10 + n) for n, name in enumerate(SPLITS)}
    if fault is not None:
        if fault.with_list:
            rows = {name: with_list(split, seed * 10 + n) for n, (name, split) in enumerate(rows.items())}
            layout = replace(layout, ids=(*layout.ids, LIST))
        rows["train"] = fault.rows(rows["train"], rng)
        rows |= {name: fault.other_rows(rows[name], rng) for name in SPLITS if name != "train"}
        rows = dict(fault.splits(rows, rng))
    packed = directory / "packed"
    packed.mkdir(parents=True)
    (packed / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    for name, split in rows.items():
        write_split(packed, name, split)
    model, training, weights = ({}, {}, {}) if fault is None else (fault.model, fault.training, fault.task_weights)
    job = TrainingJob(
        dataset=packed, output=directory / "run", seed=seed, device="cpu", checkpoint_every=50,
        model=Model(**(MODEL | dict(model))), training=Training(**(SETTINGS | dict(training))), task_weights=dict(weights),
    )  # fmt: skip
    return PreparedDrill(fault=fault, seed=seed, job=job, dataset=PackedDataset.open(packed))


def run_drill(fault: Fault | None, seed: int, directory: Path, *, contracts: bool = True) -> Drill:
    """Trains on made-up rows with ``fault``, in ``directory``; the same arguments give the same numbers.

    Args:
        fault: The fault; None for a healthy training.
        seed: Seed of rows, weights and fault.
        directory: Receives the dataset and the run.
        contracts: Whether contracts are checked and detectors may stop the run.
    """
    return prepare_drill(fault, seed, directory).run(contracts=contracts)
