"""`ctr why`: what it finds of a stopped training, how it shows that, and what it says where there is nothing."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ctr_pipeline.cli.app import app
from ctr_pipeline.commands.report import ReportError
from ctr_pipeline.commands.why import WhyError, explain, find_place
from ctr_pipeline.commands.why_page import why_page
from ctr_pipeline.commands.why_text import print_why
from ctr_pipeline.deployment.json_files import write_json
from ctr_pipeline.gradients.drills import fault_named
from ctr_pipeline.training.drilling.drilled_run import prepare_drill

DAY, GOOD_DAY = "2026-01-02", "2026-01-01"


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retrain that was stopped, with its dataset, and one before it that was promoted."""
    made = tmp_path_factory.mktemp("drill")
    drill = prepare_drill(fault_named("ips_unclipped"), 1, made)
    drill.run(contracts=True)
    root = tmp_path_factory.mktemp("root")
    own, good = (root / "training" / day for day in (DAY, GOOD_DAY))
    shutil.copytree(made / "run", own)
    drill.job.save(own / "job.json")
    write_json(
        own / "result.json", {"status": "stopped", "cause": {"kind": "contract", "message": "step 0: <weights>"}}
    )
    good.mkdir()
    slower = drill.job.training.model_copy(update={"learning_rate": 1e-5})
    drill.job.model_copy(update={"training": slower}).save(good / "job.json")
    write_json(good / "release.json", {"promoted": True})
    failure = {
        "spec": "shop", "day": DAY, "reason": "it broke", "evidence": str(own), "mlflow": {"run_id": "abc"}, "findings": []
    }  # fmt: skip
    write_json(root / "failed_trainings" / DAY / "abc" / "failure.json", failure)
    return root


@pytest.fixture(scope="module")
def found(data_root: Path) -> dict:
    return explain(str(data_root / "training" / DAY), data_root, try_fixes=False)


def test_the_cause_is_named_with_what_is_new_since_the_last_good_training(found: dict) -> None:
    top = found["triage"]["hypotheses"][0]
    assert top["cause"] == "ips_unclipped"
    assert top["evidence"]
    assert top["meaning"].startswith("inverse propensities")
    assert {"contracts", "the built training", "the last good training"} <= set(found["triage"]["looked_at"])
    assert any(fact.startswith("learning_rate is 0.003, and 1e-05") for fact in found["triage"]["compared"])
    assert found["run"]["day"] == DAY
    assert any("ctr drill --fault ips_unclipped" in text for text in found["next"])
    json.dumps(found, allow_nan=False)


def test_runs_are_found_by_name_and_by_folder(data_root: Path) -> None:
    folder = data_root / "training" / DAY
    for name in ("abc", "latest", str(folder), str(folder / "result.json")):
        assert find_place(name, data_root).run == folder, name
    assert find_place(str(folder), data_root).root == data_root


def test_a_failed_step_is_looked_at_alone_and_with_its_run(tmp_path: Path) -> None:
    drill = prepare_drill(fault_named("refactor_incident"), 1, tmp_path)
    drill.run(contracts=False)
    step = drill.job.output / "failed_step"
    assert find_place(str(step), tmp_path).run == drill.job.output
    alone = tmp_path / "elsewhere"
    shutil.copytree(step, alone)
    place = find_place(str(alone / "step.pt"), tmp_path)
    assert (place.run, place.step) == (None, alone)
    found = explain(str(alone), tmp_path, try_fixes=False)
    assert "the failed step" in found["triage"]["looked_at"]
    assert "ips_unclipped" in {h["cause"] for h in found["triage"]["hypotheses"]}
    assert "load_step" in found["next"][-1]


def test_without_its_dataset_files_alone_are_looked_at(data_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    shutil.copytree(data_root / "training" / DAY, folder)
    job = json.loads((folder / "job.json").read_text()) | {"dataset": str(tmp_path / "gone")}
    write_json(folder / "job.json", job)
    found = explain(str(folder), data_root, try_fixes=False)
    assert "is not there any more" in found["notes"][0]
    assert "the built training" not in found["triage"]["looked_at"]
    assert found["triage"]["hypotheses"][0]["cause"] == "ips_unclipped"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no report 'nothing'"):
        explain("nothing", tmp_path, try_fixes=False)
    with pytest.raises(WhyError, match="nothing of a training is here"):
        explain(str(tmp_path), tmp_path, try_fixes=False)


def test_a_drill_is_explained_without_a_tarball(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["drill", "--fault", "label_permute", "--why", "--json", str(tmp_path / "why.json"), "--output", str(tmp_path)],
    )
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "why.json").read_text())["triage"]["hypotheses"][0]["cause"] == "label_permute"
    assert "drill label_permute, seed 1" in done.output
    assert not list(tmp_path.glob("*.tar.gz"))


def printed(found: dict) -> str:
    console = Console(width=130, record=True, file=io.StringIO())
    print_why(found, console)
    return console.export_text()


def test_the_terminal_shows_causes_evidence_and_what_to_do(found: dict) -> None:
    text = printed(found)
    for part in (
        "ips_unclipped",
        "for:",
        "fix: limit weights",
        "Beside the last good training",
        "Next",
        "stopped: step 0",
    ):
        assert part in text
    nothing = found | {"triage": found["triage"] | {"hypotheses": [], "unknown": True, "sure": False}}
    assert "Unknown: nothing that was looked at separates causes." in printed(nothing)


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(found: dict) -> None:
    tried = {"name": "clip <all>", "verdict": "masks", "found": "finite", "cause": None}
    page = why_page(found | {"triage": found["triage"] | {"remedies": [tried]}})
    assert "<h1>" in page
    assert "step 0: &lt;weights&gt;" in page
    assert "clip &lt;all&gt;" in page
    assert 'class="verdict masks"' in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_the_page_has_plots_of_recorded_steps(found: dict, tmp_path: Path) -> None:
    lines = [{"step": n, "loss": 0.5 if n < 20 else 1e15, "grad_norm": 1.0, "epoch": 0} for n in range(24)]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = why_page(found | {"run": found["run"] | {"folder": str(tmp_path)}})
    assert page.count("data:image/png;base64,") == 2


def test_the_command_prints_json_and_writes_the_page(data_root: Path, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "why.html"
    folder = str(data_root / "training" / DAY)
    done = CliRunner().invoke(app, ["why", folder, "--json", "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["triage"]["hypotheses"][0]["cause"] == "ips_unclipped"
    assert page.read_text().startswith("<!DOCTYPE html>")
    wrong = CliRunner().invoke(app, ["why", "nothing", "--data-root", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "no report 'nothing'" in wrong.output
