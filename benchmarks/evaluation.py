"""The evaluation of a retrain with many test rows: time of each part, and the largest memory of the process.

It makes a retrain's files as the steps before leave them: test rows of the features and tasks of specs/ads.yaml, with users,
sessions, traffic and a champion, and a tenth as many rows in each of the other splits. Then it does what the asset
``evaluation`` does: the table ``scores``, all metrics of all splits, those of the test looked at otherwise and of other models,
the days, the declared slices and those found by search, revenue, the floor, all plots, and the page. Not in it: scoring the
test rows with the champion, and MLflow.

Run from the checkout::

    python benchmarks/evaluation.py [--rows 1000000] [--keep FOLDER]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from _machine import machine
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration import fit_calibrators
from ctr_pipeline.datasets import SPLITS, PackedSplit, SplitBounds, Tables, TaskBounds, write_split
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.deployment.retrain_files import ExamplesView, RetrainFiles, TrackedRun
from ctr_pipeline.features import Layout
from ctr_pipeline.features.layout import IdColumn, NumericColumn
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.assets.evaluation import draw_plots
from ctr_pipeline.orchestration.assets.measures import Measures
from ctr_pipeline.orchestration.assets.scores import write_scores
from ctr_pipeline.orchestration.assets.slices import measured_slices
from ctr_pipeline.orchestration.gates import floor_of
from ctr_pipeline.orchestration.report_pages import write_page
from ctr_pipeline.spec import Spec, parse_spec

ADS = Path(__file__).resolve().parent.parent / "specs" / "ads.yaml"
DAY_US = 86_400_000_000
DAY = "2026-02-20"
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
BASES = (-4.6, -5.3, -6.0)
"""Logits of the rates of the three tasks, about: 1 %, .5 % and .25 %."""
Result = TypeVar("Result")
TEST_DAYS, SLOTS, VALUES = 5, 5, 40


def benchmark_spec() -> Spec:
    """specs/ads.yaml with costs."""
    text = ADS.read_text(encoding="utf-8")
    return parse_spec(
        text.replace("\nevaluation:\n", "\nevaluation:\n  costs: [{task: click, cost: 1, value: 60}]\n"), "ads"
    )


def _layout(spec: Spec) -> Layout:
    numbers = spec.features.one_number
    return Layout(
        numeric=tuple(NumericColumn(name, "dense", "none", 0.0, False, 0.0, 1.0) for name in numbers),
        ids=tuple(IdColumn(name, "categorical", VALUES + 2, 4) for name in spec.features.single),
        tasks=tuple(task.name for task in spec.tasks),
        parents=(-1, 0, 1),
    )


def _split(
    draw: np.random.Generator, layout: Layout, rows: int, first: int, days: int
) -> tuple[PackedSplit, NDArray[np.float64]]:
    """Rows in order of time, and their true logits [rows, 3] given all but the user."""
    rows -= rows % SLOTS
    sessions = rows // SLOTS
    ts = np.sort(draw.integers(START + first * DAY_US, START + (first + days) * DAY_US, sessions)).repeat(SLOTS)
    user = draw.integers(0, max(rows // 7, 1), sessions).repeat(SLOTS)
    position = np.tile(np.arange(1, SLOTS + 1), sessions).astype(np.int16)
    logits = draw.normal(0, 1, rows)[:, None] - 0.25 * position[:, None] + np.array(BASES)
    outcome = draw.random(rows)[:, None] < special.expit(logits + draw.normal(0, 0.5, rows)[user][:, None])
    numeric = draw.normal(size=(rows, len(layout.numeric))).astype(np.float32)
    numeric[draw.random(rows) < 0.3, -1] = np.nan
    split = PackedSplit(
        numeric=numeric,
        ids=(draw.zipf(1.3, (rows, len(layout.ids))) % VALUES + 2).astype(np.int32),
        labels=outcome.astype(np.int8),
        weights=np.ones((rows, len(layout.tasks)), np.float32),
        ts=ts,
        user=user,
        position=position,
        random=(draw.random(sessions) < 0.1).repeat(SLOTS),
    )
    return split, logits


def make(root: Path, rows: int) -> None:
    """Writes the files that the steps before the evaluation leave."""
    spec, paths, draw = benchmark_spec(), DataRoot(root).retrain(DAY), np.random.default_rng(0)
    layout, files, tasks = _layout(spec), RetrainFiles(paths), [task.name for task in spec.tasks]
    paths.packed.mkdir(parents=True)
    (paths.training / "scores").mkdir(parents=True)
    firsts = {"train": (0, 20), "validation": (20, 2), "calibration": (22, 3), "test": (40, TEST_DAYS)}
    instant = {name: START + first * DAY_US for name, (first, _) in firsts.items()}
    ends = START + 25 * DAY_US
    parts = TaskBounds(
        train_start=instant["train"], validation_start=instant["validation"],
        calibration_start=instant["calibration"], settled_end=ends,
    )  # fmt: skip
    as_of = START + 60 * DAY_US
    test_end = instant["test"] + TEST_DAYS * DAY_US
    bounds = SplitBounds(tasks=dict.fromkeys(tasks, parts), test_start=instant["test"], test_end=test_end, as_of=as_of)
    shown = []
    for name in SPLITS:
        split, logits = _split(draw, layout, rows if name == "test" else rows // 10, *firsts[name])
        write_split(paths.packed, name, split)
        for logged in (False, True) if name != "train" else ():
            known = 0.0 if logged else 0.25 * (split.position[:, None] - 3)
            scores = logits + known + draw.normal(0, 0.3, len(split))[:, None]
            np.save(paths.scores(name, logged_position=logged), scores.astype(np.float32))
            if name == "calibration":
                fitted = fit_calibrators(spec.calibration, tasks, scores, split.labels, layout=layout, ids=split.ids)
                files.write_calibrators(fitted, logged_position=logged)
        if name == "test":
            np.save(root / "champion.npy", logits + draw.normal(0, 0.5, len(split))[:, None])
        session = np.arange(len(split)) // SLOTS
        shown.append(
            pl.DataFrame({
                "day": pl.Series(split.ts // DAY_US).cast(pl.Int32).cast(pl.Date), "ts": split.ts,
                "ingest_ts": split.ts, "impression_id": [f"{len(shown):02x}{n:030x}" for n in range(len(split))],
                "traffic": np.where(split.random, "random", "production"),
                "user": [f"{n:032x}" for n in split.user], "session": [f"{len(shown):02x}{n:030x}" for n in session],
            })
        )  # fmt: skip
    pl.concat(shown).write_parquet(root / "impressions.parquet")
    (paths.packed / "layout.json").write_text(layout.to_json(), encoding="utf-8")
    values = pl.DataFrame({"row": np.arange(2, VALUES + 2), "key": [f"value {n}" for n in range(VALUES)]})
    vocabulary = pl.concat([values.with_columns(feature=pl.lit(column.name)) for column in layout.ids])
    vocabulary.write_parquet(paths.packed / "vocabulary.parquet")
    files.write_vocabulary(layout, vocabulary)
    write_json(paths.packed_manifest, {"splits": {}})
    files.write_examples(ExamplesView(as_of=as_of, versions={}, bounds=bounds, watermarks={}, stopped_logs={}))
    files.write_mlflow_run(TrackedRun(run_id="benchmark", tracking_uri="", url=""))
    write_json(paths.result, {"status": "finished", "model_sha256": "benchmark", "best_validation_ne": 0.9})


def measure(root: Path) -> dict[str, float]:
    """Does what the asset does; the seconds of each part."""
    spec, paths, seconds = benchmark_spec(), DataRoot(root).retrain(DAY), dict[str, float]()
    impressions = pl.scan_parquet(root / "impressions.parquet")
    tables = Tables(impressions=impressions, labels=impressions, history=impressions)
    measures = Measures(spec, paths, tables, np.load(root / "champion.npy"))

    def timed(name: str, of: Callable[[], Result]) -> Result:
        began = time.perf_counter()
        found = of()
        seconds[name] = time.perf_counter() - began
        return found

    timed("table scores", lambda: write_scores(spec, paths, Lake(root / "lake"), tables, DAY))
    metrics = timed("metrics of the splits", measures.splits)
    otherwise = timed("looked at otherwise", measures.otherwise)
    references = timed("other models", measures.references)
    further = {
        "test_by_day": timed("by day", measures.by_day),
        "slices_found": timed("search of slices", measures.searched_slices),
        "ranking_revenue": timed("revenue", measures.revenue),
        "test_references": {name: {task: m.to_json() for task, m in of.items()} for name, of in references.items()},
    }
    timed("plots", lambda: draw_plots(spec, paths, metrics))
    floor = timed("floor", lambda: floor_of(spec, paths))
    slices = timed("slices", lambda: measured_slices(spec, paths))
    content = {task: {split: m.to_json() for split, m in of.items()} for task, of in metrics.items()}
    others = {name: {task: m.to_json() for task, m in of.items()} for name, of in otherwise.items()}
    RetrainFiles(paths).write_evaluation(content, others, floor.to_json(), slices, further)
    model = {"sha256": "benchmark", "folder": str(paths.training)}
    report = {"spec": {"name": "ads"}, "days": {"last": DAY}, "model": model, **read_json(paths.evaluation)}
    timed("page", lambda: write_page(report, paths.training / "report.html"))
    return seconds


def main() -> None:
    """Makes the files in one process and measures another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="test rows")
    parser.add_argument("--keep", type=Path, help="folder for the files; a temporary one by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        seconds = measure(options.measure)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "processor": time.process_time(), "peak": peak}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary) / "data"
        make(root, options.rows)
        print(machine(("numpy", "scipy", "matplotlib", "polars")))
        command = [sys.executable, __file__, "--measure", str(root)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for name, seconds in found["seconds"].items():
        print(f"{name:24}{seconds:8.1f} s")
    print(
        f"{'all':24}{sum(found['seconds'].values()):8.1f} s ({found['processor']:.1f} processor seconds), peak {found['peak'] / 2**30:.2f} GiB, {options.rows:,} test rows"
    )


if __name__ == "__main__":
    main()
