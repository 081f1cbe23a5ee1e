"""The check of `canary`: whether a trial was rolled back."""

from collections.abc import Sequence
from dataclasses import dataclass

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register


@dataclass(frozen=True, slots=True)
class CanaryEvidence:
    """What became of the trial since the asset was made last."""

    rolled_back: Sequence[str]
    """A sentence for each reason; empty where nothing was rolled back."""
    challenger: float | None = None
    """Observed over expected of the challenger's first task; None where nothing is mature."""


def check_guardrails(evidence: CanaryEvidence) -> Outcome:
    """Error when a challenger was rolled back since the asset was made last."""
    found = evidence.rolled_back
    return Outcome(
        passed=not found,
        error=True,
        metadata={} if evidence.challenger is None else {"observed_over_expected": evidence.challenger},
        description=" ".join(found) or None,
    )


register(
    CheckDefinition(
        asset="canary",
        name="guardrails",
        question="No challenger was rolled back: none fails, is slow, or predicts what does not happen.",
        evaluate=check_guardrails,
    )
)
