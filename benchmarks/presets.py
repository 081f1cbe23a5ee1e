"""The presets of the ranker beside each other, on the same packed arrays, in one run.

A real ``ctr run`` of a spec makes the arrays and trains the spec's own model. Then each preset is trained on these arrays
with each training seed; of a preset with branches, each branch alone too. For each are shown: AUC, AP, NE and O/E on the test rows
(as in ``ranking.py``), the differences to the spec's own model paired by user, parameters, processor seconds of training a
million rows, and what the exported graph takes for a request of one and of many impressions, on one core, at the median and
the 99th percentile.

Run from the checkout, with the extra ``benchmark`` installed::

    python benchmarks/presets.py [--spec specs/ads.yaml] [--presets small ads] [--training-seeds 7 8 9] [--no-branches]
        [--set source.simulator.sessions_per_day=30000] [--keep FOLDER]

With ``--keep`` the folder's run and its finished trainings are taken up again. A preset that the spec's data does not suit, such
as ``feed`` without a list of events, is named and left out.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _ablations import overridden, with_absolute_paths
from _machine import RANKING, machine
from _ranking_figures import Run, differences_table, metrics_table, row
from _sides import SideJob
from ranking import Bench, RunError, World, calibrators_of, measured, product_runs

from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.ranker import RankerError, build_ranker, load_ranker
from ctr_pipeline.serving.export import export_bundle
from ctr_pipeline.serving.latency import measure_latency
from ctr_pipeline.spec import Spec, SpecError, parse_spec
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.presets import PRESETS
from ctr_pipeline.training import TrainingJob

MANY = 300
"""Impressions of a large request."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One finished training and what it took."""

    folder: Path
    job: TrainingJob
    seconds: float
    peak_mib: float
    processor_seconds_a_million_rows: float


class Presets(Bench):
    """Trainings of models on the arrays of one run."""

    def trained_model(self, paths: RetrainPaths, name: str, model: Model, seed: int) -> Trained:
        """A training of ``model``, which an earlier call with the same folder may have made."""
        folder = self.folder / "presets" / f"{name.replace(' ', '_')}-{seed}"
        job = TrainingJob.load(paths.job)
        absolute = {"dataset": job.dataset.resolve(), "output": folder}
        plain = {"mlflow": None, "last_good_steps": None, "health_limits": None}
        job = job.model_copy(update={**absolute, **plain, "seed": seed, "model": model})
        cost_file = folder / "cost.json"
        if not (cost_file.is_file() and TrainingJob.load(folder / "job.json") == job):
            folder.mkdir(parents=True, exist_ok=True)
            job.save(folder / "job.json")
            cost = self._train(SideJob(kind="product", output=str(folder), trainer_job=str(folder / "job.json")))
            steps = [json.loads(line)["rows"] for line in _lines(folder)]
            rate = 1e6 * cost.cpu_seconds / max(sum(steps), 1)
            cost_file.write_text(json.dumps([cost.seconds, cost.peak_mib, rate]), encoding="utf-8")
        return Trained(folder, job, *json.loads(cost_file.read_text(encoding="utf-8")))


def _lines(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("steps.jsonl")):
        yield from path.read_text(encoding="utf-8").splitlines()


def variants(names: Sequence[str], branches: bool) -> dict[str, Model]:
    """The models by name: the presets, and each branch of one alone."""
    found: dict[str, Model] = {}
    for name in names:
        found[name] = model = Model.model_validate({"preset": name})
        for branch in model.branches if branches else ():
            alone = {
                "branches": [],
                "fusion": None,
                "interactions": [part.model_dump() for part in branch.interactions],
            }
            hidden = model.hidden if branch.hidden is None else branch.hidden
            found[f"{name}: {branch.name} alone"] = Model.model_validate(
                {**model.model_dump(), **alone, "hidden": hidden}
            )
    return found


