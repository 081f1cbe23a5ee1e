"""`ctr reproduce`: a run trained again, bit for bit, after its tables were revised."""

import hashlib
import json
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctr_pipeline.lake import Lake
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Revised:
    """A data root with two runs of the same day, between which the log changed."""

    data_root: Path
    first: dict[str, Any]
    second: dict[str, Any]


@pytest.fixture(scope="module")
def revised(finished: Finished, ctr: Ctr, tmp_path_factory: pytest.TempPathFactory) -> Revised:
    folder = tmp_path_factory.mktemp("revised")
    root = copy_root(finished.data_root, folder / "run")
    content = yaml.safe_load(finished.spec.read_text(encoding="utf-8"))
    # The outcomes of half a day of the training interval come late after all.
    content["source"]["simulator"]["incidents"] = [
        {"kind": "late_burst", "day": "2026-01-04", "hours": [0, 12], "delay_hours": 200},
    ]
    spec = folder / "revised.yaml"
    spec.write_text(yaml.safe_dump(content), encoding="utf-8")
    ctr("run", "--spec", spec, "--data-root", root, "--json", folder / "second.json")
    return Revised(root, finished.report, json.loads((folder / "second.json").read_text(encoding="utf-8")))


def everything(root: Path) -> dict[str, str]:
    """Digest of every file below a data root; what MLflow holds is compared by what its tables say."""
    files = {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith("mlflow.db")
    }
    with sqlite3.connect(root / "mlflow.db") as database:
        for table in ("runs", "metrics", "tags", "params", "model_versions", "registered_model_aliases"):
            files[f"mlflow.db/{table}"] = repr(database.execute(f"select * from {table}").fetchall())
    return files


@pytest.mark.nightly
def test_the_first_run_is_repeated_bit_for_bit_after_the_log_was_revised(
    revised: Revised, ctr: Ctr, tmp_path: Path
) -> None:
    first, second = revised.first, revised.second
    assert first["model"]["sha256"] != second["model"]["sha256"]
    for table in ("impressions", "labels", "history"):
        assert first["tables"][table]["version"] < second["tables"][table]["version"]
    before = everything(revised.data_root)

    out = tmp_path / "reproduction.json"
    done = ctr("reproduce", first["mlflow"]["run_id"], "--data-root", revised.data_root, "--json", out)

    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["identical"]
    assert found["model"] == {"recorded": first["model"]["sha256"], "reproduced": first["model"]["sha256"]}
    assert found["arrays"]["different"] == []
    assert found["arrays"]["identical"] == found["arrays"]["recorded"] >= 32
    assert found["environment"] == []
    assert done.stdout.rstrip().endswith("identical")
    assert everything(revised.data_root) == before


@pytest.mark.nightly
def test_a_difference_is_named_and_is_no_success(revised: Revised, ctr: Ctr, tmp_path: Path) -> None:
    """The record of the second run is changed to name the labels of the first: its arrays are then not the same."""
    root = copy_root(revised.data_root, tmp_path / "run")
    [record] = (root / "mlflow-artifacts" / revised.second["mlflow"]["run_id"]).rglob("provenance.json")
    facts = json.loads(record.read_text(encoding="utf-8"))
    facts["examples"]["versions"]["labels"] = revised.first["tables"]["labels"]["version"]
    facts["environment"]["torch"] = "0.0.1"
    record.write_text(json.dumps(facts), encoding="utf-8")
    out = tmp_path / "reproduction.json"
    done = ctr("reproduce", "latest", "--data-root", root, "--json", out, expect=1)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["run_id"] == revised.second["mlflow"]["run_id"]
    assert "train/labels.npy" in found["arrays"]["different"]
    assert "train/numeric.npy" not in found["arrays"]["different"]
    assert found["model"]["reproduced"] is None
    assert [entry["what"] for entry in found["environment"]] == ["torch"]
    assert done.stdout.rstrip().endswith("not identical")
    assert not (root / "reproduction").exists()


@pytest.mark.nightly
def test_a_version_that_is_gone_is_said_plainly(revised: Revised, ctr: Ctr, tmp_path: Path) -> None:
    root = copy_root(revised.data_root, tmp_path / "run")
    lake = Lake(root / "lake")
    old, new = (
        set(lake.files("history", run["tables"]["history"]["version"])) for run in (revised.first, revised.second)
    )
    for file in old - new:
        Path(file).unlink()
    refused = ctr("reproduce", revised.first["mlflow"]["run_id"], "--data-root", root, expect=2)
    version = revised.first["tables"]["history"]["version"]
    assert f"table history: version {version} is gone" in " ".join(refused.stderr.split())
    unknown = ctr("reproduce", "0" * 32, "--data-root", root, expect=2)
    assert "MLflow has no run" in unknown.stderr
    assert "no report '2020-01-01'" in ctr("reproduce", "2020-01-01", "--data-root", root, expect=2).stderr
