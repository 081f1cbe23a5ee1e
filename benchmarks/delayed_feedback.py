"""What the losses for open labels are worth: excess NE against the truth, on simulated marketplaces.

The same spec runs once for each loss, with that loss on the tasks that settle late (``--on``; by default all but those of a
window of one day or less). Beside the losses of the product stand
``naive negatives``: every open label without an outcome so far is a negative, on the packed arrays of the losses for open
labels.

The excess of a task is E[KL(p ‖ q)] / h(π) over the test rows: p is the true probability of the outcome, q the calibrated
one with the logged position (docs/oracle.md). p is that of what truly happens inside the window, so that the rows of
advertisers that misreport are left out of the excess; of the other figures they are a part.

Most of a later step's excess is its click's, which settles within a day and is learnt alike by every side. Beside it stands
that of the step alone: the same with the probabilities of the step once the one before it has happened, rows weighted by the
true probability that it has.

Run from the checkout, with the extra ``benchmark`` installed::

    python benchmarks/delayed_feedback.py [--spec specs/credit.yaml] [--losses mature_only dfm_discrete ...]
        [--on application conversion approval] [--world-seeds 11 12 13] [--training-seeds 7] [--set PATH=VALUE ...]
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from _ablations import overridden, with_absolute_paths
from _machine import RANKING, machine
from _ranking_figures import Run, row
from numpy.typing import NDArray
from ranking import CHECKOUT, LOGGED, Bench, World
from scipy import special

from ctr_pipeline.calibration.labelled import labelled
from ctr_pipeline.commands.oracle import latest_test_scores
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.key import pseudonymiser
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.evaluation.metrics import entropy
from ctr_pipeline.simulator import truth_file
from ctr_pipeline.spec import parse_spec
from ctr_pipeline.spec.fields import DAY_US

MATURE, NAIVE = "mature_only", "naive_negatives"
KINDS = {MATURE: "binary_cross_entropy", "dfm_discrete": "dfm_discrete", "dfm_weibull": "dfm_weibull", "fsiw": "fsiw"}
"""The losses of the product, by the names that they have in the table."""
LEARNT = ("train", "validation", "refit")
TRUTHFUL = "none"
"""What the truth says of advertisers whose outcomes are logged as they happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The test rows as they truly are."""

    probability: NDArray[np.float64]
    """[N, T] probability that each outcome happens inside its window."""
    truthful: NDArray[np.bool_]
    """[N] rows of advertisers that report what happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run on one task."""

    side: str
    world: int
    task: str
    excess: float
    own_excess: float
    """That of the step alone, given the one before it."""
    ne: float
    ratio: float
    """Observed over expected outcomes."""


def with_loss(content: Mapping[str, Any], loss: str, on: Sequence[str]) -> dict[str, Any]:
    """The spec with ``loss`` on the tasks ``on``."""
    objective = {"kind": "binary", "loss": {"kind": KINDS[loss]}}
    return {
        **content,
        "tasks": [{**task, "objective": objective} if task["name"] in on else task for task in content["tasks"]],
    }


def late_tasks(content: Mapping[str, Any]) -> list[str]:
    """Tasks whose window is longer than a day."""
    spec = parse_spec(yaml.safe_dump(dict(content)), "spec.yaml")
    return [task.name for task in spec.tasks if task.window > DAY_US]


def naive_dataset(dataset: PackedDataset, target: Path) -> None:
    """A copy of a dataset of the losses for open labels, in which an open label without an outcome is a negative."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(dataset.directory, target)
    for part in LEARNT:
        split = dataset.splits.get(part)
        if split is None or split.elapsed is None or split.delay is None:
            continue
        np.save(target / part / "labels.npy", naive_labels(split.labels, split.elapsed, split.delay))


