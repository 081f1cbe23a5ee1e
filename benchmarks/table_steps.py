"""Label join, history features and transforms of a click funnel: the pipeline beside Spark on the same tables.

Both sides read the same lake of simulated impressions (39 columns) and outcome events, and do the same work:

1. labels of click, add to cart and checkout, as facts per day, written to the lake;
2. the history features of specs/ads.yaml on the daily grid, written to the lake;
3. examples: impressions with labels and history, numbers filled, transformed and made ready for training, ids encoded
   by a vocabulary fitted on the same rows.

The pipeline does 1 and 2 on DuckDB and packs 3 into memory-mapped arrays. Spark (local, all cores) does 1 and 2 with the
same Narwhals definitions, and 3 with its own functions, writing Parquet. Processor seconds and memory are those of all
processes of a side (Java's included), read ten times a second.

Run from the checkout, with the extra ``spark`` for Spark::

    python benchmarks/table_steps.py [--millions 10 20 100] [--spark-millions 20] [--days 20] [--keep FOLDER]

By default the pipeline takes 10, 20 and 100 million impressions and Spark 20 million, all of the same 20 days: an hour on
two cores, and 30 GB of disk. So each size has the same share of days with a past, and more rows are more traffic. Packing
holds a day, so the memory grows with the traffic: 5.5 GiB at 5 million a day. With ``--days 0`` each size has a million a
day: then the days of the smallest have hardly a past, and a row of more days costs more.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml
from _machine import machine

from ctr_pipeline.datasets import SplitBounds, Tables, TaskBounds, fit_vocabulary, pack_dataset
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.engines.base import EngineName, intervals_of
from ctr_pipeline.engines.factory import engine_session
from ctr_pipeline.features import HISTORY_ORDER, history_for_days, history_reach
from ctr_pipeline.labels import TABLE_ORDER, label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.assets.features import INTERVAL_DAYS as HISTORY_DAYS
from ctr_pipeline.orchestration.assets.labels import INTERVAL_DAYS as LABEL_DAYS
from ctr_pipeline.simulator import write_days
from ctr_pipeline.simulator.laws import SLOTS
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.fields import DAY_US

ADS = Path(__file__).resolve().parent.parent / "specs" / "ads.yaml"


def benchmark_settings(root: Path, millions: int, days: int, engine: EngineName) -> Deployment:
    """The features and tasks of specs/ads.yaml on the default world with that many impressions in that many days."""
    content = yaml.safe_load(ADS.read_text(encoding="utf-8"))
    content["source"] = {
        "simulator": {"sessions_per_day": millions * 1_000_000 // days // SLOTS, "days": max(days, 20)}
    }
    text = yaml.safe_dump(content)
    spec = parse_spec(text, "benchmark")
    first = spec.source.simulator.first_day if spec.source.simulator else date(2026, 1, 1)
    return Deployment(
        spec=spec,
        spec_text=text,
        spec_folder=root,
        data_root=root,
        event_inputs={},
        first_day=first,
        last_day=first + timedelta(days=days - 1),
        engine=engine,
    )


def days_of(settings: Deployment) -> list[date]:
    """The days of the benchmark."""
    assert settings.last_day is not None
    count = (settings.last_day - settings.first_day).days + 1
    return [settings.first_day + timedelta(days=n) for n in range(count)]


def make_lake(settings: Deployment) -> None:
    """Simulates the days and writes them into the lake, ids replaced by a hash.

    The readers of the package ``sources`` are left out: they are not what is measured.
    """
    import duckdb

    spec, lake, logs = settings.spec, Lake(settings.paths.lake), settings.data_root / "logs"
    assert spec.source.simulator is not None
    connection = duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(settings.data_root / "spill")})
    connection.execute("SET TimeZone = 'UTC'")
    hidden = {"user_id", "session_id", "impression_id"}

    def text(column: str) -> str:
        return f"md5({column})" if column in hidden else f"CAST({column} AS VARCHAR)"

    columns = ", ".join(
        [
            "md5(impression_id) AS impression_id, epoch_us(ts) AS ts, epoch_us(ingest_ts) AS ingest_ts",
            "md5(user_id) AS user, md5(session_id) AS session, CAST(position AS INTEGER) AS position",
            "CAST(traffic AS VARCHAR) AS traffic, CAST(NULL AS DOUBLE) AS propensity",
            *(f"CAST({f.source_column} AS DOUBLE) AS {f.name}" for f in spec.features.numeric),
            *(f"{text(f.source_column)} AS {f.name}" for f in spec.features.embedded),
        ]
    )
    arrived: dict[date, list[str]] = {}
    for day in days_of(settings):
        write_days(spec.source.simulator, spec.seed, [day], logs)
        shown, events = logs / "impressions" / f"{day}.parquet", logs / "events" / f"{day}.parquet"
        target = settings.paths.lake / "impressions" / f"day={day}" / "part.parquet"
        target.parent.mkdir(parents=True)
        rows = connection.sql(f"SELECT {columns} FROM '{shown}' ORDER BY ts, impression_id")
        rows.write_parquet(str(target), compression="zstd")
        lake.commit_files("impressions", {day: target}, [day])
        kept = connection.sql(
            "SELECT CAST(epoch_ms(epoch_us(ingest_ts) // 1000) AS DATE) AS day, md5(impression_id) AS impression_id, "
            "event_type AS event, 'outcome' AS kind, epoch_us(event_ts) AS event_ts, epoch_us(ingest_ts) AS ingest_ts "
            f"FROM '{events}'"
        )
        path = settings.data_root / "arrived" / f"{day}.parquet"
        path.parent.mkdir(exist_ok=True)
        kept.write_parquet(str(path))
        arrived.setdefault(day, []).append(str(path))
        shutil.rmtree(logs)
    # The simulator's event files are by day of arrival, save for what arrives after the last day.
    everything = connection.sql(f"SELECT * FROM '{settings.data_root / 'arrived'}/*.parquet'").pl()
    lake.replace_days("outcome_events", everything.sort("day", "ingest_ts"), everything["day"].unique().to_list())
    shutil.rmtree(settings.data_root / "arrived")


def end_of(day: date) -> int:
    """00:00 UTC after ``day`` in microseconds."""
    return ((day - date(1970, 1, 1)).days + 1) * DAY_US


def pipeline_steps(settings: Deployment) -> dict[str, Callable[[], None]]:
    """The three steps on the engine of the settings; the third packs."""
    spec, lake, days = settings.spec, Lake(settings.paths.lake), days_of(settings)
    as_of = end_of(days[-1]) + spec.longest_maturity

    def labels() -> None:
        with engine_session(settings.engine, settings.data_root, os.environ) as engine:
            for first, last in intervals_of(days, LABEL_DAYS):
                shown = engine.scan(lake, "impressions", first=first, last=last)
                events = engine.scan(lake, "outcome_events", first=first)
                table = label_table(shown, events, spec.tasks, as_of, spec.split.ingest_lag)
                engine.replace_days(lake, "labels", table, _days(first, last), TABLE_ORDER)

    def history() -> None:
        reach = timedelta(days=history_reach(spec))
        for first, last in intervals_of(days, HISTORY_DAYS):
            with engine_session(settings.engine, settings.data_root, os.environ) as engine:
                past = max(days[0], first - reach)
                shown = engine.scan(lake, "impressions", first=past, last=last)
                events = engine.scan(lake, "outcome_events", first=past, last=last)
                values = history_for_days(spec, shown, events, _days(first, last))
                engine.replace_days(lake, "history", values, _days(first, last), HISTORY_ORDER)

    def transforms() -> None:
        tables = Tables(**{name: lake.scan(name) for name in ("impressions", "labels", "history")})
        bounds = _bounds(spec, days, as_of)
        layout, vocabulary = fit_vocabulary(spec, bounds, tables.impressions, tables.history)
        pack_dataset(settings.data_root / "packed", spec, bounds, tables, layout, vocabulary, None, {})

    return {"labels": labels, "history": history, "transforms": transforms}


def spark_steps(settings: Deployment) -> dict[str, Callable[[], None]]:
    """The same on Spark; the third step with Spark's own functions, as a Spark user would write it."""
    steps = pipeline_steps(settings)

    def transforms() -> None:
        from pyspark.sql import functions as F  # noqa: N812
        from pyspark.sql.window import Window

        from ctr_pipeline.datasets import build_examples

        spec, lake, days = settings.spec, Lake(settings.paths.lake), days_of(settings)
        as_of = end_of(days[-1]) + spec.longest_maturity
        with engine_session(settings.engine, settings.data_root, os.environ) as engine:
            frames = [engine.scan(lake, name) for name in ("impressions", "labels", "history")]
            examples = build_examples(spec, frames[0], frames[1], frames[2], as_of)
            numbers = [*(f.name for f in spec.features.numeric), *(f.name for f in spec.features.history)]
            # One pass for the fill values, one for mean and deviation after fill and transform.
            medians = examples.agg(*(F.percentile_approx(name, 0.5, 100).alias(name) for name in numbers)).first()
            assert medians is not None
            for name in numbers:
                filled = F.coalesce(F.col(name), F.lit(medians[name] or 0.0))
                examples = examples.withColumn(f"{name}_missing", F.col(name).isNull().cast("int"))
                examples = examples.withColumn(name, F.signum(filled) * F.log1p(F.abs(filled)))
            moments = examples.agg(
                *(F.mean(name).alias(f"m_{name}") for name in numbers),
                *(F.stddev_pop(name).alias(f"s_{name}") for name in numbers),
            ).first()
            assert moments is not None
            for name in numbers:
                scaled = (F.col(name) - moments[f"m_{name}"]) / (moments[f"s_{name}"] or 1.0)
                examples = examples.withColumn(name, scaled.cast("float"))
            for feature in spec.features.embedded:
                counted = frames[0].groupBy(feature.name).count().filter(F.col("count") >= feature.min_count)
                order = Window.orderBy(F.desc("count"), F.col(feature.name))
                words = counted.select(feature.name, (F.row_number().over(order) + 1).alias(f"{feature.name}_row"))
                examples = examples.join(F.broadcast(words), on=feature.name, how="left")
            wanted = [*numbers, *(f"{name}_missing" for name in numbers)]
            wanted += [f"{f.name}_row" for f in spec.features.embedded]
            wanted += [f"y_{task.name}" for task in spec.tasks]
            packed = str(settings.data_root / "packed_by_spark")
            examples.select("day", "ts", *wanted).write.partitionBy("day").parquet(packed)

    return {**steps, "transforms": transforms}


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _bounds(spec: Spec, days: list[date], as_of: int) -> SplitBounds:
    """All days but the last three to train on: nearly every row is fitted, encoded and packed."""
    starts = [end_of(day) for day in days[-4:]]
    parts = TaskBounds(
        train_start=end_of(days[0]) - DAY_US,
        validation_start=starts[0],
        calibration_start=starts[1],
        settled_end=starts[2],
    )
    return SplitBounds(
        tasks={task.name: parts for task in spec.tasks},
        test_start=starts[2],
        test_end=starts[3],
        as_of=as_of,
    )


