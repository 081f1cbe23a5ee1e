"""Why a training broke: from what it left behind, and from the training built once more.

``triage_of(evidence)`` ranks causes from files alone. ``triage_of(evidence, build)`` measures the training too:
``build(folder)`` gives the :class:`~ctr_pipeline.training.loop.Trainer` once more as it was before its first step, faults
of its code included, with all that it writes in ``folder``. It is called several times and must give the same training each
time. With ``replay=True`` the remedies of the most likely causes are tried one at a time on further copies.

``evidence_of(folder, cause, health)`` reads what a run left in its folder; ``cause`` and ``health`` are those of
:class:`~ctr_pipeline.training.stopping.Stopped` or of the result, for a training whose result.json is not written.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from ctr_pipeline.gradients import Diagnosis, HealthReport
from ctr_pipeline.gradients.triage.evidence import RunEvidence
from ctr_pipeline.gradients.triage.hypothesis import Triage
from ctr_pipeline.gradients.triage.ranking import triage
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.triage_survey import survey

Build: TypeAlias = Callable[[Path], Trainer]
"""Builds the training once more, writing into the folder that it is given."""


def triage_of(evidence: RunEvidence, build: Build | None = None, *, replay: bool = False) -> Triage:
    """The causes that may have broken a training, the most likely one first.

    Args:
        evidence: What it left behind, from :func:`evidence_of`.
        build: The training once more; without it files alone are looked at.
        replay: Whether remedies are tried; needs ``build``.
    """
    del replay
    if build is None:
        return triage(evidence)
    with TemporaryDirectory() as folder:
        clues = survey(build, Path(folder))
    return triage(
        replace(evidence, clues=(*evidence.clues, *clues), looked_at=(*evidence.looked_at, "the built training"))
    )


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
        "steps": _lines(folder / "steps.jsonl") or _lines(folder / "records.jsonl"),
        "validation": _lines(folder / "validation.jsonl"),
    }
    settings = _json(folder / "job.json", {}).get("training", {}) | {
        key: value for key, value in result.get("plan", {}).items() if key.endswith("learning_rate")
    }
    return RunEvidence(
        cause=found["the stop"], findings=found["findings"], outcomes=found["contracts"], steps=found["steps"],
        validation=found["validation"], settings=settings, looked_at=tuple(name for name, value in found.items() if value),
    )  # fmt: skip


def with_settings(evidence: RunEvidence, settings: Mapping[str, Any]) -> RunEvidence:
    """The evidence of a training whose job was never written, with its ``training`` section."""
    return replace(evidence, settings=dict(settings))


def _finding(found: Any) -> dict[str, Any]:
    named: dict[str, Any] = found.to_dict()
    return named | {key: value for key, value in found.finding.numbers.items() if key == "loss_fault"}


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
