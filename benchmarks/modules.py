"""The ranker's modules beside those of other libraries: the same arrays, the same widths, the same run.

Rows are made: ``--fields`` id features with a Zipf distribution over ``--ids`` values in all, and clicks of a known model with
products of up to three features. Each side trains on the first rows and scores the others, in a process of its own, by turns. Ours is
the product's trainer with all that it does in a training (monitor, contracts, checkpoint, validation), in fp32 and in bf16 where
the processor has instructions for it; another library's model has the usual plain loop of :mod:`_module_peers`. Processor seconds
are those of training and scoring, of all threads of the process, without its start.

Printed are the area under the curve of each side, the differences ours - theirs with an interval of 95 % (a Poisson bootstrap
over the test rows of the mean over the seeds), the spread over the seeds, and the ratio of the processor seconds a million rows.

The other libraries are no dependencies of this project. In an environment of their own, torch first::

    python -m venv ../peers && ../peers/bin/pip install -c constraints.txt torch==2.13.0
    ../peers/bin/pip install -c constraints.txt fuxictr==2.3.10

Run from the checkout::

    python benchmarks/modules.py --peers-python ../peers/bin/python [--rows 400000] [--seeds 1 2 3] [--only DCNv2]

Without ``--peers-python`` ours are measured alone; a library that is absent is named and left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _machine import machine
from numpy.typing import NDArray

Logits = NDArray[np.float64]
HERE = Path(__file__).resolve()
ABSENT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One model of ours and the one of another library that it stands beside.

    Attributes:
        peer: Its name in ``_module_peers.PEERS``.
        model: Our ``model`` section, without widths of embeddings and hidden layers.
        tasks: Number of tasks; the second is a part of the first.
        exact: Whether both compute the same formula.
    """

    peer: str
    model: dict[str, Any]
    tasks: int = 1
    exact: bool = True


PLAIN: dict[str, Any] = {"wide": False, "normalisation": "none", "dropout": 0.0, "embedding_dropout": 0.0}
GATES = {"kind": "feature_gates", "normalisation": "none", "gate_width": 64}
COMPARISONS: dict[str, Comparison] = {
    "DCNv2": Comparison(
        peer="FuxiCTR DCNv2",
        model={**PLAIN, "interactions": [{"kind": "cross", "layers": 3, "normalisation": "none"}]},
    ),
    "MaskNet": Comparison(
        peer="FuxiCTR MaskNet",
        # In both a perceptron reads the blocks; in ours the heads read the inputs beside it.
        model={**PLAIN, "hidden": "stacked", "interactions": [{"kind": "mask_net", "normalisation": "field"}]},
        exact=False,
    ),
    "FinalMLP": Comparison(
        peer="FuxiCTR FinalMLP",
        # Ours has the two gated perceptrons, and adds their logits instead of a bilinear form of their units.
        model={
            **PLAIN,
            "branches": [
                {"name": "first", "hidden": [], "interactions": [{**GATES, "context": "first half"}]},
                {"name": "second", "hidden": [], "interactions": [{**GATES, "context": "second half"}]},
            ],
            "fusion": {"kind": "average", "branch_dropout": 0.0},
        },
        exact=False,
    ),
}
"""Models of several tasks (``tasks=2``) are added here, with their peer in ``_module_peers.PEERS``; multi_task.py has some."""


