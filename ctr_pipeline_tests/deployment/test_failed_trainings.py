"""What is kept of a training that failed, and what people are shown of it."""

from pathlib import Path

import pytest

from ctr_pipeline.deployment.failed_trainings import failure_text, files_to_log, keep_earlier, keep_failure
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import DataRoot, RetrainPaths
from ctr_pipeline.deployment.retrain_files import TrainingOutcome

FINDINGS = [
    {"name": "nonfinite", "severity": "error", "message": "1 of 9 steps was not finite"},
    {"name": "clipped_steps", "severity": "ok", "message": "no step was clipped"},
    {"name": "dead_units", "severity": "warn", "message": "half are dead"},
    {"name": "update_ratio", "severity": "error", "message": "moved by 3", "value": 3.0, "limit": 0.5},
    {"name": "loss_gradient", "severity": "error", "message": "r = 4096", "value": 4096.0, "limit": 0.001},
    {"name": "norm_ratio", "severity": "warn", "message": "rose", "value": 6, "limit": 5},
]
CAUSE = {"kind": "gradient", "tensor": "tower.0.weight", "message": "step 8: gradient tower.0.weight is nan"}


@pytest.fixture
def failed(tmp_path: Path) -> RetrainPaths:
    paths = DataRoot(tmp_path).retrain("2026-01-02")
    (paths.training / "failed_step").mkdir(parents=True)
    (paths.training / "failed_step" / "step.pt").write_bytes(b"batch")
    (paths.training / "steps.jsonl").write_text("{}\n")
    write_json(paths.mlflow_run, {"run_id": "abc", "tracking_uri": "sqlite://", "url": "http://page/abc"})
    write_json(paths.result, {"status": "stopped", "cause": CAUSE, "findings": FINDINGS})
    return paths


def test_the_strongest_findings_are_errors_furthest_beyond_their_limit(failed: RetrainPaths) -> None:
    outcome = TrainingOutcome.read(failed.result)
    assert [found["name"] for found in outcome.strongest(3)] == ["loss_gradient", "update_ratio", "norm_ratio"]
    assert [found["name"] for found in outcome.strongest(9)][3:] == ["dead_units"]


def test_the_order_of_the_trainer_wins(failed: RetrainPaths) -> None:
    write_json(failed.result, read_json(failed.result) | {"strongest": ["norm_ratio", "nonfinite", "update_ratio"]})
    names = [found["name"] for found in TrainingOutcome.read(failed.result).strongest(9)]
    assert names == ["norm_ratio", "update_ratio", "loss_gradient", "dead_units"]


def test_what_a_stopped_training_had_no_time_to_measure_is_no_strong_finding(failed: RetrainPaths) -> None:
    unmeasured = {"name": "dead_units", "severity": "warn", "message": "dead units were not measured", "value": None}
    for status, shown in (("stopped", []), ("finished", ["dead_units"])):
        write_json(failed.result, {"status": status, "cause": CAUSE, "findings": [unmeasured]})
        assert [found["name"] for found in TrainingOutcome.read(failed.result).strongest(3)] == shown


def test_findings_that_a_training_passed_with_are_all_shown(failed: RetrainPaths) -> None:
    write_json(failed.result, {"status": "finished", "findings": FINDINGS})
    names = [found["name"] for found in TrainingOutcome.read(failed.result).strongest(9)]
    assert names == ["loss_gradient", "update_ratio", "nonfinite", "norm_ratio", "dead_units"]


def test_the_text_says_cause_findings_and_where(failed: RetrainPaths) -> None:
    failure = keep_failure(failed, "shop", TrainingOutcome.read(failed.result), "Training stopped: step 8")
    folder = failed.failures / "abc"
    assert failure_text(failure).splitlines() == [
        "Training stopped: step 8",
        "Strongest findings:",
        "  ERROR loss_gradient: r = 4096",
        "  ERROR update_ratio: moved by 3",
        "  WARN norm_ratio: rose",
        f"Evidence: {folder}",
        f"More: ctr why {folder}",
        "MLflow run abc: http://page/abc",
    ]
    assert read_json(folder / "failure.json") == failure
    assert failure["cause"] == CAUSE
    assert (folder / "failed_step" / "step.pt").read_bytes() == b"batch"
    assert folder / "failed_step" in failed.failed_steps


@pytest.mark.parametrize(
    ("sure", "hypotheses", "line"),
    [
        (True, ["loss_sum"], "Cause: loss_sum at click. Fix: divide."),
        (False, ["loss_sum", "huge_lr"], "Likely cause, not sure: loss_sum at click. Fix: divide."),
        (False, [], "Likely cause: unknown; nothing that was measured separates causes."),
    ],
)
def test_the_text_says_what_triage_found(failed: RetrainPaths, sure: bool, hypotheses: list[str], line: str) -> None:
    named = [{"cause": n, "location": "click", "score": 0.9, "fix": "divide", "evidence": ["r"]} for n in hypotheses]
    write_json(failed.training / "triage.json", {"sure": sure, "hypotheses": named})
    failure = keep_failure(failed, "shop", TrainingOutcome.read(failed.result), "Training stopped: step 8")
    assert line in failure_text(failure).splitlines()
    assert [h["cause"] for h in failure["triage"]["hypotheses"]] == hypotheses
    assert (failed.kept_failure("abc") / "triage.json").is_file()


def test_a_failed_step_of_a_killed_process_is_kept_once(failed: RetrainPaths) -> None:
    keep_earlier(failed, "shop")
    kept = failed.kept_failure("abc") / "failure.json"
    assert read_json(kept)["reason"] == f"Training stopped: {CAUSE['message']}"
    write_json(kept, {"reason": "as it was"})
    keep_earlier(failed, "shop")
    assert read_json(kept) == {"reason": "as it was"}


def test_a_training_without_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    paths = DataRoot(tmp_path).retrain("2026-01-02")
    keep_earlier(paths, "shop")
    assert not paths.failures.exists()


def test_what_is_too_large_for_mlflow_is_named(tmp_path: Path) -> None:
    for name, size in (("small", 10), ("large", 200), ("middle", 80)):
        (tmp_path / name).write_bytes(bytes(size))
    kept, left_out = files_to_log(tmp_path, limit=100)
    assert ([file.name for file in kept], left_out) == (["small", "middle"], ["large"])


@pytest.mark.parametrize(("content", "died"), [({}, True), ({"status": "failed", "cause": {"message": "x"}}, False)])
def test_only_a_trainer_without_a_word_has_died(tmp_path: Path, content: dict[str, object], died: bool) -> None:
    write_json(tmp_path / "result.json", content)
    assert TrainingOutcome.read(tmp_path / "result.json", -9).died is died
