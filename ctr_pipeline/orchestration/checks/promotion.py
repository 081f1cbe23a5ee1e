"""May the new model take over? The six gates one by one, and the decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

if TYPE_CHECKING:
    from ctr_pipeline.evaluation.decay import Decay
    from ctr_pipeline.evaluation.promotion_gates import Gate

QUESTIONS = {
    "normalised_entropy": "The normalised entropy is not worse than the champion's (or better, where the spec requires it).",
    "ranking": "AUC and average precision are not below the champion's by more than the spec allows.",
    "calibration": "Observed over expected outcomes are as near 1 as the spec requires.",
    "slices": "No slice of the test rows is surely worse than the champion by more than the spec allows.",
    "days": "The new model holds beside the champion on most of the test days.",
    "random_traffic": "The new model is not worse than the champion on the rows in random order.",
}
"""Gate to what holds where it is passed; their checks are called ``gate_<name>``."""


@dataclass(frozen=True, slots=True)
class PromotionEvidence:
    """How the new model compares with the champion."""

    not_worse: bool
    reasons: Sequence[str]
    broken: Sequence[str] = ()
    """Why the model must not be served, whatever the champion: empty where it may."""
    gates: Mapping[str, "tuple[Gate, bool]"] = field(default_factory=dict)
    """By name what each gate found, and whether it stops the promotion; empty where nothing was compared."""
    obstacle: str | None = None
    """Why nothing was compared."""
    decay: Mapping[str, "Decay | None"] = field(default_factory=dict)
    """By task whether the champion of until now is still as good as at its promotion; None where that is not known yet."""
    served: str | None = None
    """Its version; None without one."""


def check_floor(evidence: PromotionEvidence) -> Outcome:
    """Error when the model must not be served, with a champion or without one."""
    return Outcome(
        passed=not evidence.broken,
        error=True,
        description=f"Nothing is promoted. {' '.join(evidence.broken)}" if evidence.broken else None,
    )


def check_champion(evidence: PromotionEvidence) -> Outcome:
    """Warning when the new model was not promoted."""
    return Outcome(passed=evidence.not_worse, description=" ".join(evidence.reasons) or None)


def check_gate(name: str, evidence: PromotionEvidence) -> Outcome:
    """Warning when a gate stops the promotion."""
    if evidence.obstacle is not None or name not in evidence.gates:
        return Outcome(
            passed=evidence.obstacle is None and not evidence.broken,
            description=evidence.obstacle or " ".join(evidence.broken) or None,
        )
    gate, stops = evidence.gates[name]
    return Outcome(
        passed=not stops,
        description=" ".join(gate.reasons),
        metadata={"status": gate.status.value, **gate.figures},
    )


def check_decay(evidence: PromotionEvidence) -> Outcome:
    """Warning when the champion predicts surely worse than on the test of its promotion."""
    known = {task: of for task, of in evidence.decay.items() if of is not None}
    decayed = {task: of for task, of in known.items() if of.since is not None}
    listed = "; ".join(
        f"{task}: NE is {of.rise:.1%} above the {of.reference:.3f} of its promotion since {of.since}, surely by {of.low:.1%}, first seen "
        f"on {of.alarmed}"
        for task, of in decayed.items()
    )
    if decayed:
        text = f"Version {evidence.served} has become worse: {listed}. See what keeps newer models from being promoted, or `ctr rollback`."
    elif evidence.served is not None and not known:
        text = f"Of version {evidence.served} no later day has been tested yet."
    else:
        text = "; ".join(f"{task}: {of.rise:+.1%} in NE over {of.days} days" for task, of in known.items())
    return Outcome(
        passed=not decayed,
        description=text or None,
        metadata={f"ne_rise/{task}": of.rise for task, of in known.items()}
        | {f"since/{task}": of.since for task, of in decayed.items()},
    )


def _gate(name: str, question: str) -> CheckDefinition:
    return CheckDefinition(
        asset="champion",
        name=f"gate_{name}",
        question=question,
        evaluate=lambda evidence: check_gate(name, evidence),
    )


register(
    CheckDefinition(
        asset="champion",
        name="promotion_floor",
        question="Every gate is passed (docs/report.md), and no check of the same day has an error.",
        evaluate=check_floor,
        blocking=True,
    ),
    *(_gate(name, question) for name, question in QUESTIONS.items()),
    CheckDefinition(
        asset="champion",
        name="not_worse_than_champion",
        question="Nothing that was found beside the champion speaks against the new model.",
        evaluate=check_champion,
    ),
    CheckDefinition(
        asset="champion",
        name="still_as_good",
        question="The champion of until now predicts as well as on the test of its promotion.",
        evaluate=check_decay,
    ),
)
