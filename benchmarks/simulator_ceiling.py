"""LightGBM on the pipeline's own examples of the default simulated world, beside the world's Bayes ceiling.

The world must be hard enough to tell models apart: a model of the position alone must fail, and gradient boosting on
everything that the log shows, with the history features of specs/ads.yaml, must land below the ceiling.

Run from the checkout, with the extra ``benchmark`` installed::

    python benchmarks/simulator_ceiling.py [--days 24] [--sessions 30000] [--threads 2] [--keep FOLDER]

The world is that of the simulator's defaults; ``--days`` takes its last days only, ``--sessions`` thins its pages. The
logs go through the pipeline's packages (sources, lake, labels, history, split, packing) with the click as the one task, so
the maturity gap is a day. Files go to a temporary folder that is removed at the end, unless ``--keep`` names one.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from _machine import machine
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedDataset, SplitBounds, Tables, fit_vocabulary, pack_dataset, split_bounds
from ctr_pipeline.evaluation import evaluate
from ctr_pipeline.features import history_for_days, history_reach
from ctr_pipeline.labels import TABLE_ORDER, label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline.simulator import truth_report, write_days
from ctr_pipeline.sources import Pseudonymiser, read_events, read_impressions
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.simulator import SimulatorSettings

ADS = Path(__file__).resolve().parent.parent / "specs" / "ads.yaml"
KEY = Pseudonymiser(b"benchmark-of-a-simulated-world")
INTERVAL = 4
"""Days read in one go: bounds memory."""

PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 63,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 127,
    "verbosity": -1,
    "seed": 7,
}
ROUNDS, PATIENCE = 600, 40
MODELS: tuple[tuple[str, Sequence[str] | None, Sequence[str]], ...] = (
    ("position only", ("position",), ()),
    ("all but the position", None, ("position",)),
    ("all that the log shows", None, ()),
)
"""Label of each model, the columns that it uses (None: all), and those that it does not."""

LARGEST_CATEGORY = 60
"""Ids with more values are known to the trees through their history features only."""


@dataclass(frozen=True, slots=True)
class Made:
    """The packed examples and what belongs to them."""

    dataset: PackedDataset
    bounds: SplitBounds
    test_ids: pl.DataFrame
    simulated: Path
    days: list[date]


def benchmark_spec(sessions: int, days: int) -> Spec:
    """The features of specs/ads.yaml on the default world, with the click as the one task."""
    content = yaml.safe_load(ADS.read_text(encoding="utf-8"))
    content["name"] = "ceiling"
    content["source"] = {"simulator": {"sessions_per_day": sessions}}
    content["tasks"] = [task for task in content["tasks"] if task["name"] == "click"]
    content["features"]["history"] = [of for of in content["features"]["history"] if of.get("task") == "click"]
    # It concerns steps after the click.
    content.pop("label_quality", None)
    # The first week only gives the history of the training rows.
    content["split"] = {
        "test": {"days": 4},
        "calibration": {"days": 1},
        "validation": {"days": 1},
        "train_days": days - 15,
    }
    content["propensity"] = {"weighting": "none"}
    return parse_spec(yaml.safe_dump(content), "benchmark")


def make_examples(spec: Spec, count: int, root: Path) -> Made:
    """Simulates the last ``count`` days and takes them through the pipeline's packages."""
    world = spec.source.simulator
    assert world is not None
    days = [world.first_day + timedelta(days=n) for n in range(world.days - count, world.days)]
    lake, simulated = Lake(root / "lake"), root / "logs"
    step = _Stopwatch()
    write_days(world, spec.seed, days, simulated)
    step.done(f"simulated {len(days)} days")
    shown, events = (sorted((simulated / kind).glob("*.parquet")) for kind in ("impressions", "events"))
    for interval in _intervals(days):
        first, last = interval[0], interval[-1]
        lake.replace_days(
            "impressions", read_impressions(spec, shown, first, last, KEY, days[0]).kept, interval
        )  # fmt: skip
        lake.replace_days(
            "outcome_events",
            read_events(spec, shown, {"outcome_events": events}, first, last, KEY, days[0]).kept,
            interval,
        )
    step.done("read")
    as_of = ((days[-1] - date(1970, 1, 1)).days + 1) * DAY_US
    reach = timedelta(days=history_reach(spec))
    for interval in _intervals(days):
        first, last = interval[0], interval[-1]
        labelled = label_table(
            lake.scan("impressions", first=first, last=last).select("day", "impression_id", "ts", "ingest_ts"),
            lake.scan("outcome_events", first=first),
            spec.tasks,
            as_of,
            spec.split.ingest_lag,
        )
        lake.replace_days("labels", labelled.collect().sort("day", *TABLE_ORDER), interval)
        past = [lake.scan(table, first=first - reach, last=last) for table in ("impressions", "outcome_events")]
        lake.replace_days("history", history_for_days(spec, *past, interval).collect(), interval)
    step.done("labelled, history made")
    tables = Tables(**{name: lake.scan(name) for name in ("impressions", "labels", "history")})
    bounds = split_bounds(spec, tables.impressions.select("ts").collect()["ts"].to_numpy(), as_of)
    layout, vocabulary = fit_vocabulary(spec, bounds, tables.impressions, tables.history)
    dataset = pack_dataset(root / "packed", spec, bounds, tables, layout, vocabulary, None, {})
    start, end = bounds.intervals["test"]
    ids = (
        tables.impressions.filter(
            pl.col("ts").is_between(start, end, closed="left"), pl.col("ingest_ts") <= bounds.label_as_of("test")
        )
        .select("day", "ts", "impression_id")
        .sort("ts", "impression_id")
        .collect()
    )
    step.done("packed")
    return Made(dataset, bounds, ids, simulated, days)


