"""Runs a fault in a real training on made-up rows, and keeps what a person needs to find it."""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctr_pipeline.datasets import SPLITS, PackedDataset, PackedSplit, write_split
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.gradients import Diagnosis, StepRecord
from ctr_pipeline.gradients.drills.fault import Fault
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.plan import known_outcomes, plan_training
from ctr_pipeline.training.stopping import Stopped

ROWS, OTHER_ROWS = 12_000, 4_000
IDS = (60, 200, 6)
SETTINGS: dict[str, Any] = {
    "epochs": 3, "batch_size": 200, "threads": 1, "log_every": 4, "learning_rate": 0.003, "embedding_learning_rate": 0.05,
    "refit": False,
}  # fmt: skip

MODEL: dict[str, Any] = {"embedding_dim": 4, "hidden": [32, 16], "dropout": 0.1, "embedding_dropout": 0.1}

_LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "signed_log1p", 2.7, False, 1.3, 0.65),
        NumericColumn("rating", "dense", "none", 0.0, False, 0.0, 1.0),
    ),
    ids=tuple(
        IdColumn(name, "categorical", rows, 4) for name, rows in zip(("ad", "query", "device"), IDS, strict=True)
    ),
    tasks=("click", "cart"),
    parents=(-1, 0),
)


class Unchecked:
    """Stands for the contracts where a drill runs without them."""

    active = False

    def before(self, batch: Any, step: int) -> None:
        """Nothing is looked at."""

    def after(self, record: StepRecord) -> None:
        """Nothing is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """How a training with a fault went.

    Attributes:
        fault: Name of the fault; empty for a healthy training.
        seed: Seed of rows, weights and fault.
        cause: Why it was stopped; None where it went to its end.
        findings: Detectors that did not say ``ok``: name and severity.
        warnings: Contracts that warned.
        steps: Steps taken.
        validation: Normalised entropy of the best epoch; None where there is none.
        metrics: A line for each step: loss, mean gradient, mean and variance of the first and the last layer's outputs.
    """

    fault: str
    seed: int
    cause: Diagnosis | None
    findings: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    steps: int
    validation: float | None
    metrics: tuple[str, ...]

    @property
    def found_by(self) -> str:
        """What noticed the fault: a contract, the guard, a detector, the validation; empty where nothing did."""
        if self.cause is not None:
            return getattr(self.cause, "contract", self.cause.kind)
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


def run_drill(fault: Fault | None, seed: int, directory: Path, *, contracts: bool = True) -> Drill:
    """Trains on made-up rows with ``fault``, in ``directory``; the same arguments give the same numbers.

    Args:
        fault: The fault; None for a healthy training.
        seed: Seed of rows, weights and fault.
        directory: Receives the dataset and the run.
        contracts: Whether contracts are checked and detectors may stop the run.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, 17])
    rows = {name: make_rows(ROWS if name == "train" else OTHER_ROWS, seed * 10 + n) for n, name in enumerate(SPLITS)}
    if fault is not None:
        rows["train"] = fault.rows(rows["train"], rng)
    packed = directory / "packed"
    packed.mkdir(parents=True)
    (packed / "layout.json").write_text(_LAYOUT.to_json(), encoding="utf-8")
    for name, split in rows.items():
        write_split(packed, name, split)
    job = TrainingJob(
        dataset=packed, output=directory / "run", seed=seed, device="cpu", checkpoint_every=50,
        model=Model(**(MODEL | dict(fault.model if fault is not None else {}))),
        training=Training(**(SETTINGS | dict(fault.training if fault is not None else {}))),
    )  # fmt: skip
    dataset = PackedDataset.open(packed)
    train = dataset.splits["train"]
    plan = plan_training(job.training, job.model, len(train), known_outcomes(train.labels))
    log = _MetricsLog()
    group = ProcessGroup(Shard(), torch.device("cpu"))
    trainer = Trainer(job, dataset, plan, group, lambda: 0.0, lambda: False, (log,))
    if fault is not None:
        fault.inject(trainer, rng)
    log.watch(trainer.model, trainer.optimizers)
    if not contracts:
        setattr(trainer, "_preflight", Unchecked())  # noqa: B010 - it stands for the contracts, and is none
        # Detectors report as ever, and none stops the run.
        setattr(trainer.monitor, "broken", lambda: None)  # noqa: B010
    try:
        done = trainer.run(resume=False)
        cause, health, validation = None, done.health, done.best_validation
    except Stopped as stopped:
        cause, health, validation = stopped.cause, stopped.health, None
    outcomes = job.output / "contracts.json"
    known = json.loads(outcomes.read_text(encoding="utf-8")) if contracts and outcomes.is_file() else []
    warned = [outcome["name"] for outcome in known if outcome["verdict"] == "failed" and not outcome["hard"]]
    found = sorted(
        ((f.name, f.finding.severity) for f in health.findings if f.finding.severity != "ok"),
        key=lambda item: (item[1] != "error", item[0]),
    )
    return Drill(
        fault="" if fault is None else fault.name, seed=seed, cause=cause, findings=tuple(found),
        warnings=tuple(warned), steps=trainer.step,
        validation=validation, metrics=tuple(log.lines),
    )  # fmt: skip