def run_side(root: Path, millions: int, days: int, side: str) -> None:
    """Runs the steps of a side in this process and prints the seconds of each as JSON."""
    settings = benchmark_settings(root, millions, days, "spark" if side == "spark" else "duckdb")
    steps = spark_steps(settings) if side == "spark" else pipeline_steps(settings)
    marks = {}
    for name, step in steps.items():
        began = time.perf_counter()
        step()
        marks[name] = [began, time.perf_counter()]
        print(json.dumps({"step": name, "seconds": marks[name][1] - began}), flush=True)


def measured(command: list[str]) -> dict[str, Any]:
    """Runs a command; processor seconds and largest memory of it and all its children, and what it printed."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched, seconds, peak = psutil.Process(process.pid), dict[int, float](), 0
    steps: dict[str, float] = {}
    marks: list[tuple[str, float]] = []
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    while process.poll() is None:
        size = 0
        with suppress(psutil.NoSuchProcess):
            for member in [watched, *watched.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    times = member.cpu_times()
                    seconds[member.pid] = times.user + times.system
                    size += member.memory_info().rss
        peak = max(peak, size)
        for line in iter(process.stdout.readline, ""):
            found = json.loads(line)
            marks.append((found["step"], sum(seconds.values())))
            steps[found["step"]] = found["seconds"]
        time.sleep(0.1)
    os.set_blocking(process.stdout.fileno(), True)
    for line in process.stdout.read().splitlines():
        found = json.loads(line)
        marks.append((found["step"], sum(seconds.values())))
        steps[found["step"]] = found["seconds"]
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    total, before, processor = sum(seconds.values()), 0.0, {}
    for name, after in marks:
        processor[name], before = after - before, after
    return {
        "cpu": total,
        "wall": time.perf_counter() - began,
        "peak": peak / 2**30,
        "steps": {name: {"cpu": processor[name], "wall": steps[name]} for name in steps},
    }


def main() -> None:
    """Makes a lake of each size, runs each side on it, and prints figures and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, nargs="*", default=[10, 20, 100], help="impressions for the pipeline")
    parser.add_argument("--spark-millions", type=int, nargs="*", default=[20], help="impressions for Spark")
    parser.add_argument("--days", type=int, default=20, help="days of each size; 0 for as many as millions")
    parser.add_argument("--keep", type=Path, help="folder for the files; lakes found there are used again")
    parser.add_argument("--side-of", nargs=4, metavar=("ROOT", "MILLIONS", "DAYS", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side_of:
        root, millions, of, side = arguments.side_of
        run_side(Path(root), int(millions), int(of), side)
        return
    print(f"machine   {machine(('duckdb', 'polars', 'narwhals'))}", flush=True)
    print(f"{'side':<10}{'rows':>13}{'CPU s':>9}{'µs a row':>10}{'wall s':>9}{'peak GiB':>10}   CPU s by step")
    base = arguments.keep or Path(tempfile.mkdtemp(prefix="table-steps-"))
    found: dict[tuple[str, int], float] = {}
    try:
        for millions in sorted({*arguments.millions, *arguments.spark_millions}):
            days = arguments.days or millions
            root = base / f"{millions}m_{days}d"
            if not (root / "lake" / "outcome_events").exists():
                shutil.rmtree(root, ignore_errors=True)
                make_lake(benchmark_settings(root, millions, days, "duckdb"))
            wanted = {"pipeline": arguments.millions, "spark": arguments.spark_millions}
            for side in (side for side, sizes in wanted.items() if millions in sizes):
                for made in ("packed", "packed_by_spark", "lake/labels", "lake/history", "spill"):
                    shutil.rmtree(root / made, ignore_errors=True)
                command = [sys.executable, __file__, "--side-of", str(root), str(millions), str(days), side]
                result = measured(command)
                rows = millions * 1_000_000
                found[side, millions] = result["cpu"] / rows
                steps = ", ".join(f"{name} {of['cpu']:.0f}" for name, of in result["steps"].items())
                print(
                    f"{side:<10}{rows:>13,}{result['cpu']:>9.1f}{result['cpu'] / rows * 1e6:>10.2f}"
                    f"{result['wall']:>9.1f}{result['peak']:>10.2f}   {steps}",
                    flush=True,
                )
            if arguments.keep is None:
                shutil.rmtree(root)
    finally:
        if arguments.keep is None:
            shutil.rmtree(base, ignore_errors=True)
    for millions in sorted(arguments.millions):
        if ("spark", millions) in found and ("pipeline", millions) in found:
            ratio = found["spark", millions] / found["pipeline", millions]
            print(f"Spark takes {ratio:.1f} times the processor seconds of the pipeline at {millions} M rows")
    small, large = min(arguments.millions, default=0), max(arguments.millions, default=0)
    if small < large:
        ratio = found["pipeline", large] / found["pipeline", small]
        print(f"A row costs {ratio:.2f} times as much at {large} M rows as at {small} M")


if __name__ == "__main__":
    main()