def truth_of(deployment: Deployment, environment: Mapping[str, str]) -> Truth:
    """The truth of the test rows of the newest retrain, in their order."""
    scored = latest_test_scores(deployment)
    assert scored is not None
    assert scored.days is not None
    first, last = scored.days
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    files = pl.concat(pl.scan_parquet(truth_file(deployment.simulated_root, day)) for day in days)
    steps = [task.name for task in deployment.spec.tasks]
    hashed = pseudonymiser(Environment.of(environment)).expr("impression_id")
    chances = [f"{step}_probability" for step in steps]
    times = [f"{step}_ts" for step in steps]
    truth = files.select(hashed.alias("impression_id"), "ts", "advertiser_noise", *chances, *times).collect()
    joint, columns = np.ones(len(truth)), []
    for number, task in enumerate(deployment.spec.tasks):
        joint = joint * truth[chances[number]].to_numpy().astype(np.float64)
        began = "ts" if task.window_from == "impression" else f"{task.window_from}_ts"
        delay = (pl.col(times[number]) - pl.col(began)).dt.total_microseconds()
        happened = truth.select(inside=delay < task.window)["inside"].drop_nulls()
        # The window cuts off the same small share everywhere, but for slow categories of the third step.
        columns.append(joint * (happened.mean() if len(happened) else 1.0))
    frame = truth.select("impression_id", "advertiser_noise", row=pl.int_range(pl.len()))
    found = scored.frame.select("impression_id").join(frame, on="impression_id", how="left", maintain_order="left")
    order = found["row"].to_numpy()
    return Truth(
        probability=np.column_stack(columns)[order], truthful=(found["advertiser_noise"] == TRUTHFUL).to_numpy()
    )


def excess_ne(p: NDArray[np.float64], logits: NDArray[np.float64]) -> float:
    """E[KL(p ‖ q)] / h(mean p), with q as logits [N]."""
    # KL = p log p/q + (1 - p) log (1 - p)/(1 - q), with log q and log (1 - q) from the logit.
    cross = p * np.logaddexp(0.0, -logits) + (1 - p) * np.logaddexp(0.0, logits)
    return float((cross - special.entr(p) - special.entr(1 - p)).mean() / entropy(float(p.mean())))


