"""What a whole `ctr run` costs in processor seconds: by rows, not by days.

Three runs of one simulated log of conversions (0/1 column, numbers, categories, a rate of the past by channel):

- ``sparse``: the rows spread over 1,500 days;
- ``dense``: the same rows in 60 days;
- ``small``: the first 10,000 rows, in 60 days.

The seconds are user + system of `ctr run` and of every process that it started, as the kernel counted them; those of an
asset are what the processes used between its start and its end, read ten times a second. A machine whose cores are busy
with other work shows more: compare runs of the same minutes.

Run from the checkout::

    python benchmarks/run_cost.py [--rows 120000] [--sparse-days 1500] [--dense-days 60] [--small-rows 10000]
                                  [--only sparse dense small] [--keep FOLDER] [--assert]

``--assert`` exits with 1 where sparse costs more than 1.5 times dense, or small more than 20 seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import psutil
import yaml
from _machine import machine

MOST_RATIO, MOST_SMALL_SECONDS = 1.5, 20.0
DAY_US = 86_400_000_000
FIRST_US = 1_640_995_200 * 1_000_000  # 2022-01-01 UTC

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "conversions",
    "source": {"impressions": {"paths": ["log.parquet"]}},
    "impression": {"id": "case", "time": "ts", "user": "customer"},
    "features": {
        "dense": [{"name": "price", "transform": "signed_log1p", "minimum": 0}, {"name": "nights"}],
        "categorical": [{"name": "channel"}, {"name": "country", "min_count": 5}, {"name": "room"}],
        "history": [{"name": "channel_rate", "kind": "rate", "key": "channel", "task": "converted", "days": 28}],
    },
    "tasks": [{"name": "converted", "window": "0s", "label": {"column": "converted"}}],
    "split": {"test": {"fraction": 0.15}, "calibration": {"fraction": 0.1}, "validation": {"fraction": 0.05}},
}


def simulated_log(rows: int, days: int, seed: int = 7) -> pl.DataFrame:
    """Conversions whose probability follows from the features, evenly spread over ``days``."""
    random = np.random.default_rng(seed)
    channel, country = random.integers(0, 12, rows), random.zipf(1.6, rows).clip(1, 150)
    room, price, nights = random.integers(0, 9, rows), random.lognormal(4.5, 0.6, rows), random.poisson(3.0, rows)
    logit = -1.1 + 0.9 * np.sin(channel) + 0.4 * np.cos(country) - 0.5 * (np.log(price) - 4.5) + 0.15 * (nights - 3)
    # Each day has rows: the days are what the runs are to differ in.
    at = np.sort((np.arange(rows) + random.random(rows)) / rows)
    return pl.DataFrame(
        {
            "case": np.arange(rows),
            "ts": pl.Series((FIRST_US + at * days * DAY_US).astype(np.int64)).cast(pl.Datetime("us", "UTC")),
            "customer": random.integers(0, max(rows // 3, 1), rows),
            "price": price.round(2),
            "nights": nights,
            "channel": [f"channel {n}" for n in channel],
            "country": [f"country {n}" for n in country],
            "room": [f"room {n}" for n in room],
            "converted": (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8),
        }
    )


@dataclass(frozen=True)
class Cost:
    """Processor seconds of one run."""

    total: float
    """Of `ctr run` and all processes below it."""
    trainer: float
    """Of the processes below it, as far as they were seen."""
    wall: float
    assets: Mapping[str, float]
    """Of all processes, from the start of an asset to its end; ``start``, ``between`` and ``end`` are the rest."""


def measured_run(folder: Path, log: pl.DataFrame) -> Cost:
    """Runs the pipeline on a log in a new data root."""
    folder.mkdir(parents=True)
    log.write_parquet(folder / "log.parquet")
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("ctr")), "run", "--spec", "spec.yaml", "--data-root", "data"]
    began = time.monotonic()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--json", "report.json"],
            cwd=folder, stdout=output, stderr=output, env={**os.environ, "XDG_CONFIG_HOME": str(folder / "config")},
        )  # fmt: skip
        seen = Watch(process.pid)
        _, status, used = os.wait4(process.pid, 0)
    seen.stop()
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit((folder / "output.txt").read_text(encoding="utf-8")[-4000:])
    total = used.ru_utime + used.ru_stime
    return Cost(total, seen.below, time.monotonic() - began, _by_asset(folder, seen, total))


class Watch:
    """Reads ten times a second what a process and those below it have used so far."""

    def __init__(self, pid: int) -> None:
        self.instants: list[float] = []
        self.used: list[float] = []
        self.below = 0.0
        self._pid, self._stopped = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        """Ends the reading."""
        self._stopped.set()
        self._thread.join()

    def at(self, instant: float) -> float:
        """What was used by then."""
        place = bisect_right(self.instants, instant)
        return self.used[place - 1] if place else 0.0

    def _watch(self) -> None:
        by_process: dict[int, float] = {}
        while not self._stopped.wait(0.1):
            with suppress(psutil.Error):
                top = psutil.Process(self._pid)
                for process in (top, *top.children(recursive=True)):
                    with suppress(psutil.Error):
                        times = process.cpu_times()
                        by_process[process.pid] = times.user + times.system
            self.instants.append(time.time())
            self.used.append(sum(by_process.values()))
        self.below = sum(used for pid, used in by_process.items() if pid != self._pid)


def _by_asset(folder: Path, seen: Watch, total: float) -> dict[str, float]:
    """Seconds by asset, from the steps that Dagster recorded."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    steps = []
    with dg.DagsterInstance.from_config(str(folder / "data" / "dagster")) as instance:
        for run in report["dagster_runs"]:
            for step in instance.get_run_step_stats(run["run_id"]):
                if step.start_time and step.end_time:
                    steps.append((step.start_time, step.end_time, step.step_key))
    steps.sort()
    found: dict[str, float] = {"start": seen.at(steps[0][0])}
    for start, end, name in steps:
        found[name] = found.get(name, 0.0) + seen.at(end) - seen.at(start)
    last = seen.at(max(end for _, end, _ in steps))
    found["between"] = max(0.0, last - sum(found.values()))
    found["end"] = max(0.0, total - last)
    return found


