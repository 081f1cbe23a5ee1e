import logging
from pathlib import Path

import pytest

from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.training.callbacks import JsonLines
from ctr_pipeline.training.job_spec import MlflowTarget
from ctr_pipeline.training.reporting import MlflowReport, ProgressLog, describe_epoch


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step, epoch=0, loss=0.5 + step, task_losses={"click": 0.25}, grad_norm=2.0, norm_ratio=None, clipped=False,
        skipped=False, learning_rate=1e-3, rows=100, layer_norms={"tower.0": 1.5, "head": 0.5},
    )  # fmt: skip


def test_progress_is_logged_every_two_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = ProgressLog(3, clock)
    with caplog.at_level(logging.INFO, "ctr_pipeline.training"):
        for step in range(50):
            clock.now += 0.1
            log.on_step(record(step), 50)
        log.on_epoch({"epoch": 0, "ne": 0.75})
    steps = [line for line in caplog.messages if "step" in line]
    assert len(steps) == 2
    assert "1,000 rows/s" in steps[0]
    assert "epoch 1 validated: ne 0.75000" in caplog.messages[-1]


def test_metrics_reach_mlflow_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    run = client.create_run(client.create_experiment("test", artifact_location=str(tmp_path)))
    clock = Clock()
    report = MlflowReport(MlflowTarget(tracking_uri=uri, run_id=run.info.run_id), 2, clock, lambda: 1_000)
    for step in range(4):
        report.on_step(record(step), 4)
    assert client.get_metric_history(run.info.run_id, "loss") == []
    clock.now = 6.0
    report.on_step(record(4), 4)
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")] == [0, 2, 4]
    report.on_epoch({"epoch": 0, "steps": 5, "ne": 0.8, "ne_click": None})
    metrics = client.get_run(run.info.run_id).data.metrics
    layers = {"grad_norm/tower.0": 1.5, "grad_norm/head": 0.5}
    assert metrics == {"loss": 4.5, "loss_click": 0.25, "grad_norm": 2.0, "lr": 1e-3, "validation_ne": 0.8, **layers}
    assert report.warning is None


def test_a_failing_mlflow_does_not_end_the_training(tmp_path: Path) -> None:
    target = MlflowTarget(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", run_id="0" * 32)
    report = MlflowReport(target, 1, Clock(), lambda: 1_000)
    report.on_step(record(0), 4)
    report.on_epoch({"epoch": 0, "steps": 1, "ne": 0.8})
    assert report.warning is not None
    report.on_epoch({"epoch": 1, "steps": 2, "ne": 0.8})


def test_json_lines_keep_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = JsonLines(path, 0)
    for number in range(3):
        first.write({"number": number})
    assert path.read_text().count("\n") == 3
    first.close()
    second = JsonLines(path, 2)
    second.write({"number": 7})
    second.close()
    assert path.read_text() == '{"number": 0}\n{"number": 1}\n{"number": 7}\n'
    JsonLines(path, 0).close()
    assert path.read_text() == ""


def test_of_branches_the_line_of_an_epoch_has_the_means() -> None:
    metrics = {"epoch": 0, "steps": 3, "ne": 0.7, "branch_deep_ne": 0.8, "branch_deep_ne_click": 0.75, "best_epoch": 0}
    assert describe_epoch(metrics | {"stopped_branches": []}) == "epoch 1 validated: ne 0.70000, branch_deep_ne 0.80000"
