"""What triage says of a training as a whole, as a finding beside those of the detectors. Needs no torch."""

from ctr_pipeline.gradients.core.findings import Finding, NamedFinding, Severity
from ctr_pipeline.gradients.triage.causes import CAUSES
from ctr_pipeline.gradients.triage.differential import STAGES
from ctr_pipeline.gradients.triage.hypothesis import Triage

NAME = "triage"

QUESTION = (
    "What the training left, its rows, its loss, its model and its first steps point to nothing that breaks trainings"
)

WARN_SCORE = 0.75
"""Score of the first hypothesis above which it is a warning. No healthy training of those that were measured reaches it, in
any precision (docs/gradient_health.md); the score of one strong clue, or of two of middle strength, lies above it."""


def triage_finding(found: Triage | None, problem: str = "") -> NamedFinding:
    """The finding of a training.

    An error is what triage is sure of, and a training that departs from what it declares, whatever the cause: the model must
    not be used. A warning is a likely cause, and a triage that failed.

    Args:
        found: The triage; None where there is none.
        problem: Why there is none.
    """
    if found is None:
        return NamedFinding(name=NAME, finding=Finding("warn", problem or "no triage"))
    top = found.top
    if top is None and found.differing:
        text = f"the training departs from what its job declares at {STAGES[found.differing[0]]}, and no cause is named"
        return NamedFinding(name=NAME, finding=Finding("error", text, {"triage_score": 0.0}))
    if top is None:
        return NamedFinding(name=NAME, finding=Finding("ok", "triage names no cause", {"triage_score": 0.0}))
    wrong = found.sure or bool(found.differing)
    severity: Severity = "error" if wrong else "warn" if top.score >= WARN_SCORE else "ok"
    where = f" at {top.location}" if top.location else ""
    why = f": {top.evidence[0]}" if top.evidence else ""
    differing = (
        f". The training departs from what its job declares at {STAGES[found.differing[0]]}" if found.differing else ""
    )
    message = (
        f"{'triage is sure of' if found.sure else 'triage takes for likely'} {top.cause}{where} (score {top.score:.2f}), "
        f"{CAUSES[top.cause].meaning}{why}. Fix: {top.fix}{differing}"
    )
    finding = Finding(
        severity, message, {"triage_score": top.score}, tensor=top.location, value=top.score, limit=WARN_SCORE
    )
    return NamedFinding(name=NAME, finding=finding)
