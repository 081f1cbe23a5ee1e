"""How many misreporting advertisers of the simulated marketplace are found, by the number of their clicks.

Some simulated advertisers fire conversions that did not happen, some drop 80 % of them, some report days late; the
truth tables say which. The logs go through the pipeline's own labels, are evaluated as by a retrain, and the
statuses are compared with the truth. Beside them stand the statuses on the same worlds without misreporting: the true
outcomes instead of the logged ones, where every flag is false.

Run from the checkout::

    python benchmarks/label_quality.py [--funnel credit] [--worlds 8] [--days 20] [--sessions 40000] [--min-trials 10]
        [--threshold 2.5]

Files go to a temporary folder, one world at a time.
"""

import argparse
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from ctr_pipeline.datasets import SplitBounds, TaskBounds
from ctr_pipeline.datasets.quality_counts import fit_label_quality
from ctr_pipeline.labels import label_table
from ctr_pipeline.simulator import log_paths, write_days
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.simulator import SimulatorSettings

SPECS = {"checkout": "ads", "credit": "credit"}
EDGES = (1, 20, 50, 100, 200, 500)
"""Settled clicks of an advertiser, in classes that begin here."""


def main() -> None:
    """Evaluates the worlds that the command line asks for and prints what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--funnel", choices=sorted(SPECS), default="credit")
    parser.add_argument("--worlds", type=int, default=8)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=40_000)
    parser.add_argument("--min-trials", type=int, default=10)
    parser.add_argument("--threshold", type=float, default=2.5)
    arguments = parser.parse_args()
    logged, true = [], []
    for seed in range(arguments.worlds):
        settings = SimulatorSettings(
            funnel=arguments.funnel, days=arguments.days, sessions_per_day=arguments.sessions, users=20_000, ads=6_000
        )
        spec = evaluating_spec(arguments.funnel, arguments.min_trials, arguments.threshold)
        with tempfile.TemporaryDirectory() as folder:
            days = [settings.first_day + timedelta(days=number) for number in range(settings.days)]
            write_days(settings, seed, days, Path(folder))
            impressions, events, truth = read(Path(folder), spec)
        kinds = kinds_of(impressions, truth)
        for statuses, rows in ((logged, events), (true, true_events(truth, spec))):
            found = evaluate(spec, impressions, rows).with_columns(world=pl.lit(seed))
            statuses.append(found.join(kinds, on="key", how="left"))
    print(f"{arguments.worlds} worlds of {arguments.days} days with {arguments.sessions:,} pages a day, ", end="")
    print(f"funnel {arguments.funnel}, at least {arguments.min_trials} trials, |z| above {arguments.threshold:g}\n")
    print("\n".join(found_table(pl.concat(logged), arguments.threshold)))
    print("\nWithout misreporting:\n")
    print("\n".join(false_table(pl.concat(true), arguments.threshold)))


def evaluating_spec(funnel: str, min_trials: int, threshold: float) -> Spec:
    """The bundled spec of the funnel, which evaluates advertisers."""
    path = Path(__file__).resolve().parent.parent / "specs" / f"{SPECS[funnel]}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = [feature["name"] for feature in content["features"]["categorical"]]
    if "advertiser_id" not in names:
        content["features"]["categorical"].append({"name": "advertiser_id"})
    content["label_quality"] = {"key": "advertiser_id", "min_trials": min_trials, "threshold": threshold}
    return parse_spec(yaml.safe_dump(content), where=path.name)


def read(root: Path, spec: Spec) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Impressions that were clicked, logged outcomes and truth; the others have no trial of a task with a parent."""
    impression_files, event_files = log_paths(root)
    tasks = {task.label.event: task.name for task in spec.tasks}
    times = [pl.col(name).dt.epoch("us") for name in ("event_ts", "ingest_ts")]
    events = (
        pl.read_parquet(event_files)
        .select("impression_id", *times, event=pl.col("event_type").replace_strict(tasks), kind=pl.lit("outcome"))
        .unique(["impression_id", "event", "event_ts"])
    )
    truth = pl.read_parquet(root / "truth" / "*.parquet").filter(pl.col("click_ts").is_not_null())
    impressions = (
        pl.scan_parquet(impression_files)
        .join(events.lazy().select("impression_id"), on="impression_id", how="semi")
        .unique("impression_id")
        .select("impression_id", "advertiser_id", *(pl.col(name).dt.epoch("us") for name in ("ts", "ingest_ts")))
        .with_columns(day=pl.from_epoch("ts", "us").dt.date())
        .collect()
    )
    return impressions, events, truth


