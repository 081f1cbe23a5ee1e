"""Were the labels settled when they were used?"""

from collections.abc import Mapping

import dagster as dg

TEST_MATURE = "test_rows_mature"
LATE_RATE = "late_positive_rate"
LATE_SIGNIFICANCE = 0.01


def test_maturity_spec(asset: str) -> dg.AssetCheckSpec:
    """Blocking: a test on unsettled labels is no test."""
    return dg.AssetCheckSpec(
        TEST_MATURE, asset=asset, blocking=True, description="The labels of the test rows are settled."
    )


def late_rate_spec(asset: str) -> dg.AssetCheckSpec:
    """Warning: outcomes that arrive after their label counted as settled."""
    return dg.AssetCheckSpec(LATE_RATE, asset=asset, description="Few outcomes arrive after their window closed.")


def check_test_maturity(asset: str, share: float, limit: float, silent: Mapping[str, str]) -> dg.AssetCheckResult:
    """Error when the share of settled labels among the test rows and tasks is below ``limit``.

    Args:
        asset: Asset that holds the labels.
        share: Share of test rows and tasks whose outcomes had been delivered past their maturity.
        limit: Smallest share that is enough.
        silent: Logs of outcomes that have stopped, each with the instant up to which it was delivered.
    """
    passed = share >= limit
    stopped = ", ".join(f"`{log}` up to {instant}" for log, instant in silent.items())
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=TEST_MATURE,
        passed=passed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"mature_share": share, "limit": limit, "stopped_logs": stopped or "none"},
        description=None
        if passed
        else f"Only {share:.2%} of the test labels are past their maturity; at least {limit:.2%} is needed."
        + (
            f" Logs have stopped: delivered is {stopped}. Read what they have sent since, or wait for it."
            if stopped
            else ""
        ),
    )


def check_late_rate(
    asset: str, late: Mapping[str, int], positives: Mapping[str, int], limit: float = 0.001
) -> dg.AssetCheckResult:
    """Warning when the share of late positives surely exceeds ``limit`` (one-sided exact binomial test, 1 %).

    Args:
        asset: Asset that holds the labels.
        late: Outcomes first known after their label counted as settled, by task.
        positives: All outcomes that count, late ones included, by task.
        limit: Largest share that is taken as normal.
    """
    from scipy.stats import binomtest

    high = [
        task
        for task, count in late.items()
        if count and binomtest(count, positives[task], limit, alternative="greater").pvalue < LATE_SIGNIFICANCE
    ]
    listed = ", ".join(f"{task} {late[task]} of {positives[task]}" for task in high)
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=LATE_RATE,
        passed=not high,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={**{f"late_share/{task}": late[task] / max(1, n) for task, n in positives.items()}, "limit": limit},
        description=f"Outcomes arrive after their window closed: {listed}. Raise split.ingest_lag." if high else None,
    )