def inputs(dataset: PackedDataset, split: str) -> tuple[NDArray[np.float32], list[str], list[int]]:
    """[N, D] position, numbers and small categories of a split, their names, and which columns are categories."""
    part, layout = dataset.splits[split], dataset.layout
    small = [n for n, column in enumerate(layout.ids) if column.rows <= LARGEST_CATEGORY]
    matrix = np.concatenate(
        [part.position[:, None].astype(np.float32), part.numeric, part.ids[:, small].astype(np.float32)], axis=1
    )
    names = ["position", *(column.name for column in layout.numeric), *(layout.ids[n].name for n in small)]
    return matrix, names, list(range(1 + len(layout.numeric), matrix.shape[1]))


def train(
    dataset: PackedDataset, only: Sequence[str] | None, but: Sequence[str], threads: int
) -> tuple[NDArray[np.float64], int]:
    """Click probabilities [N] of the test rows, and the number of trees; trained on train, stopped by validation.

    ``only`` names the columns to use, ``but`` those not to.
    """
    import lightgbm as lgb

    matrices = {}
    for split in ("train", "validation", "test"):
        matrix, names, categories = inputs(dataset, split)
        chosen = [n for n, name in enumerate(names) if name not in but and (only is None or name in only)]
        label = dataset.splits[split].labels[:, 0]
        settled = label >= 0
        rows = slice(None) if split == "test" else settled
        matrices[split] = (matrix[rows][:, chosen], label[rows])
    kinds = [chosen.index(n) for n in categories if n in chosen]
    settings: dict[str, Any] = {**PARAMETERS, "num_threads": threads, "metric": "binary_logloss"}
    fitting = lgb.Dataset(*matrices["train"], categorical_feature=kinds, params=settings)
    checking = lgb.Dataset(*matrices["validation"], reference=fitting, categorical_feature=kinds)
    model = lgb.train(
        settings, fitting, ROUNDS, [checking], callbacks=[lgb.early_stopping(PATIENCE, verbose=False)]
    )  # fmt: skip
    return np.asarray(model.predict(matrices["test"][0])), model.best_iteration


def main() -> None:
    """Makes the examples, trains both models and prints their scores beside the ceiling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--days", type=int, default=24, help="last days of the default world that are used, at least 18"
    )
    parser.add_argument("--sessions", type=int, default=SimulatorSettings().sessions_per_day)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="folder for the files")
    arguments = parser.parse_args()
    if arguments.days < 18:
        parser.error("--days: at least 18, for history, training, a gap and four test days")
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="simulator-ceiling-"))
    try:
        made = make_examples(benchmark_spec(arguments.sessions, arguments.days), arguments.days, root)
        report(made, arguments.threads)
    finally:
        if arguments.keep is None:
            shutil.rmtree(root)


def report(made: Made, threads: int) -> None:
    """Trains, compares with the truth, and prints."""
    splits = made.dataset.splits
    print(f"machine   {machine(('lightgbm', 'numpy', 'polars'))}")
    print(f"world     simulator defaults, {made.days[0]} to {made.days[-1]}")
    for name, split in splits.items():
        print(f"{name:<12}{len(split):>10,} rows  {int((split.labels[:, 0] == 1).sum()):>7,} clicks")
    test = splits["test"]
    tested = made.test_ids["day"].unique().sort()
    print(
        f"{'model':<26}{'AUC [95 %]':<24}{'AP [95 %]':<24}{'NE':>7}{'AUC*':>8}{'AP*':>8}{'captured':>10}{'trees':>7}{'s':>6}"
    )
    known: dict[str, Any] = {}
    for label, only, but in MODELS:
        began = time.perf_counter()
        probability, trees = train(made.dataset, only, but, threads)
        seconds = time.perf_counter() - began
        probability = np.clip(probability, 1e-7, 1 - 1e-7)
        found = evaluate(np.log(probability / (1 - probability)), test.labels[:, 0], test.user, seed=7)
        scores = made.test_ids.select("impression_id", score=pl.Series(probability))
        known = truth_report(made.simulated, tested[0], tested[-1], scores, KEY.expr)
        expected = known["scores"]
        print(
            f"{label:<26}{_interval(found.auc):<24}{_interval(found.ap):<24}{found.ne.value if found.ne else 0:>7.4f}"
            f"{expected['model']['auc']:>8.4f}{expected['model']['ap']:>8.4f}{expected['captured']:>10.1%}{trees:>7}{seconds:>6.0f}"
        )
    for name, ceiling in known["ceilings"].items():
        print(f"{'ceiling: ' + name:<74}{ceiling['ne']:>7.4f}{ceiling['auc']:>8.4f}{ceiling['ap']:>8.4f}")
    print("* in expectation over labels, from the true probabilities; observables: fitted on the test days")


def _interval(found: Any) -> str:
    return "–" if found is None else f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def _intervals(days: Sequence[date]) -> list[list[date]]:
    return [list(days[n : n + INTERVAL]) for n in range(0, len(days), INTERVAL)]


class _Stopwatch:
    """Prints how long each step took."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def done(self, what: str) -> None:
        now = time.perf_counter()
        print(f"{what}: {now - self._began:.0f} s", flush=True)
        self._began = now


if __name__ == "__main__":
    main()