def make_rows(count: int, seed: int) -> PackedSplit:
    """Rows with a signal in an id, a number and their order of frequency; clicks, and carts after some of them."""
    rng = np.random.default_rng(seed)
    numeric = np.stack([rng.lognormal(1.0, 1.0, count), rng.normal(size=count)], axis=1).astype(np.float32)
    # As in a vocabulary, the rows from 2 on are in order of falling frequency.
    columns = [2 + np.minimum(rng.exponential(height / 5, count), height - 3).astype(np.int32) for height in IDS]
    ids = np.stack(columns, axis=1)
    taste = np.random.default_rng(99).normal(size=max(IDS))
    click = rng.random(count) < 1 / (1 + np.exp(1.5 - taste[ids[:, 0]] - 0.8 * numeric[:, 1]))
    cart = click & (rng.random(count) < 0.4)
    labels = np.stack([click, cart], axis=1).astype(np.int8)
    labels[rng.random(count) < 0.1, 1] = -1
    return PackedSplit(
        numeric=numeric,
        ids=ids,
        labels=labels,
        weights=np.ones((count, 2), dtype=np.float32),
        ts=np.arange(count, dtype=np.int64),
        user=np.full(count, -1, dtype=np.int64),
        position=np.zeros(count, dtype=np.int16),
        random=np.zeros(count, dtype=np.bool_),
    )


class _MetricsLog:
    """Lines for each step from hooks of the model and of the first optimizer."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._now: dict[str, float] = {}

    def watch(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Observes the first and the last layer, and gradients before each update."""
        linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
        for place, layer in (("first", linears[0]), ("last", linears[-1])):
            layer.register_forward_hook(self._noted(place))
        optimizers[0].register_step_pre_hook(lambda *_: self._gradients(model))

    def on_step(self, record: StepRecord, steps: int) -> None:  # noqa: ARG002
        """Adds the step's line."""
        values = {"loss": record.loss, "gradient_norm": record.grad_norm} | self._now
        text = " ".join(f"{name}={value:.9g}" for name, value in sorted(values.items()))
        self.lines.append(f"step={record.step} {text}")
        self._now = {}

    def on_epoch(self, metrics: Any) -> None:
        """Adds the epoch's line."""
        ne = metrics.get("ne")
        self.lines.append(f"epoch={metrics['epoch']} validation_ne={'none' if ne is None else format(ne, '.9g')}")

    def on_refit(self, epochs: int) -> None:
        """Drills fit once."""

    def _noted(self, place: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if torch.is_grad_enabled() and output.numel():
                values = output.detach().double()
                self._now[f"{place}_mean"], self._now[f"{place}_variance"] = (
                    float(values.mean()),
                    float(values.var(unbiased=False)),
                )

        return hook

    def _gradients(self, model: nn.Module) -> None:
        dense = [p.grad.flatten() for p in model.parameters() if p.grad is not None and not p.grad.is_sparse]
        self._now["gradient_mean"] = float(torch.cat(dense).double().mean())


def write_tarball(fault: Fault, seed: int, file: Path, *, contracts: bool) -> Drill:
    """Runs the drill and writes its tarball; the same fault, seed and versions give the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        drill = run_drill(fault, seed, Path(folder), contracts=contracts)
        run = Path(folder) / "run"
        content = {
            "metrics.log": ("\n".join(drill.metrics) + "\n").encode(),
            "report.md": drill_report(fault, drill).encode(),
            "meta.json": (json.dumps(_meta(fault, drill, contracts), indent=1, sort_keys=True) + "\n").encode(),
        }
        for name in ("checkpoint.pt", "contracts.json", "steps.jsonl"):
            if (run / name).is_file():
                content[name] = (run / name).read_bytes()
    digests = "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in sorted(content))
    content["SHA256SUMS"] = digests.encode()
    packed = io.BytesIO()
    # Without times, owners and a name in the header of gzip, which would differ from run to run.
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(content):
            info = tarfile.TarInfo(f"{fault.name}-{seed}/{name}")
            info.size = len(content[name])
            tar.addfile(info, io.BytesIO(content[name]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed.getvalue())
    return drill


def drill_report(fault: Fault, drill: Drill) -> str:
    """At most 500 words: symptom, cause, fix, verification."""
    if drill.cause is not None:
        end = f"It was stopped at step {drill.cause.step}: {drill.cause.message}"
    else:
        value = "none" if drill.validation is None else f"{drill.validation:.4f}"
        found = ", ".join(f"{name} ({severity})" for name, severity in drill.findings) or "none"
        end = f"It took {drill.steps} steps. Normalised entropy of the validation: {value}. Findings: {found}."
    return (
        f"# {fault.name}, seed {drill.seed}\n\n## Symptom\n\n{fault.symptom}. {end}\n\n## Cause\n\n{fault.cause}.\n\n"
        f"## Fix\n\n{fault.fix}.\n\n## Verification\n\n`ctr drill --fault {fault.name} --seed {drill.seed}` repeats this run "
        "to the byte; the same rows and seed without the fault train to the end with every contract kept.\n"
    )


def _meta(fault: Fault, drill: Drill, contracts: bool) -> dict[str, Any]:
    return {
        "fault": fault.name,
        "family": fault.family,
        "seed": drill.seed,
        "contracts": contracts,
        "steps": drill.steps,
        "found_by": drill.found_by,
        "cause": None if drill.cause is None else drill.cause.to_dict() | {"message": drill.cause.message},
        "torch": torch.__version__,
    }
