"""Reads what a training left behind in its folder. Needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctr_pipeline.gradients import Diagnosis, HealthReport
from ctr_pipeline.gradients.triage.causes import CAUSES, INTERACTIONS
from ctr_pipeline.gradients.triage.evidence import Clue, RunEvidence


def evidence_of(folder: Path, cause: Diagnosis | None = None, health: HealthReport | None = None) -> RunEvidence:
    """What the run in ``folder`` left behind.

    Args:
        folder: Folder of a run, of a failed training that was kept, or of a failed step.
        cause: Why it was stopped, where result.json does not say.
        health: Its findings, likewise.
    """
    result = _json(folder / "result.json", {})
    found = {
        "the stop": cause.to_dict()
        if cause is not None
        else result.get("cause") or _json(folder / "diagnosis.json", {}),
        "findings": [_finding(f) for f in health.findings] if health is not None else result.get("findings", []),
        "contracts": _json(folder / "contracts.json", []),
        "steps": read_json_lines(folder / "steps.jsonl") or read_json_lines(folder / "records.jsonl"),
        "validation": read_json_lines(folder / "validation.jsonl"),
        "the triage of the training itself": _recorded(_json(folder / "triage.json", {})),
    }
    settings = _json(folder / "job.json", {}).get("training", {}) | {
        key: value for key, value in result.get("plan", {}).items() if key.endswith("learning_rate")
    }
    return RunEvidence(
        cause=found["the stop"], findings=found["findings"], outcomes=found["contracts"], steps=found["steps"],
        validation=found["validation"], clues=found["the triage of the training itself"], settings=settings, looked_at=tuple(name for name, value in found.items() if value),
    )  # fmt: skip


def _recorded(triage: Mapping[str, Any]) -> list[Clue]:
    """What the trainer itself found at its end: code and rows may have changed since.

    Of each hypothesis its first evidence stands for all; what is measured again counts once.
    """
    return [
        Clue(
            cause=hypothesis["cause"], weight=float(hypothesis["score"]), text=next(iter(hypothesis["evidence"]), ""),
            location=hypothesis["location"], separating=bool(hypothesis["separating"]), stage=hypothesis.get("stage", ""),
        )
        for hypothesis in triage.get("hypotheses", [])
        if hypothesis["cause"] in CAUSES and hypothesis["cause"] not in INTERACTIONS.values()
    ]  # fmt: skip


def with_settings(evidence: RunEvidence, settings: Mapping[str, Any]) -> RunEvidence:
    """The evidence of a training whose job was never written, with its ``training`` section."""
    return replace(evidence, settings=dict(settings))


def _finding(found: Any) -> dict[str, Any]:
    named: dict[str, Any] = found.to_dict()
    return named | {key: value for key, value in found.finding.numbers.items() if key == "loss_fault"}


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that a training writes; none where it is gone, and no last one that was left unfinished."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            # A process that is killed may leave half a line.
            break
    return found
