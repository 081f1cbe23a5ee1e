"""`ctr explain` on real retrains: one that differs in a setting, and by night the planted changes of the benchmark."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_first_retrain_says_that_there_is_none_before_it(finished: Finished) -> None:
    [path] = finished.data_root.glob("training/*/attribution.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["compared_with"] == "nothing"
    assert "first retrain" in found["reason"]
    assert not path.with_suffix(".html").exists()
    [check] = [c for c in finished.report["checks"] if c["asset"] == "attribution"]
    assert check["passed"]
    assert "first retrain" in check["description"]


@pytest.fixture(scope="module")
def slower(finished: Finished, ctr: Ctr, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training folder of the same retrain with half the learning rate, in a data root of its own."""
    folder = tmp_path_factory.mktemp("slower") / "copy"
    root = copy_root(finished.data_root, folder)
    content = yaml.safe_load(finished.spec.read_text(encoding="utf-8"))
    content["training"]["learning_rate"] /= 2
    (folder / "slower.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    ctr("run", "--spec", folder / "slower.yaml", "--data-root", root)
    [training] = root.glob("training/*")
    return training


def test_a_changed_setting_is_shown_with_both_values(
    finished: Finished, slower: Path, ctr: Ctr, tmp_path: Path
) -> None:
    [before] = finished.data_root.glob("training/*")
    done = ctr("explain", before, slower, "--json", tmp_path / "why.json", "--html", tmp_path / "why.html")
    found = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    first = found["causes"][0]
    assert (first["kind"], first["subject"], first["certainty"]) == ("spec", "training.learning_rate", "shown")
    assert "0.0015; it was 0.003" in first["sentence"]
    assert first["sentence"] in done.stdout
    assert found["compared"]["matched_by"] == "impression"
    assert found["compared"]["impressions"] > 50_000
    assert found["notes"] == []
    # The models themselves were compared too: data are the same, so all of a change is the model's.
    two = found["model"]["tasks"]["click"]["pipelines"]
    assert two["data"]["value"] == pytest.approx(0, abs=1e-9)
    assert two["total"]["value"] == pytest.approx(two["model"]["value"], abs=1e-9)
    page = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert found["headline"].split(".")[0] in page
    assert not re.search(r'(src|href)="https?:', page)


def test_the_retrain_that_another_one_of_the_day_replaced_is_explained_as_it_was(
    finished: Finished, slower: Path, ctr: Ctr, tmp_path: Path
) -> None:
    root = DataRoot(slower.parents[1])
    kept = root.replaced(slower.name).training
    [before] = finished.data_root.glob("training/*")
    found = {}
    for name, folder in (("kept", kept), ("before", before)):
        ctr("explain", folder, slower, "--json", tmp_path / f"{name}.json")
        found[name] = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    # What is kept of it is enough: all is compared, and comes to the same, as where both lie in data roots of their own.
    assert found["kept"]["notes"] == []
    assert found["kept"]["old"]["folder"] == str(kept)
    for part in ("causes", "compared", "ne", "task"):
        assert found["kept"][part] == found["before"][part]
    assert found["kept"]["model"]["tasks"] == found["before"]["model"]["tasks"]


def test_names_of_runs_and_what_is_no_run(finished: Finished, slower: Path, ctr: Ctr, tmp_path: Path) -> None:
    root, day = finished.data_root, slower.name
    out = tmp_path / "why.json"
    ctr("explain", day, "latest", "--data-root", root, "--other-root", slower.parents[1], "--json", out)
    assert json.loads(out.read_text(encoding="utf-8"))["causes"][0]["subject"] == "training.learning_rate"
    same = ctr("explain", day, "latest", "--data-root", root, expect=2)
    assert "the same retrain" in same.stderr
    unknown = ctr("explain", "2020-01-01", day, "--data-root", root, expect=2)
    assert f"Retrains there: {day}" in unknown.stderr
    nothing = ctr("explain", tmp_path, slower, expect=2)
    assert "no retrain here" in nothing.stderr


@pytest.mark.nightly
def test_planted_changes_come_first_and_none_is_shown_for_another(project: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(project / "benchmarks" / "planted_changes.py"), "--folder", str(tmp_path), "--required", "--assert"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