def print_costs(costs: Mapping[str, Cost]) -> None:
    """A table with a column a run."""
    names = list(dict.fromkeys(name for cost in costs.values() for name in cost.assets))
    width = max(len(name) for name in names) + 2
    print("processor seconds".ljust(20) + "".join(f"{run:>10}" for run in costs))
    for name in names:
        print(name.ljust(max(width, 20)) + "".join(f"{cost.assets.get(name, 0.0):10.1f}" for cost in costs.values()))
    for name, values in (
        ("all", [cost.total for cost in costs.values()]),
        ("below ctr run", [cost.trainer for cost in costs.values()]),
        ("wall clock", [cost.wall for cost in costs.values()]),
    ):
        print(name.ljust(20) + "".join(f"{value:10.1f}" for value in values))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--sparse-days", type=int, default=1500)
    parser.add_argument("--dense-days", type=int, default=60)
    parser.add_argument("--small-rows", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=("sparse", "dense", "small"), default=("sparse", "dense", "small"))
    parser.add_argument("--keep", type=Path, help="folder for the logs and data roots; else they are removed")
    parser.add_argument("--assert", dest="required", action="store_true", help="exit with 1 above the limits")
    options = parser.parse_args(arguments)
    logs = {
        "dense": (options.rows, options.dense_days),
        "sparse": (options.rows, options.sparse_days),
        "small": (options.small_rows, options.dense_days),
    }
    print(machine())
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (rows, days) in logs.items():
            if name in options.only:
                print(f"{name}: {rows:,} rows in {days:,} days ...", flush=True)
                costs[name] = measured_run((options.keep or Path(temporary)) / name, simulated_log(rows, days))
    print_costs(costs)
    broken = False
    if {"sparse", "dense"} <= set(costs):
        ratio = costs["sparse"].total / costs["dense"].total
        print(f"sparse / dense: {ratio:.2f} (at most {MOST_RATIO})")
        broken |= ratio > MOST_RATIO
    if "small" in costs:
        print(f"small: {costs['small'].total:.1f} s (at most {MOST_SMALL_SECONDS})")
        broken |= costs["small"].total > MOST_SMALL_SECONDS
    return 1 if broken and options.required else 0


if __name__ == "__main__":
    sys.exit(main())