@dataclass(frozen=True, slots=True)
class World:
    """Made rows: ids [N, F], labels [N, 2] (the second only where the first is 1), and the rows of each field's table."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int8]
    vocabulary: tuple[int, ...]


def made_world(rows: int, fields: int, ids: int, seed: int) -> World:
    """Clicks whose logit has a value for each id, and products of factors of two and of three fields."""
    random = np.random.default_rng(seed)
    shares = np.exp(-np.linspace(0, 6, fields))
    vocabulary = tuple(int(n) for n in np.maximum(shares / shares.sum() * ids, 12).round())
    columns = [np.minimum(random.zipf(1.3, rows) + 1, own - 1) for own in vocabulary]
    values = [random.normal(0, 0.25, own)[column] for own, column in zip(vocabulary, columns, strict=True)]
    factors = [random.normal(size=(own, 3))[column] for own, column in zip(vocabulary, columns, strict=True)]
    logit = np.sum(values, axis=0) - 1.8
    for _ in range(fields // 2):
        first, second, third = random.choice(fields, 3, replace=False)
        logit += 0.25 * (factors[first] * factors[second]).sum(axis=1) / np.sqrt(3)
        logit += 0.15 * (factors[first] * factors[second] * factors[third]).sum(axis=1) / np.sqrt(3)
    clicked = random.random(rows) < 1 / (1 + np.exp(-logit))
    later = np.sum(values[::2], axis=0) - 1.0
    bought = clicked & (random.random(rows) < 1 / (1 + np.exp(-later)))
    labels = np.stack([clicked, bought], axis=1).astype(np.int8)
    return World(np.stack(columns, axis=1).astype(np.int32), labels, vocabulary)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnJob:
    """What a process trains with the product, and where it writes."""

    arrays: str
    output: str
    model: dict[str, Any]
    precision: str
    batch: int
    epochs: int
    seed: int
    threads: int


def write_arrays(world: World, folder: Path, test_rows: int, tasks: int, width: int) -> None:
    """The arrays of both sides: plain ones, and those of the product's datasets."""
    from ctr_pipeline.datasets import SPLITS, PackedSplit, write_split
    from ctr_pipeline.features.layout import IdColumn, Layout

    names = [f"f{place}" for place in range(len(world.vocabulary))]
    layout = Layout(
        numeric=(),
        ids=tuple(IdColumn(n, "categorical", rows, width) for n, rows in zip(names, world.vocabulary, strict=True)),
        tasks=("click", "buy")[:tasks],
        parents=(-1, 0)[:tasks],
    )
    folder.mkdir(parents=True)
    (folder / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    rows = len(world.ids)
    last = rows - test_rows
    parts = {"train": slice(0, last), "test": slice(last, rows)}
    for name in SPLITS:
        # Validation and calibration cost our side alone: a few rows.
        own = parts.get(name, slice(last - 2000, last))
        labels = world.labels[own, :tasks]
        count = len(labels)
        split = PackedSplit(
            numeric=np.zeros((count, 0), dtype=np.float32),
            ids=world.ids[own],
            labels=labels,
            weights=np.ones((count, tasks), dtype=np.float32),
            ts=np.arange(count, dtype=np.int64),
            user=np.full(count, -1, dtype=np.int64),
            position=np.zeros(count, dtype=np.int16),
            random=np.zeros(count, dtype=np.bool_),
        )
        write_split(folder, name, split)
    for name, own in parts.items():
        np.save(folder / f"{name}_ids.npy", world.ids[own])
        np.save(folder / f"{name}_labels.npy", world.labels[own, :tasks])


def train_own(job_file: Path) -> int:
    """Trains and scores with the product; the process that modules.py starts for our side."""
    import torch

    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.spec.model import Model
    from ctr_pipeline.spec.training import Training
    from ctr_pipeline.training.dataloader import Shard
    from ctr_pipeline.training.distributed import ProcessGroup
    from ctr_pipeline.training.job_spec import TrainingJob
    from ctr_pipeline.training.loop import Trainer
    from ctr_pipeline.training.plan import known_outcomes, plan_training

    job = OwnJob(**json.loads(job_file.read_text(encoding="utf-8")))
    torch.set_num_threads(job.threads)
    dataset = PackedDataset.open(Path(job.arrays))
    training = Training(
        epochs=job.epochs, batch_size=job.batch, threads=job.threads, precision=job.precision, learning_rate=1e-3,
        weight_decay=0.0,
    )  # fmt: skip
    task = TrainingJob(
        dataset=Path(job.arrays), output=Path(job.output) / "run", seed=job.seed, device="cpu",
        model=Model.model_validate(job.model), training=training,
    )  # fmt: skip
    labels = dataset.splits["train"].labels
    plan = plan_training(training, task.model, len(labels), known_outcomes(labels))
    group = ProcessGroup(Shard(), torch.device("cpu"))
    began = time.process_time()
    Trainer(task, dataset, plan, group, time.perf_counter, lambda: False).run(False)
    seconds = time.process_time() - began
    output = Path(job.output)
    np.save(output / "logits.npy", np.load(output / "run" / "scores" / "test.npy"))
    (output / "measured.json").write_text(json.dumps({"cpu_seconds": seconds}), encoding="utf-8")
    return 0


def own_model(comparison: Comparison, fields: int, width: int, hidden: Sequence[int]) -> dict[str, Any]:
    """The section with the widths of this run filled in."""
    content = json.loads(json.dumps({"embedding_dim": width, "hidden": list(hidden), **comparison.model}))
    halves = {"first half": range(fields // 2), "second half": range(fields // 2, fields)}
    sections = [*content.get("interactions", []), *(s for b in content.get("branches", []) for s in b["interactions"])]
    for section in sections:
        if "context" in section:
            section["context"] = [f"f{place}" for place in halves[section["context"]]]
            section["hidden"] = list(hidden)
    if content["hidden"] == "stacked":
        content["hidden"] = []
        content["interactions"][0]["hidden"] = list(hidden)
    return content


@dataclass(slots=True)
class Side:
    """The runs of one side: logits [N, T] of the test rows and processor seconds a million training rows, by seed."""

    name: str
    logits: list[Logits] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def run_side(command: Sequence[str], job: dict[str, Any], folder: Path) -> tuple[Logits, float] | str:
    """Logits and processor seconds of a process, or why there are none."""
    folder.mkdir(parents=True)
    file = folder / "job.json"
    file.write_text(json.dumps({**job, "output": str(folder)}), encoding="utf-8")
    threads = {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, "GOMP_SPINCOUNT": "0"}
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode == ABSENT:
        return f"not installed: {done.stderr.strip().splitlines()[-1]}"
    if done.returncode:
        return f"failed: {done.stderr.strip()[-2000:]}"
    seconds = json.loads((folder / "measured.json").read_text())["cpu_seconds"]
    return np.load(folder / "logits.npy").astype(np.float64), seconds


def weighted_auc(order: NDArray[np.intp], labels: NDArray[np.int8], weights: NDArray[np.float64]) -> float:
    """Area under the curve of rows sorted by their scores, with weights; ties count by their place."""
    positive, negative = weights * (labels == 1), weights * (labels == 0)
    below = np.cumsum(negative[order]) - negative[order] / 2
    return float((positive[order] * below).sum() / (positive.sum() * negative.sum()))


def differences(
    ours: Sequence[Logits], theirs: Sequence[Logits], labels: NDArray[np.int8], replicates: int
) -> tuple[float, float, float]:
    """Mean over the seeds of the difference of the areas, and its interval over the test rows."""
    pairs = [(np.argsort(a, kind="stable"), np.argsort(b, kind="stable")) for a, b in zip(ours, theirs, strict=True)]
    random = np.random.default_rng(0)
    found = []
    for replicate in range(replicates + 1):
        weights = random.poisson(1.0, len(labels)).astype(np.float64) if replicate else np.ones(len(labels))
        own = [weighted_auc(a, labels, weights) - weighted_auc(b, labels, weights) for a, b in pairs]
        found.append(float(np.mean(own)))
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return found[0], float(low), float(high)


def has_bf16() -> bool:
    """Whether the processor has instructions for products in bf16."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in text or "amx_bf16" in text


def compare(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Trains both sides over the seeds, by turns, and prints their figures."""
    comparison = COMPARISONS[name]
    world = made_world(options.rows + options.test_rows, options.fields, options.ids, 7)
    arrays = folder / "arrays"
    write_arrays(world, arrays, options.test_rows, comparison.tasks, options.width)
    labels = np.load(arrays / "test_labels.npy")
    shared = {"arrays": str(arrays), "batch": options.batch, "epochs": options.epochs, "threads": options.threads}
    model = own_model(comparison, options.fields, options.width, options.hidden)
    jobs: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
        own = {**shared, "model": model, "precision": precision}
        jobs[f"ours, {precision}"] = [sys.executable, str(HERE), "--own"], own
    if options.peers_python:
        theirs = {
            **shared, "peer": comparison.peer, "vocabulary": world.vocabulary, "tasks": comparison.tasks,
            "width": options.width, "hidden": options.hidden,
        }  # fmt: skip
        jobs[comparison.peer] = [options.peers_python, str(HERE.with_name("_module_peers.py"))], theirs
    sides = {side: Side(side) for side in jobs}
    for seed in options.seeds:
        for side, (command, job) in jobs.items():
            found = run_side(command, {**job, "seed": seed}, folder / f"{side}-{seed}".replace(" ", "_"))
            if isinstance(found, str):
                print(f"{name}: {side}: {found}", flush=True)
                continue
            sides[side].logits.append(found[0])
            sides[side].seconds.append(found[1] / (options.rows * options.epochs) * 1e6)
    print(f"\n{name}" + ("" if comparison.exact else " (not the same formula, see COMPARISONS)"))
    print_figures([side for side in sides.values() if side.logits], comparison, labels, options.replicates)


def print_figures(sides: Sequence[Side], comparison: Comparison, labels: NDArray[np.int8], replicates: int) -> None:
    """The areas of each side, and what ours are beside the other library's."""
    tasks = ("click", "buy")[: comparison.tasks]
    every = np.ones(len(labels))
    for side in sides:
        areas = [
            [weighted_auc(np.argsort(logits[:, task], kind="stable"), labels[:, task], every) for logits in side.logits]
            for task in range(comparison.tasks)
        ]
        shown = ", ".join(
            f"{task} {np.mean(own):.5f} ± {np.std(own):.5f}" for task, own in zip(tasks, areas, strict=True)
        )
        print(
            f"  {side.name:<20} AUC {shown}; CPU-s per million rows {np.mean(side.seconds):.1f} ({len(areas[0])} seeds)"
        )
    theirs = next((side for side in sides if side.name == comparison.peer), None)
    for side in sides if theirs is not None else ():
        if theirs is None or side is theirs or len(side.logits) != len(theirs.logits):
            continue
        for place, task in enumerate(tasks):
            ours, others = ([logits[:, place] for logits in own.logits] for own in (side, theirs))
            mean, low, high = differences(ours, others, labels[:, place], replicates)
            print(f"  {side.name} - theirs, {task}: AUC {mean:+.5f} [{low:+.5f}, {high:+.5f}]")
        print(f"  {side.name}: {np.mean(side.seconds) / np.mean(theirs.seconds):.2f} times their CPU-s", flush=True)


def main() -> int:
    """Runs what the command line asks for."""
    if len(sys.argv) == 3 and sys.argv[1] == "--own":
        return train_own(Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", help="interpreter of an environment with the other libraries")
    parser.add_argument("--only", nargs="+", choices=tuple(COMPARISONS), default=tuple(COMPARISONS))
    parser.add_argument("--rows", type=int, default=400_000, help="training rows")
    parser.add_argument("--test-rows", type=int, default=200_000)
    parser.add_argument("--fields", type=int, default=39)
    parser.add_argument("--ids", type=int, default=900_000, help="rows of all tables together")
    parser.add_argument("--width", type=int, default=16, help="width of an embedding")
    parser.add_argument("--hidden", type=int, nargs="+", default=[400, 400, 400])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--replicates", type=int, default=200)
    options = parser.parse_args()
    print(
        f"machine     {machine(['torch'])}, {options.threads} thread(s) a side\ncommand     {' '.join(sys.argv)}",
        flush=True,
    )
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="modules-") as folder:
            compare(name, options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
