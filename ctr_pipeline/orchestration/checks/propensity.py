"""Do the IPS weights leave enough of the data?"""

from collections.abc import Mapping
from dataclasses import dataclass

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

SMALLEST_SHARE = 0.5
"""Effective share of the rows below which the check warns."""


@dataclass(frozen=True, slots=True)
class PropensityEvidence:
    """Effective share of all rows and of those with the outcome, by response."""

    shares: Mapping[str, tuple[float, float]]


def check_effective_rows(evidence: PropensityEvidence) -> Outcome:
    """Warning when the effective share of a response's rows or outcomes is below half."""
    low = {response: min(share) for response, share in evidence.shares.items() if min(share) < SMALLEST_SHARE}
    listed = ", ".join(f"{response} {share:.1%}" for response, share in low.items())
    return Outcome(
        passed=not low,
        metadata={f"effective_rows/{response}": share[0] for response, share in evidence.shares.items()},
        description=f"IPS weights leave little of the data: {listed}. Clip more, or log more random traffic."
        if low
        else None,
    )


register(
    CheckDefinition(
        asset="position_propensity",
        name="effective_sample_size",
        question="The effective sample size under IPS weights is at least half.",
        evaluate=check_effective_rows,
    )
)
