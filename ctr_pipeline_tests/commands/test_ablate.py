"""`ctr ablate` leaves out each part that a model has, once, and compares on the same rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ctr_pipeline.commands import ablate as command
from ctr_pipeline.commands.ablate import WHOLE, ablate, without_each_part
from ctr_pipeline.commands.ablate_text import print_ablation
from ctr_pipeline.commands.further_trainings import FurtherTraining, FurtherTrainingError, train
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.evaluation.ablation_plot import ablation_plot
from ctr_pipeline.spec.model import Model
from ctr_pipeline.training import TrainingJob
from ctr_pipeline_tests.commands.test_controls import DAY, deployment, in_this_process  # noqa: F401

SMALL = Model(embedding_dim=4, hidden=[8], dropout=0.0, embedding_dropout=0.0, normalisation="none", wide=False)


def parts(model: dict[str, Any], *, positions: bool = False) -> dict[str, Model]:
    return without_each_part(Model.model_validate({**SMALL.model_dump(), **model}), positions=positions)


def test_each_part_is_left_out_alone() -> None:
    crosses = [{"kind": "cross"}, {"kind": "factorisation_machine"}, {"kind": "cross", "layers": 3}]
    whole = {"interactions": crosses, "wide": True, "hidden_gates": True, "dropout": None, "multi_task": "mmoe"}
    found = parts(whole, positions=True)
    assert list(found) == [
        "interaction cross 1", "interaction factorisation_machine", "interaction cross 3", "hidden layers", "hidden gates",
        "linear part", "multi-task architecture", "position effect", "dropout",
    ]  # fmt: skip
    assert [part.kind for part in found["interaction cross 1"].interactions] == ["factorisation_machine", "cross"]
    assert found["interaction cross 1"].interactions[1].layers == 3  # type: ignore[attr-defined]
    assert found["position effect"].position.kind == "none"  # type: ignore[union-attr]
    assert found["dropout"].dropout == 0
    given = Model.model_validate({**SMALL.model_dump(), **whole})
    for model in found.values():
        assert sum(getattr(model, name) != getattr(given, name) for name in Model.model_fields) == 1


def test_a_model_of_two_branches_is_without_one_the_other() -> None:
    branches = [{"name": "deep", "hidden": [6]}, {"name": "crossed", "hidden": [], "interactions": [{"kind": "cross"}]}]
    found = parts({"branches": branches, "fusion": {"kind": "gated"}})
    assert list(found) == ["branch deep", "branch crossed"]
    assert found["branch deep"].branches == []
    assert (found["branch deep"].hidden, len(found["branch deep"].interactions)) == ([], 1)
    assert (found["branch crossed"].hidden, found["branch crossed"].interactions) == ([6], [])
    three = parts({"branches": [*branches, {"name": "third", "hidden": [3]}]})
    assert [branch.name for branch in three["branch deep"].branches] == ["crossed", "third"]


def test_parts_are_trained_once_and_compared(
    deployment: Any,  # noqa: F811
    in_this_process: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retrain = deployment.paths.retrain(DAY)
    job = TrainingJob.load(retrain.job)
    train(FurtherTraining("the run", job.model_copy(update={"output": Path("own").resolve()})))
    for name in ("result.json", "scores/calibration.npy", "scores/test.npy"):
        target = retrain.training / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((Path("own") / name).read_bytes())
    steps: list[tuple[int, int, str]] = []
    found = ablate(deployment, DAY, seeds=1, only=["linear part", "hidden layers"], progress=lambda *of: steps.append(of))  # fmt: skip
    assert [what for _, _, what in steps] == [
        f"{WHOLE}, seed 1", "no hidden layers, seed 1", "no linear part, seed 1", "comparing",
    ]  # fmt: skip
    assert {own["side"] for own in found["comparisons"]} == {"no linear part", "no hidden layers"}
    assert {own["task"] for own in found["comparisons"]} == {"click", "cart"}
    assert read_json(retrain.ablation) == found
    for own in found["comparisons"]:
        difference = own["ne"] - own["control_ne"]
        assert own["ne_difference"]["value"] == pytest.approx(difference)
    assert (retrain.training / "ablation" / "ablation_click.png").read_bytes().startswith(b"\x89PNG")

    def again(training: FurtherTraining) -> None:
        raise AssertionError(f"{training.name} was trained already")

    monkeypatch.setattr(command, "train", again)
    assert ablate(deployment, DAY, seeds=1, only=["hidden layers", "linear part"])["seeds"] == [1]
    with pytest.raises(
        FurtherTrainingError, match=r"'gates' is no part of the model of .*; its parts are .*linear part"
    ):
        ablate(deployment, DAY, seeds=1, only=["gates"])


def test_what_is_printed_says_what_a_part_is_worth(capsys: pytest.CaptureFixture[str]) -> None:
    def row(side: str, ne: float, low: float, high: float, verdict: str) -> dict[str, Any]:
        return {
            "side": side, "task": "click", "auc": 0.7, "ne": 0.9 + ne, "control_auc": 0.71, "control_ne": 0.9, "verdict": verdict,
            "auc_difference": {"value": -0.01, "low": None, "high": None}, "ne_difference": {"value": ne, "low": low, "high": high},
        }  # fmt: skip

    found = {
        "day": DAY, "seeds": [1, 2], "seconds": {"no wide": 12.4},
        "comparisons": [row("no deep", -0.01, -0.02, -0.001, "better"), row("no wide", 0.02, 0.01, 0.03, "worse")],
    }  # fmt: skip
    print_ablation(found, Console(width=200))
    lines = capsys.readouterr().out.splitlines()
    [first] = [at for at, line in enumerate(lines) if "no wide" in line]
    [second] = [at for at, line in enumerate(lines) if "no deep" in line]
    assert first < second
    assert "+0.0200 [+0.0100, +0.0300]" in lines[first]
    assert "helps" in lines[first]
    assert "harms" in lines[second]


def test_the_picture_is_the_same_for_the_same_figures() -> None:
    intervals = {"no wide": {"value": 0.01, "low": 0.005, "high": 0.02}, "no deep": {"value": -0.001, "low": None, "high": None}}  # fmt: skip
    assert ablation_plot(intervals, title="click") == ablation_plot(dict(reversed(intervals.items())), title="click")
    assert ablation_plot({}, title="click").startswith(b"\x89PNG")
    assert np.frombuffer(ablation_plot(intervals, title="a"), dtype=np.uint8).size > 2000
