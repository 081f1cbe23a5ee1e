"""Did the training stay healthy? One check for each detector of :mod:`ctr_pipeline.gradients`, and one for triage."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ctr_pipeline.gradients import registered_detectors
from ctr_pipeline.gradients.triage.verdict import NAME, QUESTION
from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, derive, register


@dataclass(frozen=True, slots=True)
class TrainingEvidence:
    """The trainer's findings by name: ``severity`` (``ok``, ``warn`` or ``error``) and ``message``."""

    findings: Mapping[str, Mapping[str, Any]]


def check_finding(name: str, evidence: TrainingEvidence) -> Outcome:
    """The outcome of one finding; a detector without a finding has failed, as it guarded nothing."""
    finding = evidence.findings.get(name)
    if finding is None:
        return Outcome(
            passed=False,
            error=True,
            description=f"the training has no finding {name!r}: its process did not know this detector. Install the "
            "package that it comes from there too, or remove it here; then train again",
        )
    return Outcome(
        passed=finding["severity"] == "ok", error=finding["severity"] == "error", description=finding["message"]
    )


def detector_checks() -> list[CheckDefinition]:
    """The checks of the detectors that are registered now."""
    return [
        CheckDefinition(
            asset="ranker",
            name=detector.name,
            question=detector.question,
            evaluate=partial(check_finding, detector.name),
            blocking=detector.blocking,
        )
        for detector in registered_detectors()
    ]


def check_triage(evidence: TrainingEvidence) -> Outcome:
    """The outcome of the trainer's own triage; a training of several processes that was stopped has none."""
    if NAME not in evidence.findings:
        return Outcome(passed=True, description="the training wrote no triage; `ctr why` makes one")
    return check_finding(NAME, evidence)


derive(detector_checks)
register(CheckDefinition(asset="ranker", name=NAME, question=QUESTION, evaluate=check_triage, blocking=True))
