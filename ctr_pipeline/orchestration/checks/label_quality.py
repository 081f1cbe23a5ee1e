"""Do the outcomes rest on keys whose rates are implausible?"""

from collections.abc import Mapping, Sequence

import dagster as dg

ADVERTISER_LABELS = "advertiser_labels"
_NAMED = 3


def advertiser_labels_spec(asset: str) -> dg.AssetCheckSpec:
    """Warning: much of what the model learns comes from keys that seem to misreport."""
    return dg.AssetCheckSpec(
        ADVERTISER_LABELS,
        asset=asset,
        description="Keys with implausible outcome rates hold few of the outcomes and of the trials of each task.",
    )


def check_advertiser_labels(
    asset: str, shares: Mapping[str, tuple[float, Sequence[str]]], limit: float
) -> dg.AssetCheckResult:
    """Warning when flagged keys hold more than ``limit`` of a task's outcomes or trials.

    Args:
        asset: Asset that holds the verdicts.
        shares: By task, the share that flagged keys hold, and those keys, worst first.
        limit: Largest share.
    """
    high = {task: found for task, found in shares.items() if found[0] > limit}
    listed = "; ".join(
        f"{task} {share:.1%} ({', '.join(keys[:_NAMED])}"
        + (f" and {len(keys) - _NAMED} more)" if len(keys) > _NAMED else ")")
        for task, (share, keys) in high.items()
    )
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=ADVERTISER_LABELS,
        passed=not high,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={f"flagged_share/{task}": share for task, (share, _) in shares.items()},
        description=f"Keys with implausible rates hold more than {limit:.0%} of the outcomes or trials: {listed}. "
        "Ask them how they report, or set `label_quality.weighting: down_weight`."
        if high
        else None,
    )