def true_events(truth: pl.DataFrame, spec: Spec) -> pl.DataFrame:
    """The outcomes that truly happened, known at once."""
    return pl.concat(
        truth.filter(pl.col(f"{task.name}_ts").is_not_null()).select(
            "impression_id",
            event=pl.lit(task.name),
            kind=pl.lit("outcome"),
            event_ts=pl.col(f"{task.name}_ts").dt.epoch("us"),
            ingest_ts=pl.col(f"{task.name}_ts").dt.epoch("us"),
        )
        for task in spec.tasks
    )


def kinds_of(impressions: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """How each advertiser reports, and its clicks."""
    return (
        impressions.join(truth.select("impression_id", kind=pl.col("advertiser_noise").cast(pl.String)), on="impression_id")
        .group_by(key="advertiser_id")
        .agg(pl.col("kind").first(), clicks=pl.len())
    )  # fmt: skip


def evaluate(spec: Spec, impressions: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """All advertisers and tasks, evaluated once every label has settled."""
    first = int(datetime.combine(impressions["day"].min(), datetime.min.time(), UTC).timestamp()) * 1_000_000  # type: ignore[arg-type]
    end = int(impressions["ts"].max() or 0) + 1
    as_of = end + spec.longest_maturity
    parts = TaskBounds(train_start=first, validation_start=end - 2, calibration_start=end - 1, settled_end=end)
    bounds = SplitBounds(
        tasks={task.name: parts for task in spec.tasks},
        test_start=as_of, test_end=as_of + DAY_US, as_of=as_of + DAY_US + spec.longest_maturity,
    )  # fmt: skip
    labels = label_table(impressions.lazy(), events.lazy(), spec.tasks, as_of, spec.split.ingest_lag)
    return fit_label_quality(spec, bounds, impressions.lazy(), labels.collect().lazy())[1]


def found_table(rows: pl.DataFrame, threshold: float) -> Iterator[str]:
    """Markdown: of the advertisers of each class of clicks, how many misreport and how many were found."""
    yield (
        "| clicks | advertisers | inflating | found | dropping | found | flagged | precision | weight if right "
        "| if wrong | late | found | wrongly late |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    # A row an advertiser: one flagged task is enough.
    each = rows.group_by("world", "key").agg(
        pl.col("kind", "clicks").first(),
        inflated=(pl.col("status") == "inflated").any(),
        flagged=pl.col("status").is_in(["inflated", "dropped"]).any(),
        weight=pl.col("weight").min(),
        late=(pl.col("delay_z") > threshold).any(),
    )  # fmt: skip
    for number, low in enumerate(EDGES):
        high = EDGES[number + 1] - 1 if number + 1 < len(EDGES) else None
        own = each.filter(pl.col("clicks") >= low, pl.lit(True) if high is None else pl.col("clicks") <= high)
        inflating, dropping = own.filter(pl.col("kind") == "inflate"), own.filter(pl.col("kind") == "drop")
        flagged, late = own.filter("flagged"), own.filter(pl.col("kind") == "late")
        misreports = pl.col("kind").is_in(["inflate", "drop"])
        right, wrong = flagged.filter(misreports), flagged.filter(~misreports)
        cells = [
            f"{low}–{high}" if high else f"{low} or more", own.height,
            inflating.height, inflating.filter("flagged").height, dropping.height, dropping.filter("flagged").height,
            flagged.height, f"{right.height / flagged.height:.0%}" if flagged.height else "–",
            *(f"{part['weight'].mean():.2f}" if part.height else "–" for part in (right, wrong)),
            late.height, late["late"].sum(), own.filter(pl.col("kind") != "late")["late"].sum(),
        ]  # fmt: skip
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


def false_table(rows: pl.DataFrame, threshold: float) -> Iterator[str]:
    """Markdown: of the evaluated advertisers, how many are flagged though all report truly."""
    yield "| task | evaluated | flagged | share | deviation of z |"
    yield "|---|---|---|---|---|"
    for (task,), own in rows.filter(pl.col("status") != "not evaluated").group_by("task", maintain_order=True):
        flagged = int((own["z"].abs() > threshold).sum())
        z = own["z"].to_numpy()
        yield f"| {task} | {own.height} | {flagged} | {flagged / own.height:.2%} | {np.std(z):.2f} |"


if __name__ == "__main__":
    main()
