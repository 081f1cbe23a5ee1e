"""`ctr calibrate-health` stores limits that the next training of the same settings reads."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ctr_pipeline.cli.app import app
from ctr_pipeline.commands.calibrate_health import CalibrationRunError, calibrate
from ctr_pipeline.commands.calibrate_health_text import print_limits
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.orchestration.prepared_training import _health_limits, _last_good_steps
from ctr_pipeline.training import TrainingJob, health_calibration
from ctr_pipeline.training.drilling.drilled_run import prepare_drill

DAY = "2026-01-02"


@pytest.fixture
def deployment(tmp_path: Path) -> Any:
    paths = DataRoot(tmp_path)
    retrain = paths.retrain(DAY)
    prepared = prepare_drill(None, 1, retrain.dataset)
    write_json(retrain.packed_manifest, {})
    job = prepared.job.model_copy(update={"output": retrain.training})
    job.save(retrain.job)
    return SimpleNamespace(paths=paths, data_root=tmp_path)


def test_limits_are_stored_and_read_by_trainings_of_the_same_settings(
    deployment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_calibration, "FEWEST_RUNS", 2)
    lines: list[str] = []
    found = calibrate(deployment, None, runs=2, epochs=1, budget=None, progress=lines.append)
    assert len(lines) == 2
    assert read_json(deployment.paths.health_limits) == found
    assert (found["day"], found["steps"]) == (DAY, 120)
    job = TrainingJob.load(deployment.paths.retrain(DAY).job)
    known = _health_limits(deployment, job)
    assert known is not None
    assert (known.limits, known.runs) == (found["limits"], 2)
    assert _health_limits(deployment, job.model_copy(update={"task_weights": {"click": 3.0}})) is None
    assert not list(deployment.data_root.glob("tmp*")), "nothing else is left"
    console = Console(record=True, width=140)
    print_limits(found, console)
    text = console.export_text()
    assert "From 2 healthy runs of the training of 2026-01-02, 120 steps" in text
    assert all(name in text for name in found["limits"])


def test_without_a_training_there_is_nothing_to_run_again(deployment: Any, tmp_path: Path) -> None:
    empty = SimpleNamespace(paths=DataRoot(tmp_path / "empty"), data_root=tmp_path / "empty")
    with pytest.raises(CalibrationRunError, match="no training yet"):
        calibrate(empty, None, runs=20, epochs=None, budget=None)
    with pytest.raises(CalibrationRunError, match="no training of 2026-01-03"):
        calibrate(deployment, "2026-01-03", runs=20, epochs=None, budget=None)


def test_the_last_good_run_is_the_newest_earlier_one_that_was_promoted_with_these_settings(deployment: Any) -> None:
    job = TrainingJob.load(deployment.paths.retrain(DAY).job)
    days = {"2026-01-03": True, "2026-01-04": False, "2026-01-05": True, "2026-01-06": True}
    for day, promoted in days.items():
        paths = deployment.paths.retrain(day)
        weights = {"click": 2.0} if day == "2026-01-05" else {}
        job.model_copy(update={"task_weights": weights}).save(paths.job)
        paths.steps.write_text("", encoding="utf-8")
        write_json(paths.release, {"promoted": promoted})

    def before(day: str) -> Path | None:
        return _last_good_steps(deployment, deployment.paths.retrain(day), job)

    assert before("2026-01-03") is None
    assert before("2026-01-05") == deployment.paths.retrain("2026-01-03").steps
    # That of the 5th had other settings, and one that is trained again is not compared with itself.
    assert before("2026-01-06") == deployment.paths.retrain("2026-01-03").steps
    assert before("2026-01-07") == deployment.paths.retrain("2026-01-06").steps


def test_the_command_says_what_is_wrong_with_its_options(tmp_path: Path) -> None:
    runner = CliRunner()
    for options, message in (
        (("--budget", "0"), "--budget must be above 0"),
        (("--day", "yesterday"), "--day 'yesterday'"),
        (("--runs", "19"), "--runs"),
        ((), "pipeline.json"),
    ):
        done = runner.invoke(app, ["calibrate-health", "--data-root", str(tmp_path), *options])
        assert done.exit_code == 2
        assert message in done.output.replace("\n", " ")
