"""Do the IPS weights leave enough of the data?"""

from collections.abc import Mapping

import dagster as dg

EFFECTIVE_ROWS = "effective_sample_size"


def effective_rows_spec(asset: str) -> dg.AssetCheckSpec:
    """Warning: few rows carry most of the weight."""
    return dg.AssetCheckSpec(
        EFFECTIVE_ROWS, asset=asset, description="The effective sample size under IPS weights is at least half."
    )


def check_effective_rows(
    asset: str, shares: Mapping[str, tuple[float, float]], limit: float = 0.5
) -> dg.AssetCheckResult:
    """Warning when the effective share of a response's rows or outcomes is below ``limit``.

    Args:
        asset: Asset that holds the weights.
        shares: Effective share of all rows and of those with the outcome, by response.
        limit: Smallest share.
    """
    low = {response: min(share) for response, share in shares.items() if min(share) < limit}
    listed = ", ".join(f"{response} {share:.1%}" for response, share in low.items())
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=EFFECTIVE_ROWS,
        passed=not low,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={f"effective_rows/{response}": share[0] for response, share in shares.items()},
        description=f"IPS weights leave little of the data: {listed}. Clip more, or log more random traffic."
        if low
        else None,
    )