def step_excess_ne(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """The excess of a step given the one before it; p and q have [N, 2] probabilities of the one before and of the step.

    That is E[w · KL(p' ‖ q')] / (E[w] · h(E[w · p'] / E[w])), with w = p[:, 0] and p', q' the conditional probabilities.
    """
    weights = p[:, 0]
    true, predicted = p[:, 1] / weights, np.clip(q[:, 1] / q[:, 0], 1e-9, 1 - 1e-9)
    divergence = special.rel_entr(true, predicted) + special.rel_entr(1 - true, 1 - predicted)
    return float(np.average(divergence, weights=weights) / entropy(float(np.average(true, weights=weights))))


def naive_labels(
    labels: NDArray[np.int8], elapsed: NDArray[np.float32], delay: NDArray[np.float32]
) -> NDArray[np.int8]:
    """[N, T] labels in which a pair that is looked at, and has no settled label, is what is known of it so far."""
    known = np.where(np.isfinite(delay), 1, 0)
    return np.where(np.isfinite(elapsed) & (labels < 0), known, labels).astype(np.int8)


def points(
    side: str, world: int, runs: Iterator[Run], tasks: Sequence[str], found: World, truth: Truth
) -> Iterator[Point]:
    """The figures of each run with the logged position, where there is one."""
    for run in runs:
        if found.positioned and run.position != LOGGED:
            continue
        for number, task in enumerate(tasks):
            excess = excess_ne(truth.probability[truth.truthful, number], run.logits[truth.truthful, number])
            parent = found.dataset.layout.parents[number]
            own = excess
            if parent >= 0:
                p, q = (
                    of[truth.truthful][:, [parent, number]] for of in (truth.probability, special.expit(run.logits))
                )
                own = step_excess_ne(p, q)
            rows = labelled(run.logits[:, number], found.labels[:, number])
            positive = rows.positive.astype(np.float64)
            loss = np.logaddexp(0.0, rows.logits) - positive * rows.logits
            rate = positive.mean()
            yield Point(
                side=side, world=world, task=task, excess=excess, own_excess=own, ne=float(loss.mean() / entropy(rate)),
                ratio=float(rate / special.expit(rows.logits).mean()),
            )  # fmt: skip


def world_points(bench: Bench, content: Mapping[str, Any], options: argparse.Namespace, world: int) -> Iterator[Point]:
    """All sides in one world."""
    on = options.on or late_tasks(content)
    truth: Truth | None = None
    # The naive negatives need the ages of the labels, which only a loss for open labels has packed.
    first_open = None if options.no_naive else next((loss for loss in options.losses if loss != MATURE), None)
    for loss in options.losses:
        found, paths = bench.run(with_loss(content, loss, on), loss)
        truth = truth or truth_of(Deployment.load(bench.folder / "data"), bench.environment)
        tasks = found.dataset.layout.tasks
        yield from points(loss, world, bench.product(found, paths, loss), tasks, found, truth)
        if loss == first_open:
            yield from points(NAIVE, world, naive(bench, found, paths), tasks, found, truth)


def naive(bench: Bench, found: World, paths: RetrainPaths) -> Iterator[Run]:
    """The sides of the naive negatives: the job of a loss for open labels, on other labels and without that loss."""
    packed = bench.folder / "naive"
    naive_dataset(found.dataset, packed)
    for seed in bench.options.training_seeds:
        yield from bench.trained(found, paths, seed, NAIVE, packed)


def tables(found: Sequence[Point]) -> Iterator[str]:
    """Markdown: a row a task and side, mean ± spread over worlds and training seeds."""
    yield "| task | loss | runs | excess NE | of that of mature_only | of the step alone | of that | NE | O/E |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for task in dict.fromkeys(point.task for point in found):
        of_task = [point for point in found if point.task == task]
        base = [point.excess for point in of_task if point.side == MATURE]
        for side in dict.fromkeys(point.side for point in of_task):
            own = [point for point in of_task if point.side == side]
            cells: list[object] = [task, side, len(own), spread([point.excess for point in own])]
            cells.append(f"{np.mean([point.excess for point in own]) / np.mean(base):.2f}" if base else "–")
            cells.append(spread([point.own_excess for point in own]))
            alone = [point.own_excess for point in of_task if point.side == MATURE]
            cells.append(f"{np.mean([point.own_excess for point in own]) / np.mean(alone):.2f}" if alone else "–")
            yield row([*cells, spread([point.ne for point in own]), spread([point.ratio for point in own], 3)])


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def main() -> None:
    """Runs the losses on the worlds that the command line asks for and prints their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=CHECKOUT / "specs" / "credit.yaml")
    parser.add_argument("--losses", nargs="+", choices=tuple(KINDS), default=[MATURE, "dfm_discrete"])
    parser.add_argument("--on", nargs="+", help="tasks with the loss; by default those with a window of over a day")
    parser.add_argument("--world-seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--training-seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="changes of the spec")
    parser.add_argument("--no-naive", action="store_true", help="without naive negatives")
    parser.add_argument("--keep", type=Path, help="folder for the files; else they are removed")
    options = parser.parse_args()
    options.input = []
    content = overridden(
        yaml.safe_load(options.spec.read_text(encoding="utf-8")), {"training.seed": options.training_seeds[0]}
    )
    content["source"] = with_absolute_paths(content["source"], options.spec.resolve().parent)
    changes = (change.partition("=") for change in options.set)
    content = overridden(content, {path: yaml.safe_load(value) for path, _, value in changes})
    print(f"machine     {machine(RANKING)}\ncommand     {' '.join(sys.argv)}", flush=True)
    found: list[Point] = []
    with tempfile.TemporaryDirectory(prefix="delayed-feedback-") as temporary:
        for seed in options.world_seeds:
            folder = (options.keep or Path(temporary)) / f"{options.spec.stem}-{seed}"
            print(f"\n{options.spec.stem}, seed {seed}\n", flush=True)
            bench = Bench(options, folder.resolve(), "delayed feedback")
            found += world_points(bench, overridden(content, {"seed": seed}), options, seed)
            print("\n".join(tables([point for point in found if point.world == seed])), flush=True)
    if len(options.world_seeds) > 1:
        print(f"\nover {len(options.world_seeds)} worlds\n")
        print("\n".join(tables(found)))


if __name__ == "__main__":
    main()
