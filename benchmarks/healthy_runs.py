"""False alarms: healthy trainings of many kinds, through every contract and detector.

40 trainings as the trainer runs them, each with its triage at the end, on made-up rows with a signal or on the packed rows of a
log, over

- seeds (of rows, weights, order and dropout: another one for each),
- batch sizes from 64 to 8,192,
- learning rates from a third to three times those that the trainer would choose,
- precisions fp32, bf16 and fp16,
- widths and depths, normalisation, interactions, dropouts, wide part, position models.

Each setting occurs as often as its list allows, and the lists are shuffled against each other (``--draw``). Details are
measured every 10 steps, ten times as often as by default. A hard alarm is a training that was refused or stopped, or a finding
with an error; a soft one is a warning of a detector or a contract. Shares are of steps, with the exact two-sided 95 % interval
(Clopper and Pearson).

Rows of a log are those of a training of ``ctr run``, with its tasks, their weights and their objectives; each of the trainings
here learns from another part of them, four fifths at most. Whatever a real log has of missing values, rare tasks, history that
has yet to begin and drift is in them.

Run from the checkout::

    python benchmarks/healthy_runs.py [--runs 40] [--steps 950] [--draw 1] [--json FILE] [--only N ...] [--assert]
    ctr run --spec SPEC --data-root ROOT/NAME; python benchmarks/healthy_runs.py --job ROOT/NAME/training/DAY/job.json

``--assert`` exits with 1 where a training is refused, or the upper bound of hard alarms is above 1 in 10,000 steps.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine

from ctr_pipeline.datasets import SPLITS, PackedDataset, PackedSplit, write_split
from ctr_pipeline.gradients.triage.verdict import triage_finding
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.drilling.made_up_rows import LAYOUT, make_rows
from ctr_pipeline.training.drilling.score_summary import clopper_pearson
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.own_triage import own_triage
from ctr_pipeline.training.plan import known_outcomes, plan_training
from ctr_pipeline.training.stopping import Stopped

MOST = 1e-4
BATCHES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
FACTORS = (1 / 3, 1 / 3**0.5, 1.0, 3**0.5, 3.0)
PRECISIONS = ("fp32", "fp32", "bf16", "fp16")
POSITIONS = (None, None, {"kind": "none"}, {"kind": "additive"}, {"kind": "examination"})
ARCHITECTURES: tuple[dict[str, Any], ...] = (
    {"embedding_dim": 4, "hidden": [32, 16]},
    {"embedding_dim": 8, "hidden": [64, 32], "dropout": 0.2, "embedding_dropout": 0.3},
    {"embedding_dim": 4, "hidden": [128], "normalisation": "none"},
    {"embedding_dim": 4, "hidden": [], "dropout": 0.0},
    {"embedding_dim": 4, "hidden": [64, 64, 64], "residual": True, "dropout": 0.1},
    {"embedding_dim": 4, "hidden": [16], "interactions": [{"kind": "factorisation_machine"}]},
    {"embedding_dim": 16, "hidden": [32], "heads": "independent", "embedding_dropout": 0.0},
    {"embedding_dim": 4, "hidden": [32, 16], "wide": False, "dropout": 0.5},
)
SMALLEST_ROWS, OTHER_ROWS, BATCHES_OF_ROWS = 12_000, 4_000, 4
SHARE = 0.8
"""Share of a log's training rows that a training here learns from, at most: each has others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Settings of a healthy training."""

    number: int
    batch: int
    factor: float
    precision: str
    model: dict[str, Any]
    positions: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it went: the steps taken, hard and soft alarms by name, and seconds."""

    variant: Variant
    steps: int
    validation: float | None
    hard: tuple[str, ...]
    soft: tuple[str, ...]
    refused: str
    seconds: float


def variants(runs: int, draw: int) -> list[Variant]:
    """``runs`` variants, in which each list of settings is gone through evenly."""
    rng = np.random.default_rng(draw)

    def spread(count: int) -> list[int]:
        return [int(place) for place in rng.permutation(np.arange(runs) % count)]

    batches, factors, precisions = spread(len(BATCHES)), spread(len(FACTORS)), spread(len(PRECISIONS))
    shapes, positions = spread(len(ARCHITECTURES)), spread(len(POSITIONS))
    found = []
    for number in range(runs):
        position = POSITIONS[positions[number]]
        model = ARCHITECTURES[shapes[number]] | ({} if position is None else {"position": position})
        found.append(
            Variant(
                number=number,
                batch=BATCHES[batches[number]],
                factor=FACTORS[factors[number]],
                precision=PRECISIONS[precisions[number]],
                model=model,
                positions=position is not None,
            )
        )
    return found


def with_positions(rows: PackedSplit, seed: int) -> PackedSplit:
    """``rows`` shown at positions 1 to 10, of which the lower ones are clicked less."""
    rng = np.random.default_rng([seed, 3])
    position = rng.integers(1, 11, len(rows)).astype(np.int16)
    seen = rng.random(len(rows)) < 1 / position**0.5
    labels = np.where((rows.labels == 1) & ~seen[:, None], 0, rows.labels).astype(np.int8)
    return replace(rows, position=position, labels=labels)


def write_made_up(variant: Variant, folder: Path) -> PackedDataset:
    """Rows of :func:`make_rows`, of the variant's own seed."""
    count = max(SMALLEST_ROWS, BATCHES_OF_ROWS * variant.batch)
    layout = replace(LAYOUT, positions=(0.0, *[0.1] * 10)) if variant.positions else LAYOUT
    folder.mkdir(parents=True)
    (folder / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    for part, name in enumerate(SPLITS):
        seed = 1000 * (variant.number + 1) + part
        rows = make_rows(count if name == "train" else OTHER_ROWS, seed)
        write_split(folder, name, with_positions(rows, seed) if variant.positions else rows)
    return PackedDataset.open(folder)


def write_part(variant: Variant, steps: int, source: Path, folder: Path) -> PackedDataset:
    """The rows of the packed dataset ``source``, with a part of its training rows that the variant's number decides."""
    whole = PackedDataset.open(source)
    # Rows of a vocabulary are the same whatever the width; a factorisation machine needs one width.
    width = variant.model["embedding_dim"]
    layout = replace(whole.layout, ids=tuple(replace(column, dim=width) for column in whole.layout.ids))
    folder.mkdir(parents=True)
    (folder / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    for name in SPLITS:
        rows = whole.splits[name]
        if name == "train":
            count = min(round(SHARE * len(rows)), steps * variant.batch)
            drawn = np.random.default_rng([variant.number, 5]).choice(len(rows), count, replace=False)
            drawn.sort()
            rows = replace(rows, **{key: array[drawn] for key, array in rows.arrays().items()})
        write_split(folder, name, rows)
    return PackedDataset.open(folder)


def run(variant: Variant, steps: int, folder: Path, of: TrainingJob | None = None) -> Outcome:
    """One training; on rows of the job ``of``, or on made-up ones."""
    packed = folder / "packed"
    dataset = write_made_up(variant, packed) if of is None else write_part(variant, steps, of.dataset, packed)
    train, model = dataset.splits["train"], Model(**variant.model)
    epochs = max(1, round(steps / -(-len(train) // variant.batch)))
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": variant.batch, "threads": 1, "detail_every": 10, "patience": 10**6,
        "precision": variant.precision, "refit": False,
    }  # fmt: skip
    chosen = plan_training(Training(**settings), model, len(train), known_outcomes(train.labels))
    training = Training(
        **settings, learning_rate=chosen.learning_rate * variant.factor,
        embedding_learning_rate=chosen.embedding_learning_rate * variant.factor,
    )  # fmt: skip
    job = TrainingJob(
        dataset=packed, output=folder / "run", seed=variant.number, device="cpu", model=model, training=training,
        checkpoint_every=10**6, task_weights={} if of is None else of.task_weights,
        objectives={} if of is None else of.objectives,
    )  # fmt: skip
    plan = plan_training(training, model, len(train), known_outcomes(train.labels))
    group = ProcessGroup(Shard(), torch.device("cpu"))
    started = time.process_time()
    trainer = Trainer(job, dataset, plan, group, lambda: 0.0, lambda: False)
    hard, refused, validation, cause = [], "", None, None
    job.save(job.output / "job.json")
    try:
        done = trainer.run(resume=False)
        health, validation = done.health, done.best_validation
    except Stopped as stopped:
        health, cause = stopped.health, stopped.cause
        hard.append(f"{getattr(cause, 'contract', cause.leading or cause.kind)}: {cause.message}")
        refused = hard[0] if cause.kind == "contract" else ""
    file = job.output / "contracts.json"
    contracts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    soft = [f"{c['name']}: {c['message']}" for c in contracts if c["verdict"] == "failed" and not c["hard"]]
    verdict = triage_finding(*own_triage(job, dataset.layout, health, cause))
    for found in (*health.strongest, *((verdict,) if verdict.finding.severity != "ok" else ())):
        (hard if found.finding.severity == "error" else soft).append(f"{found.name}: {found.finding.message}")
    return Outcome(
        variant=variant, steps=trainer.step, validation=validation, hard=tuple(hard), soft=tuple(soft), refused=refused,
        seconds=time.process_time() - started,
    )  # fmt: skip


def report(outcomes: list[Outcome]) -> dict[str, Any]:
    """The totals: steps, alarms with intervals by 10,000 steps, and their names."""
    steps = sum(outcome.steps for outcome in outcomes)

    def alarms(found: list[tuple[str, ...]]) -> dict[str, Any]:
        named = [{alarm.partition(":")[0] for alarm in of_run} for of_run in found]
        runs = sum(bool(names) for names in named)
        low, high = clopper_pearson(runs, steps)
        return {
            "runs": runs, "per_10000_steps": 1e4 * runs / steps, "interval": [1e4 * low, 1e4 * high],
            "names": dict(Counter(name for names in named for name in sorted(names)).most_common()),
        }  # fmt: skip

    return {
        "machine": machine(["torch"]),
        "runs": len(outcomes),
        "steps": steps,
        "refused": sum(bool(outcome.refused) for outcome in outcomes),
        "hard": alarms([outcome.hard for outcome in outcomes]),
        "soft": alarms([outcome.soft for outcome in outcomes]),
    }


def main() -> int:
    """Run all, print a line for each and the totals, and judge them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=950, help="steps of a training, about")
    parser.add_argument("--draw", type=int, default=1, help="seed of how the settings are shuffled")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the trainings to run")
    parser.add_argument(
        "--job", type=Path, help="job.json of a training of `ctr run`, for its packed rows; else made-up ones"
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--assert", dest="judged", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    outcomes: list[Outcome] = []
    of = None if arguments.job is None else TrainingJob.load(arguments.job)
    for variant in variants(arguments.runs, arguments.draw):
        if arguments.only and variant.number not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(variant, arguments.steps, Path(folder), of)
        outcomes.append(outcome)
        quality = "–" if outcome.validation is None else f"{outcome.validation:.3f}"
        print(
            f"{variant.number:2} batch {variant.batch:4} rate ×{variant.factor:.2f} {variant.precision} {variant.model}: "
            f"{outcome.steps} steps, validation {quality}, {outcome.seconds:.0f} s",
            flush=True,
        )
        for title, found in (("HARD", outcome.hard), ("soft", outcome.soft)):
            for alarm in found:
                print(f"     {title} {alarm}", flush=True)
    total = report(outcomes)
    print(json.dumps(total, indent=1))
    if arguments.json is not None:
        content = total | {"trainings": [asdict(outcome) for outcome in outcomes]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    wrong = bool(total["refused"]) or total["hard"]["interval"][1] > 1e4 * MOST
    return int(arguments.judged and wrong)


if __name__ == "__main__":
    sys.exit(main())
