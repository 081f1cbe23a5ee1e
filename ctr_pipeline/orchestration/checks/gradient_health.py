"""Did the training stay healthy? Verdicts of the `gradients` room, one check each."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

FINDINGS = {
    "gradients_finite": "Loss, gradients and parameters stayed finite.",
    "gradient_norm_stable": "The gradient norm stayed near its running median.",
    "update_size": "Updates stayed small against the weights.",
    "live_units": "Hidden units stayed alive.",
    "clipping_rare": "Clipping stayed the exception.",
}
"""Check name → what it asks, in the words of a person."""


def gradient_check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """One check for each question; only non-finite values block."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=name == "gradients_finite", description=question)
        for name, question in FINDINGS.items()
    ]


def check_gradients(asset: str, findings: Sequence[Mapping[str, Any]]) -> list[dg.AssetCheckResult]:
    """One result for each question.

    Args:
        asset: Asset that trained.
        findings: Name, severity (``ok``, ``warn`` or ``error``) and message of each verdict; those not listed passed.
    """
    found = {finding["name"]: finding for finding in findings}
    return [
        dg.AssetCheckResult(
            asset_key=asset,
            check_name=name,
            passed=found.get(name, {"severity": "ok"})["severity"] == "ok",
            severity=dg.AssetCheckSeverity.ERROR
            if found.get(name, {"severity": "ok"})["severity"] == "error"
            else dg.AssetCheckSeverity.WARN,
            description=found[name]["message"] if name in found else None,
        )
        for name in FINDINGS
    ]
