"""benchmarks/serving_parity.py: what is served for the test impressions is what the model was evaluated with."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished, environment
from ctr_pipeline_tests.end_to_end.list_runs import ListRun


@pytest.fixture
def compare(project: Path, config_home: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the script with --assert and returns its figures."""

    def run(data_root: Path, *arguments: str, expect: int = 0) -> dict[str, Any]:
        figures = tmp_path / "figures.json"
        script = project / "benchmarks" / "serving_parity.py"
        done = subprocess.run(
            [sys.executable, str(script), "--data-root", str(data_root), "--json", str(figures), "--assert", *arguments],
            env=environment(config_home), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
        return found

    return run


@pytest.mark.nightly
def test_ten_thousand_impressions_score_as_they_were_evaluated(
    finished: Finished, compare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    root = copy_root(finished.data_root, tmp_path / "run")
    logged = sorted(path for path in root.rglob("*") if "serving_log" in path.parts)
    found = compare(root, "--storage", "fp16", "int8")
    assert set(found) == {"as promoted", "fp16", "int8"}
    for of in found.values():
        assert of["rows"] >= 10_000
        assert of["rows by the protocol"] >= 900
        assert set(of["differences"]) == {"click", "add_to_cart", "checkout", "ranking_score"}
        assert max(each["max"] for task, each in of["differences"].items() if task != "ranking_score") <= 1e-5
    assert 0 < found["fp16"]["rounding"] < 1e-3
    assert found["fp16"]["rounding"] < found["int8"]["rounding"] < 1e-2
    # Nothing of it is in the log of what was served.
    assert sorted(path for path in root.rglob("*") if "serving_log" in path.parts) == logged
    # A model that was evaluated with other scores is found.
    [scores] = root.glob("training/*/scores/test.npy")
    np.save(scores, np.load(scores) + np.float32(1))
    wrong = compare(root, "--impressions", "500", expect=1)["as promoted"]
    assert wrong["differences"]["click"]["beyond the limit"] == wrong["rows"]


@pytest.mark.nightly
def test_lists_of_the_past_bids_and_experts_score_as_they_were_evaluated(
    list_run: ListRun, compare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    found = compare(copy_root(list_run.data_root, tmp_path / "run"), "--impressions", "5000")["as promoted"]
    assert found["rows"] >= 5000
    assert found["rounding"] > 1e-7
