"""Do the outcomes rest on keys whose rates are implausible?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

_NAMED = 3


@dataclass(frozen=True, slots=True)
class LabelQualityEvidence:
    """By task, the share that flagged keys hold of its outcomes or trials, and those keys, worst first."""

    shares: Mapping[str, tuple[float, Sequence[str]]]
    limit: float
    """Largest share (`label_quality.max_flagged_share`)."""


def check_advertiser_labels(evidence: LabelQualityEvidence) -> Outcome:
    """Warning when flagged keys hold more than the limit of a task's outcomes or trials."""
    limit = evidence.limit
    high = {task: found for task, found in evidence.shares.items() if found[0] > limit}
    listed = "; ".join(
        f"{task} {share:.1%} ({', '.join(keys[:_NAMED])}"
        + (f" and {len(keys) - _NAMED} more)" if len(keys) > _NAMED else ")")
        for task, (share, keys) in high.items()
    )
    return Outcome(
        passed=not high,
        metadata={f"flagged_share/{task}": share for task, (share, _) in evidence.shares.items()},
        description=f"Keys with implausible rates hold more than {limit:.0%} of the outcomes or trials: {listed}. "
        "Ask them how they report, or set `label_quality.weighting: down_weight`."
        if high
        else None,
    )


register(
    CheckDefinition(
        asset="advertiser_quality",
        name="advertiser_labels",
        question="Keys with implausible outcome rates hold few of the outcomes and of the trials of each task.",
        evaluate=check_advertiser_labels,
    )
)
