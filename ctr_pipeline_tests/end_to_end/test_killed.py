"""`ctr run` killed at any instant: no table shows half a day, and the next run makes what is missing, to the row."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import psutil
import pytest
import yaml

from ctr_pipeline.lake import Lake
from ctr_pipeline_tests.end_to_end.fixtures import CTR, environment

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]
Tables = dict[str, dict[date, pl.DataFrame]]

TABLES = (
    "impressions",
    "impressions_quarantine",
    "outcome_events",
    "outcome_events_quarantine",
    "event_references_quarantine",
    "profile",
    "labels",
    "history",
)
STEPS = ("impressions", "outcome_events", "event_references", "profile", "labels", "history")
LAST = "2026-01-09"
"""The day before the last of the log."""

REFUSAL = "The log is too short to split"
LINE = re.compile(r"^\d\d:\d\d:\d\d  (\S+) +(.*)$", re.MULTILINE)


@dataclass
class Point:
    """Where a kill was aimed at: some seconds after a step began."""

    step: str
    after: float


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed."""

    expected: Tables
    logs: Mapping[str, bytes]
    seconds: Mapping[str, float]
    """How long each step took, with what follows until the next."""


@dataclass
class Killing:
    """One data root after another on which runs are started and killed."""

    spec: Path
    folder: Path
    config_home: Path
    undisturbed: Undisturbed
    landed: list[str] = field(default_factory=list)
    """For each kill, the step that was at work."""
    roots: int = 0
    _held: Path | None = None

    def root(self) -> Path:
        """The data root at work; a fresh one after :meth:`finish`."""
        if self._held is None:
            self.roots += 1
            self._held = self.folder / str(self.roots) / "data"
        return self._held

    def hit(self, point: Point) -> None:
        """Starts runs until one was killed at ``point``; each that ends before that is held against the undisturbed."""
        for _ in range(5):
            text = self._kill(point)
            if text is not None:
                self.landed.append(LINE.findall(text)[-1][0])
                shown = tables_of(self.root())
                for table, days in shown.items():
                    for day, rows in days.items():
                        assert rows.equals(self.undisturbed.expected[table][day]), (
                            f"{table} {day}, killed in {self.landed[-1]}"
                        )
                return
            self.check()
            self._held = None
        raise AssertionError(f"no run lasted {point.after:.2f} s from the start of {point.step}")

    def _kill(self, point: Point) -> str | None:
        """Standard error of a run killed at ``point``; None when it ended first."""
        path = self.folder / "stderr.txt"
        with path.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                command(self.spec, self.root()),
                env=environment(self.config_home),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
            try:
                started: float | None = None
                # However slow the machine is just now, the kill comes no later than with the step that follows.
                while process.poll() is None and not (started and time.monotonic() > started + point.after):
                    steps = [step for step, _ in LINE.findall(path.read_text(encoding="utf-8"))]
                    if point.step in steps:
                        started = started or time.monotonic()
                        if steps[-1] != point.step:
                            break
                    time.sleep(0.005)
                alive = process.poll() is None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = path.read_text(encoding="utf-8")
        assert alive or REFUSAL in text, text
        return text if alive else None

    def check(self) -> None:
        """The root's tables and simulated logs are those of the undisturbed run, and nothing else was left behind."""
        shown = tables_of(self.root())
        assert {table: sorted(days) for table, days in shown.items()} == {
            table: sorted(days) for table, days in self.undisturbed.expected.items()
        }
        for table, days in shown.items():
            for day, rows in days.items():
                assert rows.equals(self.undisturbed.expected[table][day]), (table, day)
        assert logs_of(self.root()) == self.undisturbed.logs


def command(spec: Path, root: Path) -> list[str]:
    return [str(CTR), "run", "--spec", str(spec), "--data-root", str(root), "--to", LAST]


def tables_of(root: Path) -> Tables:
    """Every row that the tables show, by day."""
    lake = Lake(root / "lake")
    return {
        table: {key[0]: rows for key, rows in lake.scan(table).collect().partition_by("day", as_dict=True).items()}
        for table in TABLES
        if lake.exists(table)
    }