def latencies(world: World, paths: RetrainPaths, of: Trained, folder: Path) -> list[str]:
    """Parameters, and milliseconds of one core for a request of one and of many impressions."""
    files = RetrainFiles(replace(paths, training=of.folder))
    layout, test = world.dataset.layout, world.dataset.splits["test"]
    ranker = load_ranker(of.folder / "model.pt", layout, of.job.model)
    fitted = calibrators_of(world, files, False)
    spec = parse_spec(yaml.safe_dump(world.spec.model_dump(mode="json")), "spec").model_copy(
        update={"model": of.job.model}
    )
    bundle = export_bundle(ranker, fitted, layout, world.dataset.directory / "vocabulary.parquet", spec, folder)
    rows = slice(0, 20_000)
    cells = [f"{sum(parameter.numel() for parameter in ranker.parameters()):,}"]
    for candidates in (1, MANY):
        found = measure_latency(
            bundle, np.asarray(test.numeric[rows]), np.asarray(test.ids[rows]), candidates,
            processor_time=time.thread_time, pause=lambda: time.sleep(0.001),
        )  # fmt: skip
        cells.append(f"{found.p50:.2f} / {found.p99:.2f}")
    return cells


def suits(world: World, model: Model) -> str | None:
    """Why a model cannot be trained on the world's arrays; None where it can."""
    try:
        content = world.spec.model_dump(mode="json") | {"model": model.model_dump(mode="json")}
        Spec.model_validate(content)
        build_ranker(world.dataset.layout, model, 0)
    except (RankerError, SpecError, ValueError) as error:
        return str(error).splitlines()[-1]
    return None


def main() -> None:
    """Runs, trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=Path(__file__).resolve().parent.parent / "specs" / "ads.yaml")
    parser.add_argument("--input", nargs="+", default=[], help="real logs, as `ctr run --input` takes them")
    parser.add_argument("--presets", nargs="+", choices=tuple(PRESETS), default=list(PRESETS))
    parser.add_argument("--training-seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--no-branches", action="store_true", help="no branch alone")
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="changes of the spec")
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for the files; else they are removed")
    options = parser.parse_args()
    content = yaml.safe_load(options.spec.read_text(encoding="utf-8"))
    content = overridden(content, {"training.seed": options.training_seeds[0]})
    content["source"] = with_absolute_paths(content["source"], options.spec.resolve().parent)
    changes = (change.partition("=") for change in options.set)
    content = overridden(content, {path: yaml.safe_load(value) for path, _, value in changes})
    print(f"machine     {machine(RANKING)}\ncommand     {' '.join(sys.argv)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="presets-") as temporary:
        bench = Presets(options, (options.keep or Path(temporary)).resolve(), "ranking")
        try:
            compare(bench, content, options)
        except RunError as error:
            sys.exit(str(error))


def compare(bench: Presets, content: dict[str, Any], options: argparse.Namespace) -> None:
    """Runs one world and prints its tables."""
    world, paths = bench.run(content, "the spec as it is")
    models, own = variants(options.presets, not options.no_branches), "the spec's own"
    for name, reason in {name: suits(world, model) for name, model in models.items()}.items():
        if reason is not None:
            print(f"left out: {name}: {reason}", flush=True)
            del models[name]
    runs: list[Run] = []
    costs: list[list[object]] = []
    for name, model in {own: world.spec.model, **models}.items():
        of = []
        for seed in options.training_seeds:
            trained = bench.trained_model(paths, name, model, seed)
            files = RetrainFiles(replace(paths, training=trained.folder))
            for logged in files.position_modes:
                files.write_calibrators(calibrators_of(world, files, logged), logged_position=logged)
            runs += product_runs(world, files, name, trained.seconds, trained.peak_mib)
            of.append(trained)
        rate = float(np.median([trained.processor_seconds_a_million_rows for trained in of]))
        costs.append([name, *latencies(world, paths, of[0], bench.folder / "bundle"), f"{rate:.1f}"])
        print(f"trained: {name}; load {os.getloadavg()[0]:.1f}", flush=True)
    for task, title in enumerate(world.dataset.layout.tasks):
        found = measured(world, runs, task, options.replicates)
        print(f"\n{title}\n")
        print("\n".join(metrics_table(found)) + "\n")
        print("\n".join(differences_table(found, own)))
    print(f"\n| model | parameters | ms for 1, p50 / p99 | ms for {MANY}, p50 / p99 | processor s a million rows |")
    print("|---|---|---|---|---|")
    print("\n".join(row(cells) for cells in costs), flush=True)


if __name__ == "__main__":
    main()
