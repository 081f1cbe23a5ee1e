"""The real webserver and daemon, driven over GraphQL."""

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import psutil
import pytest

from ctr_pipeline_tests.end_to_end.fixtures import Servers
from ctr_pipeline_tests.end_to_end.test_continued import trained_anew


def _until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.25)
    raise AssertionError(f"within {seconds} s: {what}")


def _trainers(servers: Servers) -> list[psutil.Process]:
    """Processes that train for this data root."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        trains = "ctr_pipeline.training.entry" in words and any(str(servers.data_root) in word for word in words)
        if trains and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_one_partition_is_retrained_and_found_in_mlflow(servers: Servers) -> None:
    run_id = servers.launch("daily_retrain", "2026-01-16")
    assert servers.wait(run_id) == "SUCCESS"
    with sqlite3.connect(servers.data_root / "mlflow.db") as database:
        tagged = database.execute(
            "select run_uuid from tags where key = 'dagster.run_id' and value = ?", (run_id,)
        ).fetchall()
        statuses = [
            database.execute("select status from runs where run_uuid = ?", (run,)).fetchone()[0] for (run,) in tagged
        ]
    assert statuses == ["FINISHED"]


def test_a_failing_check_of_a_successful_run_reaches_the_notifier(servers: Servers) -> None:
    day = "2026-01-16"
    [log] = (servers.data_root.parent / "simulated_logs").glob(f"*/impressions/{day}.parquet")
    rows = pl.read_parquet(log)
    pl.concat([rows, rows.head(5)]).write_parquet(log)

    run_id = servers.launch("daily_ingest", day)

    assert servers.wait(run_id) == "SUCCESS"
    _until(lambda: _alerts(servers, run_id), 90, "an alert of the run in the notifier")
    [alert] = _alerts(servers, run_id)
    assert (alert["asset"], alert["check"], alert["severity"]) == ("impressions", "quarantine_share", "WARN")
    assert f"5 of {rows.height + 5} rows were quarantined (duplicate_id: 5)" in str(alert["message"])


def test_a_refused_retrain_reaches_the_notifier(servers: Servers) -> None:
    run_id = servers.launch("daily_retrain", "2026-01-03")

    assert servers.wait(run_id) == "FAILURE"
    _until(lambda: _alerts(servers, run_id), 90, "an alert of the failed run in the notifier")
    assert "run_failure" in {alert["kind"] for alert in _alerts(servers, run_id)}


def _alerts(servers: Servers, run_id: str) -> list[dict[str, object]]:
    path = servers.data_root / "notifications.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [alert for alert in map(json.loads, lines) if alert["run_id"] == run_id]


def test_terminating_a_training_leaves_no_process(servers: Servers) -> None:
    run_id = servers.launch("daily_retrain", "2026-01-15")
    _until(lambda: _trainers(servers), 120, "a running trainer")
    answer = servers.query(
        """mutation($r: String!) { terminateRun(runId: $r) {
             __typename ... on TerminateRunFailure { message } } }""",
        r=run_id,
    )["terminateRun"]
    assert answer["__typename"] == "TerminateRunSuccess", answer
    assert servers.wait(run_id, 60) == "CANCELED"
    _until(lambda: not _trainers(servers), 20, f"no trainer left, found {_trainers(servers)}")


@pytest.mark.nightly
def test_a_killed_step_is_continued_by_the_next_run(servers: Servers, tmp_path: Path) -> None:
    day = "2026-01-14"
    training = servers.data_root / "training" / day
    killed = servers.launch("daily_retrain", day)
    _until((training / "checkpoint.pt").is_file, 300, "a checkpoint")
    [trainer] = _trainers(servers)
    step = trainer.parent()
    assert step is not None
    step.kill()
    assert servers.wait(killed, 300) == "FAILURE"
    assert _trainers(servers) == []
    assert not (training / "result.json").exists()

    run_id = servers.launch("daily_retrain", day)

    # The slot of the pool that the killed run held is freed a minute after its end.
    servers.wait(run_id, 600)
    with sqlite3.connect(servers.data_root / "mlflow.db") as database:
        [(mlflow_run,)] = database.execute(
            "select run_uuid from tags where key = 'dagster.run_id' and value = ?", (run_id,)
        )
        resumed = list(database.execute("select value from tags where key = 'resumed' and run_uuid = ?", (mlflow_run,)))
    assert resumed == [("true",)]
    result = json.loads((training / "result.json").read_text(encoding="utf-8"))
    assert result["model_sha256"] == trained_anew(training, tmp_path / "again")
