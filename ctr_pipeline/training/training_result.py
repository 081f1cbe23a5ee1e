"""Outcome of a training: of the fit that chooses the epochs, and of the second one where there is one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctr_pipeline.gradients import HealthReport, NamedFinding

_SEVERITIES = ("ok", "warn", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """Outcome of a finished fit.

    Attributes:
        best_epoch: Epoch (from 0) whose weights the model file holds.
        best_validation: Mean normalised entropy of that epoch; None when the validation split could not tell.
        epochs: Epochs trained.
        steps: Steps taken, those before a resumed checkpoint included.
        rows: Rows trained on by this process start.
        seconds: Time spent in training steps by this process start.
        health: Gradient health of the whole run.
        model_sha256: Digest of the model file.
    """

    best_epoch: int
    best_validation: float | None
    epochs: int
    steps: int
    rows: int
    seconds: float
    health: HealthReport
    model_sha256: str


def result_content(chosen: TrainingResult, refit: TrainingResult | None) -> dict[str, Any]:
    """Content of result.json of a training that finished.

    The figures are those of the fit that chose the epochs, with those of the second one under ``refit``; the digest is
    that of the model in use. A finding of a detector is that of the fit in which it is worse.
    """
    content = {
        "best_epoch": chosen.best_epoch,
        "best_validation_ne": chosen.best_validation,
        **_work(chosen),
        "model_sha256": chosen.model_sha256,
        **health_content(chosen.health),
    }
    if refit is None:
        return content
    again = health_content(refit.health)
    later = {found["name"]: found for found in again["findings"]}
    later_strongest = [name for name in again["strongest"] if name not in content["strongest"]]
    return content | {
        "model_sha256": refit.model_sha256,
        "refit": {**_work(refit), "health": again["health"]},
        "findings": [_worse(found, later[found["name"]]) for found in content["findings"]],
        "strongest": [*content["strongest"], *later_strongest],
    }


def health_content(report: HealthReport) -> dict[str, Any]:
    """The gradient health as it is in result.json; ``strongest`` names the findings that are not ok, the leading one first."""
    return {
        "health": report.numbers,
        "findings": [found.to_dict() for found in report.findings],
        "strongest": [found.name for found in report.strongest],
    }


def with_finding(content: Mapping[str, Any], found: NamedFinding) -> dict[str, Any]:
    """The parts of the content of result.json that change where a finding of the whole training joins those of detectors.

    It comes last in ``strongest``: it is drawn from the others too.
    """
    named = [found.name] if found.finding.severity != "ok" else []
    return {
        "health": {**content["health"], **found.finding.numbers},
        "findings": [*content["findings"], found.to_dict()],
        "strongest": [*content["strongest"], *named],
    }


def _work(done: TrainingResult) -> dict[str, Any]:
    return {
        "epochs": done.epochs,
        "steps": done.steps,
        "rows": done.rows,
        "seconds": round(done.seconds, 3),
        "rows_per_second": round(done.rows / done.seconds, 1) if done.seconds > 0 else None,
    }


def _worse(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Of two findings of one detector the worse one; the first where they are equal."""
    if _SEVERITIES.index(second["severity"]) <= _SEVERITIES.index(first["severity"]):
        return first
    return {**second, "message": f"in the refit, {second['message']}"}
