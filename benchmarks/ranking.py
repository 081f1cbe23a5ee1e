"""The product beside LightGBM and a logistic regression, on the same packed rows, in one run.

A real ``ctr run`` of a spec makes the packed dataset, the scores and the calibrators. Further training seeds train on the
same packed arrays with the run's own job file and another ``seed``. The other sides read those arrays too (see
``_sides.py``), and every side is calibrated by the spec's ``calibration`` on the same calibration rows. Two positions are
shown: ``neutral``, as rows are ranked where the position is unknown, and ``logged``, with the logged position, where there
is one; the sides beside the product are then trained without and with it.

Run from the checkout, with the extra ``benchmark`` installed::

    python benchmarks/ranking.py [--spec specs/ads.yaml] [--input PATH] [--training-seeds 7 8 9] [--world-seeds 7 8]
        [--keys a b] [--tasks click checkout] [--set source.simulator.sessions_per_day=30000] [--ablate [NAME ...]]
        [--peers SIDE ... | --no-peers] [--logged-position-only]

``--world-seeds`` are seeds of the spec, from which the simulated world follows; ``--keys`` are other keys of the hashes of
the ids. ``--ablate`` runs the spec once more for each part of the product that can be turned off. The product learns all
tasks of the spec whatever ``--tasks`` names, and its seconds are those of all.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from _ablations import ABLATIONS, applicable, overridden, with_absolute_paths
from _machine import RANKING, machine
from _ranking_figures import Figures, Run, differences_table, figures, metrics_table, worlds_table
from _sides import SCORED, Cost, SideJob
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration import Calibrator, calibrated_logits, fit_calibrators
from ctr_pipeline.commands.oracle import CLICK, latest_test_scores
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.deployment.key import pseudonymiser
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles, TrainingOutcome
from ctr_pipeline.simulator import truth_file
from ctr_pipeline.simulator.truth import compare_scores
from ctr_pipeline.spec import Spec
from ctr_pipeline.training import TrainingJob

CHECKOUT = Path(__file__).resolve().parent.parent
PRODUCT, NEUTRAL, LOGGED = "product", "neutral", "logged"

PEERS: dict[str, tuple[str, bool]] = {
    "LightGBM, defaults": ("defaults", False),
    "LightGBM, regularised, refitted": ("regularised", True),
    "logistic regression": ("logistic", False),
}
"""Each side beside the product: its kind in ``_sides.py``, and whether it is trained again on training and validation rows.
Only the regularised trees are random: the others are trained once, whatever the seeds."""


@dataclass(frozen=True, slots=True)
class World:
    """What a run of the pipeline made, as far as all sides share it."""

    spec: Spec
    dataset: PackedDataset
    labels: NDArray[np.int8]
    """[N, T] of the test rows, like the next two."""
    users: NDArray[np.int64]
    ts: NDArray[np.int64]
    positioned: bool
    """Whether the log has positions."""
    truth: pl.DataFrame | None
    """True click probability of each test row, where the world is simulated."""


class RunError(Exception):
    """A run or a training that failed; the message is the end of what it printed."""


class Bench:
    """Runs and trainings of one spec, in one folder."""

    def __init__(self, options: argparse.Namespace, folder: Path, key: str) -> None:
        self.options, self.folder = options, folder
        folder.mkdir(parents=True, exist_ok=True)
        secret = hashlib.sha256(key.encode()).hexdigest()
        self.environment = {**os.environ, "CTR_PSEUDONYM_KEY": secret, "GOMP_SPINCOUNT": "0"}

    def run(self, content: Mapping[str, Any], name: str) -> tuple[World, RetrainPaths]:
        """``ctr run`` of a spec; another spec in the same folder makes anew only what it changes."""
        spec_file, root = self.folder / "spec.yaml", self.folder / "data"
        written = yaml.safe_dump(dict(content), sort_keys=False)
        spec_file.write_text(written, encoding="utf-8")
        ctr = str(Path(sys.executable).with_name("ctr"))
        command = [ctr, "run", "--spec", str(spec_file), "--data-root", str(root)]
        for place in self.options.input:
            head, separator, path = place.rpartition("=")
            command += ["--input", place if "://" in path else f"{head}{separator}{Path(path).resolve()}"]
        began = time.perf_counter()
        output = self.folder / "output.txt"
        with output.open("wb") as file:
            code = subprocess.run(command, stdout=file, stderr=file, env=self.environment, check=False).returncode
        print(f"ctr run, {name}: {time.perf_counter() - began:.0f} s, exit code {code}", flush=True)
        deployment = Deployment.load(root)
        finished = deployment.paths.retrains("calibration.json")
        # A refused model has its figures too, but not those of the spec before.
        if code not in (0, 3) or not finished or (finished[-1].parent / "spec.yaml").read_text("utf-8") != written:
            raise RunError(output.read_text(encoding="utf-8")[-4000:])
        paths = deployment.paths.retrain(finished[-1].parent.name)
        dataset = PackedDataset.open(paths.packed)
        test = dataset.splits["test"]
        world = World(
            spec=deployment.spec,
            dataset=dataset,
            # Copies: the files are replaced by the next run.
            labels=np.array(test.labels),
            users=np.array(test.user),
            ts=np.array(test.ts),
            positioned=bool((dataset.splits["train"].position > 0).any()),
            truth=_truth(deployment, self.environment),
        )
        return world, paths

    def product(self, world: World, paths: RetrainPaths, side: str) -> Iterator[Run]:
        """The run's own training, then one for each further seed."""
        first, *further = self.options.training_seeds
        own = TrainingOutcome.read(paths.result)
        if own.facts["seed"] != first:
            sys.exit(f"the run was trained with seed {own.facts['seed']}, not {first}")
        files = RetrainFiles(paths)
        yield from product_runs(world, files, side, own.facts["wall_seconds"], None)
        for logged in files.position_modes:
            # Further seeds are calibrated below as the run calibrated its own: by the same rule, to the same figures.
            if calibrators_of(world, files, logged) != files.calibrators(logged_position=logged):
                sys.exit("the run's calibrators are not those of `calibrators_of`: the pipeline has another rule now")
        for seed in further:
            yield from self.trained(world, paths, seed, side)

    def trained(
        self, world: World, paths: RetrainPaths, seed: int, side: str, labels: Path | None = None
    ) -> Iterator[Run]:
        """The run's job with another seed; or with ``labels``, on those packed arrays and without its objectives."""
        job = TrainingJob.load(paths.job)
        again = replace(paths, training=self.folder / "trained" / f"{side}-{seed}".replace(" ", "_"))
        changed: dict[str, Any] = {"seed": seed, "output": again.training, "mlflow": None}
        changed |= {"dataset": labels, "objectives": {}} if labels is not None else {}
        job.model_copy(update=changed).save(again.job)
        cost = self._train(SideJob(kind=PRODUCT, output=str(again.training), trainer_job=str(again.job)))
        files = RetrainFiles(again)
        for logged in files.position_modes:
            files.write_calibrators(calibrators_of(world, files, logged), logged_position=logged)
        yield from product_runs(world, files, side, cost.seconds, cost.peak_mib)

    def peers(self, world: World, tasks: Sequence[int]) -> Iterator[Run]:
        """The other sides, without the logged position and with it."""
        calibration = world.dataset.splits["calibration"].labels[:, tasks]
        names = [world.dataset.layout.tasks[task] for task in tasks]
        positions = (False, True) if world.positioned else (False,)
        if self.options.logged_position_only and world.positioned:
            positions = (True,)
        for side, (kind, refit) in PEERS.items():
            if self.options.peers and side not in self.options.peers:
                continue
            for logged in positions:
                for seed in self.options.training_seeds if kind == "regularised" else self.options.training_seeds[:1]:
                    output = self.folder / "peers" / f"{kind}-{logged}-{seed}"
                    cost = self._train(
                        SideJob(
                            kind=kind, output=str(output), dataset=str(world.dataset.directory), tasks=tuple(tasks),
                            position=logged, refit=refit, seed=seed, threads=world.spec.training.threads,
                        )
                    )  # fmt: skip
                    scores = {split: np.load(output / f"{split}.npy") for split in SCORED}
                    fitted = fit_calibrators(
                        world.spec.calibration, names, scores["calibration"], calibration,
                        layout=world.dataset.layout, ids=world.dataset.splits["calibration"].ids,
                    )  # fmt: skip
                    logits = np.full(world.labels.shape, np.nan)
                    none = [-1] * len(tasks)
                    ids = world.dataset.splits["test"].ids
                    logits[:, tasks] = calibrated_logits([fitted[name] for name in names], none, scores["test"], ids)
                    yield Run(
                        side=side, position=LOGGED if logged else NEUTRAL, logits=logits,
                        calibrated_on={task: fitted[name].positives for task, name in zip(tasks, names, strict=True)},
                        seconds=cost.seconds, peak_mib=cost.peak_mib,
                    )  # fmt: skip

    def _train(self, job: SideJob) -> Cost:
        """Trains one side in a process of its own."""
        output = Path(job.output)
        output.mkdir(parents=True, exist_ok=True)
        (output / "side.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
        command = [sys.executable, str(Path(__file__).with_name("_sides.py")), str(output / "side.json")]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RunError(f"{job.kind}: {done.stdout[-1000:]}{done.stderr[-3000:]}")
        return Cost(**json.loads((output / "measured.json").read_text(encoding="utf-8")))


def product_runs(world: World, files: RetrainFiles, side: str, seconds: float, peak: float | None) -> Iterator[Run]:
    """The calibrated test rows of a training at each position."""
    tasks = list(world.dataset.layout.tasks)
    for logged in files.position_modes:
        fitted = files.calibrators(logged_position=logged)
        yield Run(
            side=side,
            position=LOGGED if logged else NEUTRAL,
            logits=files.calibrated("test", tasks, logged_position=logged),
            calibrated_on={number: fitted[task].positives for number, task in enumerate(tasks)},
            seconds=seconds,
            peak_mib=peak,
        )


def calibrators_of(world: World, files: RetrainFiles, logged: bool) -> dict[str, Calibrator]:
    """The calibrators of a training, by the spec's own rule."""
    split, layout = world.dataset.splits["calibration"], world.dataset.layout
    scores = files.scores("calibration", logged_position=logged)
    return fit_calibrators(world.spec.calibration, layout.tasks, scores, split.labels, layout=layout, ids=split.ids)


def _truth(deployment: Deployment, environment: Mapping[str, str]) -> pl.DataFrame | None:
    """``impression_id`` and ``click_probability`` of the test rows in their order; None where nothing is simulated."""
    scored = latest_test_scores(deployment)
    if deployment.spec.source.simulator is None or scored is None or scored.days is None:
        return None
    first, last = scored.days
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    hashed = pseudonymiser(Environment.of(environment)).expr("impression_id")
    truth = pl.concat(pl.scan_parquet(truth_file(deployment.simulated_root, day)) for day in days)
    known = truth.select(hashed.alias("impression_id"), "click_probability").collect()
    return scored.frame.select("impression_id").join(known, on="impression_id", how="left", maintain_order="left")


def measured(world: World, runs: Iterable[Run], task: int, replicates: int) -> list[Figures]:
    """The figures of each side and position on one task."""
    by_side: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_side.setdefault((run.side, run.position), []).append(run)
    clicked = world.truth is not None and world.spec.tasks[task].label.event == CLICK
    return [
        figures(
            of, task, world.labels[:, task], world.users,
            [_captured(world, run, task) for run in of] if clicked else None, replicates=replicates,
        )
        for of in by_side.values()
    ]  # fmt: skip


def _captured(world: World, run: Run, task: int) -> float:
    assert world.truth is not None
    scores = world.truth.select("impression_id", score=pl.Series(special.expit(run.logits[:, task].clip(-30, 30))))
    return float(compare_scores(world.truth.lazy(), scores)["captured"])


def benchmark_world(bench: Bench, content: Mapping[str, Any], options: argparse.Namespace) -> dict[str, list[Figures]]:
    """Runs, trains, measures and prints one world; the figures by task."""
    world, paths = bench.run(content, "the spec as it is")
    tasks = world.dataset.layout.tasks
    chosen = [_task(tasks, name) for name in options.tasks or tasks[:1]]
    for name, split in world.dataset.splits.items():
        settled = ", ".join(
            f"{tasks[n]} {(split.labels[:, n] >= 0).sum():,} settled {(split.labels[:, n] == 1).sum():,} positive"
            for n in chosen
        )
        print(f"{name:<12}{len(split):>10,} rows; {settled}", flush=True)
    runs = [*bench.product(world, paths, PRODUCT), *([] if options.no_peers else bench.peers(world, chosen))]
    found = {tasks[task]: measured(world, runs, task, options.replicates) for task in chosen}
    for task, own in found.items():
        print(f"\n{task}\n")
        print("\n".join(metrics_table(own)))
        if not options.no_peers:
            print("\n" + "\n".join(differences_table(own, PRODUCT)), flush=True)
    off: list[Run] = []
    for name, changed in applicable(content, () if options.ablate is None else options.ablate or ABLATIONS):
        if isinstance(changed, str):
            print(f"\nnot run: {name}: {changed}", flush=True)
            continue
        try:
            other, other_paths = bench.run(changed, name)
            if not np.array_equal(other.ts, world.ts) or not np.array_equal(other.labels, world.labels):
                print(f"\nnot compared: {name}: it has other test rows", flush=True)
                continue
            off += bench.product(other, other_paths, name)
        except RunError as error:
            print(f"\nnot compared: {name}: {error}", flush=True)
    for task, own in found.items() if off else ():
        ablated = measured(world, off, tasks.index(task), options.replicates)
        print(f"\n{task}, one part at a time otherwise\n")
        print("\n".join(metrics_table(ablated)) + "\n")
        print("\n".join(differences_table([*own, *ablated], PRODUCT, {run.side for run in off})), flush=True)
    return found


def _task(tasks: Sequence[str], name: str) -> int:
    if name not in tasks:
        sys.exit(f"--tasks {name}: the spec has {', '.join(tasks)}")
    return tasks.index(name)


def main() -> None:
    """Runs the worlds that the command line asks for and prints their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=CHECKOUT / "specs" / "ads.yaml")
    parser.add_argument("--input", nargs="+", default=[], help="real logs, as `ctr run --input` takes them")
    parser.add_argument("--training-seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--world-seeds", type=int, nargs="+", help="seeds of the spec; by default its own")
    parser.add_argument("--keys", nargs="+", default=["ranking"], help="texts that the keys of the hashes follow from")
    parser.add_argument("--tasks", nargs="+", help="tasks to report; by default the first")
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="changes of the spec")
    parser.add_argument("--ablate", nargs="*", choices=tuple(ABLATIONS), help="parts to turn off; all without a name")
    parser.add_argument("--no-peers", action="store_true", help="the product alone")
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), help="sides beside the product; by default all")
    parser.add_argument(
        "--logged-position-only", action="store_true", help="no side without the position but the product"
    )
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for the files; else they are removed")
    options = parser.parse_args()
    text = options.spec.read_text(encoding="utf-8")
    content = overridden(yaml.safe_load(text), {"training.seed": options.training_seeds[0]})
    content["source"] = with_absolute_paths(content["source"], options.spec.resolve().parent)
    changes = (change.partition("=") for change in options.set)
    content = overridden(content, {path: yaml.safe_load(value) for path, _, value in changes})
    print(f"machine     {machine(RANKING)}\ncommand     {' '.join(sys.argv)}", flush=True)
    worlds: list[dict[str, list[Figures]]] = []
    with tempfile.TemporaryDirectory(prefix="ranking-") as temporary:
        for seed in options.world_seeds or [content.get("seed", 7)]:
            for key in options.keys:
                print(f"\n{options.spec.stem}, seed {seed}, key {key!r}\n", flush=True)
                folder = (options.keep or Path(temporary)) / f"{options.spec.stem}-{seed}-{key}"
                own = overridden(content, {"seed": seed})
                try:
                    worlds.append(benchmark_world(Bench(options, folder.resolve(), key), own, options))
                except RunError as error:
                    sys.exit(str(error))
    if len(worlds) > 1:
        for task in worlds[0]:
            print(f"\n{task}, over {len(worlds)} seeds and keys\n")
            print("\n".join(worlds_table([world[task] for world in worlds], PRODUCT)))


if __name__ == "__main__":
    main()
