"""Reports of earlier versions are shown like those of this one."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ctr_pipeline.commands.report import FORMAT, ReportError, find_report
from ctr_pipeline.commands.report_text import print_report

NEW: dict[str, Any] = {
    "format": FORMAT,
    "spec": {"name": "shop", "hash": "0"},
    "days": {"first": "2026-03-01", "last": "2026-03-09"},
    "rows": {},
    "labels": {"buy": {"POSITIVE": 3}},
    "split": {
        "train": {
            "rows": 20, "first": "2026-03-01T00:00:00Z", "last": "2026-03-04T00:00:00Z",
            "tasks": {
                "buy": {
                    "start": "2026-03-01T00:00:00Z", "end": "2026-03-04T00:00:00Z",
                    "rows": 20, "settled": 12, "censored": 8, "positives": 3,
                }
            },
            "states": {"buy": {"POSITIVE": 3, "NEGATIVE": 16, "CENSORED": 1}}, "awaiting_data": {"buy": 7},
        }
    },
    "propensity": {},
    "label_quality": {
        "key": "advertiser",
        "tasks": [{"task": "buy", "evaluated": 12, "keys": 31, "inflated": 1, "dropped": 0, "late": 0}],
        "flagged": [
            {
                "task": "buy", "key": "adv 7", "trials": 9, "positives": 9, "rate": 1.0, "expected_rate": 0.5, "z": 3.0,
                "status": "inflated", "weight": 0.5,
            }
        ],
    },
    "metrics": {},
    "checks": [],
    "model": {"version": "1", "promoted": True, "reasons": [], "folder": "training"},
    "mlflow": {"run_id": "abc"},
    "seconds": {},
}  # fmt: skip


def of_format_1() -> dict[str, Any]:
    old = copy.deepcopy(NEW)
    old["format"] = 1
    # All tasks then had the parts of the slowest.
    del old["split"]["train"]["tasks"]
    old["split"]["train"]["undelivered"] = old["split"]["train"].pop("awaiting_data")
    [task], [key] = old["label_quality"]["tasks"], old["label_quality"]["flagged"]
    task["judged"], key["verdict"] = task.pop("evaluated"), key.pop("status")
    return old


@pytest.fixture
def old_root(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "2026-03-09.json").write_text(json.dumps(of_format_1()))
    return tmp_path


@pytest.mark.parametrize("run", ["latest", "2026-03-09", "abc"])
def test_a_report_of_format_1_is_read_by_the_names_of_today(old_root: Path, run: str) -> None:
    assert find_report(run, old_root) == NEW


def test_a_file_of_format_1_is_read_and_printed(old_root: Path) -> None:
    found = find_report(str(old_root / "reports" / "2026-03-09.json"), old_root / "elsewhere")
    console = Console(record=True, width=160)
    print_report(found, console)
    shown = console.export_text()
    assert "train: buy 7 negatives have no label" in shown
    assert "inflated" in shown
    assert "of 12 evaluated" in shown


@pytest.mark.parametrize(
    ("ignored", "line"),
    [
        ({"view": 1234, "[b]Click": 5}, "events that no task uses: `view` 1,234, `[b]Click` 5\n"),
        ({"view": 7, "": 3}, "events that no task uses: `view` 7, other types 3\n"),
        ({"": 3}, "events that no task uses: other types 3\n"),
    ],
    ids=["named", "some named", "none named"],
)
def test_ignored_types_are_printed(ignored: dict[str, int], line: str) -> None:
    console = Console(record=True, width=160)
    print_report(NEW | {"ignored_types": ignored}, console)
    assert line in console.export_text()


def test_nothing_is_printed_without_ignored_types() -> None:
    for report in (NEW, NEW | {"ignored_types": {}}):
        console = Console(record=True, width=160)
        print_report(report, console)
        assert "no task uses" not in console.export_text()


@pytest.mark.parametrize("content", [{"format": 99}, {"format": "1"}, {}, [1]])
@pytest.mark.parametrize("named", ["file", "day"])
def test_what_is_no_report_of_a_known_format_is_refused(old_root: Path, content: object, named: str) -> None:
    file = old_root / "reports" / "2026-03-09.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ReportError, match=r"not a report of `ctr run` in format 1 to 2"):
        find_report(str(file) if named == "file" else "2026-03-09", old_root)


def test_branches_are_printed_with_their_entropies() -> None:
    branches = [
        {"name": "deep", "ne": 0.81, "ne_buy": 0.81, "stopped_after_epoch": None},
        {"name": "crossed", "ne": None, "ne_buy": None, "stopped_after_epoch": 0},
    ]
    console = Console(record=True, width=160)
    print_report(NEW | {"model": NEW["model"] | {"branches": branches}}, console)
    lines = [
        line.split("│")[1:-1] for line in console.export_text().splitlines() if "deep" in line or "crossed" in line
    ]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["deep", "0.8100", ""],
        ["crossed", "", "after epoch 1"],
    ]


def test_controls_are_shown_with_the_model_that_they_were_trained_beside(old_root: Path, tmp_path: Path) -> None:
    change = {"value": 0.002, "low": 0.001, "high": 0.003}
    own = {
        "side": "multi-task", "task": "buy", "auc": 0.7, "ne": 0.9, "control_auc": 0.71, "control_ne": 0.898,
        "auc_difference": change, "ne_difference": change, "ne_by_seed": [0.002], "positives": 500, "verdict": "worse",
    }  # fmt: skip
    content = {"day": "2026-03-09", "seeds": [7], "model_sha256": "ab", "comparisons": [own], "gradient_conflict": None}
    (tmp_path / "controls.json").write_text(json.dumps(content))
    path = old_root / "reports" / "2026-03-09.json"
    for digest, shown in (("ab", True), ("cd", False)):
        path.write_text(json.dumps(NEW | {"model": NEW["model"] | {"folder": str(tmp_path), "sha256": digest}}))
        found = find_report("latest", old_root)
        assert ("controls" in found) is shown
        console = Console(record=True, width=200)
        print_report(found, console)
        assert ("Negative transfer: buy is worse in the model" in console.export_text()) is shown
