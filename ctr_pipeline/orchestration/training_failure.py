"""What Dagster's page and MLflow show of a training that failed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ctr_pipeline.deployment.failed_trainings import LOGGED_BYTES, files_to_log, triage_text, why_command
from ctr_pipeline.orchestration.metadata import table
from ctr_pipeline.orchestration.resources import TrackingResource


def failure_metadata(failure: Mapping[str, Any]) -> dict[str, Any]:
    """The diagnosis as metadata of the failed step: cause, tensor, feature, findings, triage, evidence, MLflow run."""
    cause, run = failure["cause"], failure["mlflow"]
    named = {name: cause[name] for name in ("kind", "tensor", "feature", "row", "step") if cause.get(name) is not None}
    return {
        "cause": str(cause.get("message") or failure["reason"]),
        **{f"cause_{name}": value if isinstance(value, int) else str(value) for name, value in named.items()},
        "findings": table(
            {"severity": str(found["severity"]), "check": str(found["name"]), "found": str(found["message"])}
            for found in failure["findings"]
        ),
        **_triage(failure),
        "why": why_command(failure),
        "evidence": dg.MetadataValue.path(str(failure["evidence"])),
        **({"mlflow_run_id": str(run["run_id"])} if run.get("run_id") else {}),
        # A plain address: the page of a run hides Markdown behind a click.
        **({"mlflow_run": dg.MetadataValue.url(str(run["url"]))} if run.get("url") else {}),
    }


def _triage(failure: Mapping[str, Any]) -> dict[str, Any]:
    """The hypotheses of the triage, where the trainer wrote one."""
    found = failure.get("triage", {})
    if not found:
        return {}
    rows = (
        {"cause": str(h["cause"]), "at": str(h["location"] or ""), "score": float(h["score"]), "fix": str(h["fix"])}
        for h in found["hypotheses"]
    )
    return {"triage": triage_text(failure), "hypotheses": table(rows)}


def log_failed_step(
    tracking: TrackingResource, run_id: str, failure: Mapping[str, Any], context: dg.AssetExecutionContext
) -> None:
    """Keeps the failed step and its description as artifacts of the MLflow run; of a large one what fits."""
    own = [("failure", Path(failure["evidence"]) / "failure.json")]
    if (triage := Path(failure["evidence"]) / "triage.json").is_file():
        own.append(("failure", triage))
    if failure["failed_step"] is not None:
        folder = Path(failure["failed_step"])
        fitting, left_out = files_to_log(folder)
        parents = [(file, file.parent.relative_to(folder.parent).as_posix()) for file in fitting]
        own += [(parent, file) for file, parent in parents]
        if left_out:
            names = ", ".join(left_out)
            context.log.warning(
                f"The failed step is larger than {LOGGED_BYTES // 1_000_000} MB: {names} is in {folder} alone, not in MLflow"
            )
            tracking.tag(run_id, {"failed_step.left_out": names})
    tracking.log(run_id, {}, own)
    hypotheses = failure.get("triage", {}).get("hypotheses", [])
    named = {"triage": ", ".join(str(h["cause"]) for h in hypotheses) or "unknown"} if failure.get("triage") else {}
    tracking.tag(run_id, {"failure": str(failure["reason"])[:5000], **named})
