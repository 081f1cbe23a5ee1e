"""Is it known why a model is worse than the one before it?"""

from collections.abc import Sequence
from dataclasses import dataclass

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributionEvidence:
    """What the comparison with the retrain before found."""

    headline: str | None
    """What the change comes from, a sentence; None without a comparison."""
    worse: Sequence[str]
    """Tasks whose NE is worse beyond chance."""
    reason: str | None
    """Why there is no comparison; None where there is one."""
    page: str | None
    """The page with the causes."""


def check_change(evidence: AttributionEvidence) -> Outcome:
    """Warning with the cause when a task's NE is worse beyond chance."""
    if evidence.headline is None:
        return Outcome(passed=True, description=evidence.reason)
    page = {} if evidence.page is None else {"page": evidence.page}
    told = f"{evidence.headline} All causes: {evidence.page}" if evidence.worse else evidence.headline
    return Outcome(passed=not evidence.worse, description=told, metadata=page)


register(
    CheckDefinition(
        asset="attribution",
        name="change_explained",
        question="No task's normalised entropy is worse than that of the model before, beyond chance; else: what that comes from.",
        evaluate=check_change,
    )
)
