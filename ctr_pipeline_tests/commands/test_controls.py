"""`ctr controls` trains single-task controls on the arrays of the run, once, and compares the model with them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from ctr_pipeline.cli.app import app
from ctr_pipeline.commands import ablate, controls, further_trainings
from ctr_pipeline.commands.controls import compare_tasks, control_job
from ctr_pipeline.commands.controls_text import negative_transfer, print_comparisons
from ctr_pipeline.commands.further_trainings import FurtherTraining, FurtherTrainingError
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.ranker import build_ranker, save_ranker
from ctr_pipeline.spec.calibration import CrossValidated
from ctr_pipeline.spec.model import Model
from ctr_pipeline.training import TrainingJob, entry
from ctr_pipeline.training.drilling.drilled_run import prepare_drill
from ctr_pipeline.training.execution import ProcessContext, execute
from ctr_pipeline_tests.spec.changes import GOOD

DAY = "2026-01-02"


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A data root whose retrain is trained on made-up rows, named by a relative path."""
    monkeypatch.chdir(tmp_path)
    paths = DataRoot(Path("data"))
    retrain = paths.retrain(DAY)
    prepared = prepare_drill(None, 1, retrain.dataset)
    write_json(retrain.packed_manifest, {})
    job = prepared.job.model_copy(
        update={
            "output": retrain.training,
            "task_weights": {"cart": 0.1},
            "training": prepared.job.training.model_copy(update={"epochs": 1}),
        }
    )
    absolute = {"dataset": job.dataset.resolve(), "output": retrain.training.resolve()}
    job.model_copy(update=absolute).save(retrain.job)
    write_json(retrain.result, {"status": "finished"})
    for split in ("calibration", "test"):
        retrain.scores(split).parent.mkdir(exist_ok=True)
        retrain.scores(split).touch()
    spec = SimpleNamespace(calibration=CrossValidated(), serving=SimpleNamespace(score=None))
    return SimpleNamespace(paths=paths, data_root=Path("data"), spec=spec)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings without processes of their own, which would take most of the time."""

    def run(command: list[str], **_: Any) -> Any:
        job = TrainingJob.load(Path(command[-1]))
        result: dict[str, Any] = {"warnings": [], "seed": job.seed}
        alone = ProcessContext(
            rank=0, local_rank=0, world=1, under_pipes=False, clock=lambda: 0.0, milliseconds=lambda: 0,
            cancelled=lambda: False,
        )  # fmt: skip
        code = execute(job, False, alone, result)
        entry._write_result(job.output, result)
        return SimpleNamespace(returncode=code, stderr="")

    monkeypatch.setattr(further_trainings.subprocess, "run", run)
    yield
    torch.use_deterministic_algorithms(False)


def test_controls_are_trained_once_and_compared(deployment: Any, in_this_process: None) -> None:
    retrain = deployment.paths.retrain(DAY)
    job = TrainingJob.load(retrain.job)
    own = retrain.job.read_bytes()
    further_trainings.train(FurtherTraining("the run", job.model_copy(update={"output": Path("own").resolve()})))
    for name in ("result.json", "scores/calibration.npy", "scores/test.npy"):
        target = retrain.training / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((Path("own") / name).read_bytes())
    layout = PackedDataset.open(job.dataset).layout
    save_ranker(retrain.model, build_ranker(layout, job.model, 3), layout)
    lines: list[str] = []
    found = compare_tasks(deployment, None, progress=lines.append)
    assert [line.split(": ")[-1] for line in lines] == [
        "control of click, seed 1", "control of cart, seed 1", "gradients of the tasks on what they share",
    ]  # fmt: skip
    assert [(own["side"], own["task"]) for own in found["comparisons"]] == [
        ("multi-task", "click"), ("multi-task", "cart"),
    ]  # fmt: skip
    for comparison in found["comparisons"]:
        assert 0.5 < comparison["auc"] <= 1
        assert comparison["ne_difference"]["value"] == pytest.approx(comparison["ne"] - comparison["control_ne"])
    assert found["gradient_conflict"]["pairs"][0]["tasks"] == ["click", "cart"]
    assert read_json(retrain.training / "controls.json") == found
    kept = {path.relative_to(retrain.training / "controls") for path in (retrain.training / "controls").rglob("*.*")}
    assert {str(path) for path in kept} == {
        f"{task}-1/{name}" for task in ("click", "cart") for name in further_trainings.KEPT
    }
    assert np.load(retrain.training / "controls" / "cart-1" / "scores" / "test.npy").shape[1] == 1
    assert retrain.job.read_bytes() == own

    lines.clear()
    assert (
        compare_tasks(deployment, DAY, tasks=["cart"], progress=lines.append)["comparisons"] == found["comparisons"][1:]
    )
    assert len(lines) == 1
    changed = job.model_copy(update={"training": job.training.model_copy(update={"epochs": 2})})
    assert not further_trainings.is_done(
        FurtherTraining("x", control_job(changed, "cart", retrain.training.resolve() / "controls" / "cart-1", 1)),
        retrain.training.resolve(),
    )


def test_a_control_has_the_jobs_settings_and_one_task(deployment: Any) -> None:
    job = TrainingJob.load(deployment.paths.retrain(DAY).job)
    own = control_job(job, "cart", Path("/there"), 5)
    assert (own.tasks, own.task_weights, own.seed, own.output) == (["cart"], {}, 5, Path("/there"))
    assert (own.model, own.training, own.dataset) == (job.model, job.training, job.dataset)


def test_a_control_learns_though_the_model_stops_its_gradient(deployment: Any) -> None:
    job = TrainingJob.load(deployment.paths.retrain(DAY).job)
    heads = {"kind": "mmoe", "stop_gradient": ["cart"], "gate_on": "parent"}
    model = Model.model_validate({**job.model.model_dump(), "multi_task": heads})
    stopped = job.model_copy(update={"model": model})
    own = control_job(stopped, "cart", Path("/there"), 5).model
    assert own.multi_task == Model.model_validate({"multi_task": {**heads, "stop_gradient": []}}).multi_task
    assert build_ranker(PackedDataset.open(job.dataset).of_tasks(["cart"]).layout, own, 1).stopped == ()
    assert control_job(stopped, "click", Path("/there"), 5).model == own


def test_a_training_without_a_result_is_no_side_of_a_comparison(deployment: Any) -> None:
    retrain = deployment.paths.retrain(DAY)
    for status in ("stopped", "failed"):
        write_json(retrain.result, {"status": status})
        with pytest.raises(FurtherTrainingError, match="training of 2026-01-02 is not finished: run `ctr run` again"):
            compare_tasks(deployment, None)
    write_json(retrain.result, {"status": "finished"})
    retrain.scores("test").unlink()
    with pytest.raises(FurtherTrainingError, match="is not finished"):
        compare_tasks(deployment, None)


def test_the_spec_is_that_of_the_retrain_and_not_a_later_one(deployment: Any) -> None:
    retrain = deployment.paths.retrain(DAY)
    assert further_trainings.spec_of(deployment, retrain) is deployment.spec
    retrain.spec.write_text(yaml.safe_dump({**GOOD, "calibration": "platt"}), encoding="utf-8")
    assert further_trainings.spec_of(deployment, retrain).calibration.kind == "platt"
    for name in ("calibration", "test"):
        np.save(retrain.scores(name), np.zeros((1, 2), dtype=np.float32))
    used: list[str] = []

    def compared(spec: Any, *_: Any) -> dict[str, Any]:
        used.append(spec.calibration.kind)
        raise FurtherTrainingError("enough")

    with pytest.MonkeyPatch.context() as patch:
        for command in (controls, ablate):
            patch.setattr(command, "train", lambda _: None)
            patch.setattr(command, "compared", compared)
        with pytest.raises(FurtherTrainingError, match="enough"):
            compare_tasks(deployment, None)
        with pytest.raises(FurtherTrainingError, match="enough"):
            ablate.ablate(deployment, None, seeds=1)
    assert used == ["platt", "platt"]


def test_branches_have_no_architecture_beside_them(deployment: Any) -> None:
    retrain = deployment.paths.retrain(DAY)
    job = TrainingJob.load(retrain.job)
    branches = [{"name": "one", "hidden": [4]}, {"name": "two", "hidden": [5]}]
    job.model_copy(update={"model": Model.model_validate({"branches": branches})}).save(retrain.job)
    with pytest.raises(FurtherTrainingError, match="has `branches`, each with heads of its own"):
        compare_tasks(deployment, None, also=["mmoe"])


def test_what_cannot_be_compared_is_named(deployment: Any, tmp_path: Path) -> None:
    with pytest.raises(FurtherTrainingError, match="'sale' is no task of 2026-01-02; its tasks are click, cart"):
        compare_tasks(deployment, None, tasks=["sale"])
    with pytest.raises(FurtherTrainingError, match="no training of 2026-01-03 with its arrays"):
        compare_tasks(deployment, "2026-01-03")
    empty = SimpleNamespace(paths=DataRoot(tmp_path / "empty"), data_root=tmp_path / "empty")
    with pytest.raises(FurtherTrainingError, match="no training yet: run `ctr run` first"):
        compare_tasks(empty, None)
    done = CliRunner().invoke(app, ["controls", "--data-root", "data", "--also", "mmeo"])
    assert done.exit_code != 0
    assert "no kind of model.multi_task" in done.output


def test_a_training_that_fails_is_named(deployment: Any) -> None:
    job = TrainingJob.load(deployment.paths.retrain(DAY).job)
    broken = control_job(job, "cart", Path("broken").resolve(), 1).model_copy(update={"dataset": Path("/nowhere")})
    with pytest.raises(
        FurtherTrainingError, match=r"training of control of cart with seed 1 did not finish: .*no packed dataset"
    ):
        further_trainings.train(FurtherTraining("control of cart", broken))


def comparison(task: str, low: float, high: float, verdict: str) -> dict[str, Any]:
    interval = {"value": (low + high) / 2, "low": low, "high": high}
    return {
        "side": "multi-task", "task": task, "auc": 0.7, "ne": 0.9, "control_auc": None, "control_ne": 0.9,
        "auc_difference": None, "ne_difference": interval, "ne_by_seed": [0.0], "positives": 1234, "verdict": verdict,
    }  # fmt: skip


def test_negative_transfer_is_named_with_what_cuts_it() -> None:
    worse, even = comparison("cart", 0.001, 0.003, "worse"), comparison("click", -0.001, 0.001, "even")
    conflict = {
        "rows": 65536, "blocks": 16, "parameters": 1000, "split_half": {"click": 0.9, "cart": 0.2}, "norms": {},
        "pairs": [{"tasks": ["click", "cart"], "observed": 0.1, "cosine": {"value": -0.4, "low": -0.6, "high": -0.2}, "conflicts": True}],
    }  # fmt: skip
    valued = {"side": "multi-task", "values": {"click": 1.0, "cart": 5.0}, "verdict": "better"}
    valued["ne_difference"] = {"value": -0.002, "low": -0.003, "high": -0.001}
    found = {
        "day": DAY, "seeds": [1, 2], "comparisons": [even, worse], "by_value": [valued], "gradient_conflict": conflict
    }  # fmt: skip
    (sentence,) = negative_transfer(found)
    assert "cart is worse in the model than its single-task control, by 0.0020 NE (+0.0010 to +0.0030)" in sentence
    assert "stop_gradient" in sentence
    console = Console(record=True, width=200)
    print_comparisons(found, console)
    text = console.export_text()
    assert "mean over 2 training seeds" in text
    assert [word for word in ("hurts", "cannot tell", "helps", "click 1, cart 5") if word not in text] == []
    assert "1,234" in text
    assert "-0.60 to -0.20" in text
    assert "conflict" in text
    assert list(negative_transfer({"comparisons": [even]})) == [
        "No task is significantly worse than its single-task control."
    ]
