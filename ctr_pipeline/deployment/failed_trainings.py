"""What is kept of a training that failed, for good: later trainings of the day empty its folder."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import TrainingOutcome
from ctr_pipeline.gradients.triage.verdict import NAME as TRIAGE

STRONGEST = 3
"""Findings that a person is shown."""

LOGGED_BYTES = 10_000_000
"""Size of a failed step up to which all of it becomes an artifact in MLflow."""

_KEPT = (
    "result.json", "job.json", "run.json", "spec.yaml", "steps.jsonl", "validation.jsonl", "gradients.parquet",
    "contracts.json", "triage.json",
)  # fmt: skip
_FORMAT = 1


def keep_failure(paths: RetrainPaths, spec_name: str, outcome: TrainingOutcome, reason: str) -> dict[str, Any]:
    """Copies the evidence of the failed training in its folder to where nothing removes it, and describes it.

    Args:
        paths: The retrain.
        spec_name: Name of the spec.
        outcome: What the trainer reported.
        reason: Why the training failed, for people.

    Returns:
        What failure.json holds: ``day``, ``reason``, ``cause``, the strongest ``findings``, the folder of the ``evidence``,
        its ``failed_step`` or None, the ``mlflow`` run, and the first hypotheses of its ``triage``.
    """
    run = read_json(paths.mlflow_run)
    folder = paths.kept_failure(str(run.get("run_id", "unknown")))
    folder.mkdir(parents=True, exist_ok=True)
    for name in _KEPT:
        if (source := paths.training / name).is_file():
            shutil.copy2(source, folder / name)
    for step in paths.own_failed_steps:
        if step.is_dir():
            shutil.copytree(step, folder / "failed_step", dirs_exist_ok=True)
    failure = {
        "format": _FORMAT,
        "spec": spec_name,
        "day": paths.day,
        "reason": reason,
        "status": outcome.status,
        "cause": dict(outcome.facts.get("cause") or {"message": outcome.cause}),
        # What triage found is told apart, below.
        "findings": [dict(f) for f in outcome.strongest(STRONGEST + 1) if f["name"] != TRIAGE][:STRONGEST],
        "evidence": str(folder),
        "failed_step": str(folder / "failed_step") if (folder / "failed_step").is_dir() else None,
        "mlflow": run,
        "triage": _triage(folder),
    }
    write_json(folder / "failure.json", failure)
    return failure


def _triage(folder: Path) -> dict[str, Any]:
    """The first hypotheses of the triage that the trainer wrote; empty where it wrote none."""
    found = read_json(folder / "triage.json")
    if not found:
        return {}
    keys = ("cause", "location", "score", "fix")
    named = [
        {key: hypothesis[key] for key in keys} | {"evidence": next(iter(hypothesis["evidence"]), "")}
        for hypothesis in found["hypotheses"][:STRONGEST]
    ]
    return {"sure": found["sure"], "hypotheses": named}


def triage_text(failure: Mapping[str, Any]) -> str:
    """What triage says, a line; empty where there was none."""
    triage = failure.get("triage", {})
    if not triage:
        return ""
    if not triage["hypotheses"]:
        return "Likely cause: unknown; nothing that was measured separates causes."
    top = triage["hypotheses"][0]
    where = f" at {top['location']}" if top["location"] else ""
    return f"{'Cause' if triage['sure'] else 'Likely cause, not sure'}: {top['cause']}{where}. Fix: {top['fix']}."


def keep_earlier(paths: RetrainPaths, spec_name: str) -> None:
    """Keeps a failed step that lies in the training folder and was not kept yet, as when the step process was killed."""
    run_id = str(read_json(paths.mlflow_run).get("run_id", "unknown"))
    found = any(step.is_dir() for step in paths.own_failed_steps)
    if found and not (paths.kept_failure(run_id) / "failure.json").is_file():
        outcome = TrainingOutcome.read(paths.result)
        keep_failure(paths, spec_name, outcome, f"Training {outcome.status}: {outcome.cause or 'no cause was given'}")


def failure_text(failure: Mapping[str, Any]) -> str:
    """A failure for people: why, the strongest findings, and where the evidence lies; several lines."""
    lines = [str(failure["reason"])]
    if failure["findings"]:
        lines.append("Strongest findings:")
        lines += [f"  {found['severity'].upper()} {found['name']}: {found['message']}" for found in failure["findings"]]
    if text := triage_text(failure):
        lines.append(text)
    lines.append(f"Evidence: {failure['evidence']}")
    lines.append(f"More: {why_command(failure)}")
    if run_id := failure["mlflow"].get("run_id"):
        lines.append(f"MLflow run {run_id}{_address(failure['mlflow'])}")
    return "\n".join(lines)


def why_command(failure: Mapping[str, Any]) -> str:
    """The command that says more of why the training failed."""
    return f"ctr why {shlex.quote(str(failure['evidence']))}"


def _address(run: Mapping[str, Any]) -> str:
    return f": {run['url']}" if run.get("url") else ""


def files_to_log(failed_step: Path, limit: int = LOGGED_BYTES) -> tuple[Sequence[Path], Sequence[str]]:
    """The files of a failed step that fit below ``limit`` bytes, small ones first; and the names of the others."""
    files = sorted((file for file in failed_step.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    kept: list[Path] = []
    left_out: list[str] = []
    total = 0
    for file in files:
        total += file.stat().st_size
        if total <= limit:
            kept.append(file)
        else:
            left_out.append(str(file.relative_to(failed_step)))
    return kept, left_out