def logs_of(root: Path) -> dict[str, bytes]:
    folder = root.parent / "simulated_logs"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """Ten days, too few for a training; some rows come twice, so that the quarantines hold some."""
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    content["source"]["simulator"].update(
        days=10, sessions_per_day=800, users=2000, queries=500, advertisers=50, ads=400, first_day="2026-01-01",
        incidents=[{"kind": "duplicated_delivery", "day": "2026-01-03"}, {"kind": "late_burst", "day": "2026-01-05"}],
    )  # fmt: skip
    for task in content["tasks"][1:]:
        task["window"] = "2d"
    content["split"] = {"test": {"days": 30}}
    content["quality"] = {"max_quarantine_share": 0.5}
    path = tmp_path_factory.mktemp("killed") / "killed.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(spec: Path, config_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    started: dict[str, float] = {}
    process = subprocess.Popen(
        command(spec, folder / "data"), env=environment(config_home), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := LINE.match(line):
            started.setdefault(found[1], time.monotonic())
    process.wait()
    assert REFUSAL in "".join(lines), "".join(lines)
    ends = [*list(started.values())[1:], time.monotonic()]
    seconds = {step: end - start for (step, start), end in zip(started.items(), ends, strict=True) if step in STEPS}
    assert tuple(seconds) == STEPS
    expected = tables_of(folder / "data")
    assert set(expected) == set(TABLES)
    may_be_empty = {"outcome_events_quarantine", "event_references_quarantine"}
    assert all(expected[table] for table in set(TABLES) - may_be_empty)
    return Undisturbed(expected, logs_of(folder / "data"), seconds)


@pytest.fixture
def killing(spec: Path, undisturbed: Undisturbed, config_home: Path, tmp_path: Path) -> Killing:
    return Killing(spec, tmp_path, config_home, undisturbed)


def test_a_run_killed_in_ingest_labels_and_history_is_taken_up_again(
    killing: Killing, spec: Path, ctr: Ctr, tmp_path: Path
) -> None:
    choose, seconds = random.Random(11), killing.undisturbed.seconds
    for step in ("impressions", "labels", "history"):
        killing.hit(Point(step, choose.uniform(0, 0.9) * seconds[step]))
    assert killing.roots == 1

    # The next run, with a day more, reads that day alone.
    root = killing.root()
    refused = ctr("run", "--spec", spec, "--data-root", root, expect=2)
    assert REFUSAL in refused.stderr
    read = [text for step, text in LINE.findall(refused.stderr) if step == "impressions" and "Reading" in text]
    assert read == ["Reading impressions of 1 days, 2026-01-10 to 2026-01-10"]
    with dg.DagsterInstance.from_config(str(root / "dagster")) as instance:
        statuses = {run.status for run in instance.get_runs()}
    assert statuses == {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
    shown = tables_of(root)
    # Labels see more than in the undisturbed run, which ended a day earlier.
    for table in (name for name in TABLES if name != "labels"):
        for day, rows in killing.undisturbed.expected[table].items():
            assert shown[table][day].equals(rows), (table, day)
    assert len(shown["labels"]) == 10


@pytest.mark.nightly
def test_thirty_kills_at_random_instants_change_no_row(killing: Killing) -> None:
    choose, seconds = random.Random(30), killing.undisturbed.seconds
    for _ in range(30):
        [step] = choose.choices(STEPS, weights=[seconds[name] for name in STEPS])
        killing.hit(Point(step, choose.uniform(0, seconds[step])))
    print({step: killing.landed.count(step) for step in sorted(set(killing.landed))}, killing.roots)
    assert {"impressions", "outcome_events", "labels", "history"} <= set(killing.landed)


@pytest.mark.nightly
def test_a_run_killed_in_its_training_keeps_no_slot_no_run_and_no_process(
    small_spec: Path, config_home: Path, ctr: Ctr, tmp_path: Path
) -> None:
    root, log, temporary = tmp_path / "data", tmp_path / "stderr.txt", tmp_path / "temporary"
    temporary.mkdir()
    arguments = ["run", "--spec", str(small_spec), "--data-root", str(root)]
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [str(CTR), *arguments],
            env=environment(config_home, {"TMPDIR": str(temporary)}),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        while process.poll() is None and "external process successfully opened" not in log.read_text(encoding="utf-8"):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # The trainer looks for its launcher once a second.
    deadline = time.monotonic() + 60
    while (left := trainers(root)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == []
    assert any((root / "spill").iterdir())
    ctr(*arguments, TMPDIR=str(temporary))
    # What torchrun and Pipes had open lies in the data root, where the next run removes it.
    assert list((root / "spill").iterdir()) == []
    assert list(temporary.iterdir()) == []
    with sqlite3.connect(root / "mlflow.db") as database:
        assert sorted(database.execute("select status from runs")) == [("FINISHED",), ("KILLED",)]


def trainers(root: Path) -> list[str]:
    """Command lines of the processes that train into ``root``."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if "ctr_pipeline.training.entry" in line and str(root) in line]
