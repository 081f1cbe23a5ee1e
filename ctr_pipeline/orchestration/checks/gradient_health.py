"""Did the training stay healthy? The findings of the `gradients` room, one check each."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

QUESTIONS = {
    "nonfinite": "Loss, gradients and parameters stayed finite.",
    "norm_ratio": "The gradient norm stayed near its running median.",
    "update_ratio": "Updates stayed small against the weights.",
    "dead_units": "Hidden units stayed alive.",
    "clipped_steps": "Clipping stayed the exception.",
    "logit_gradient_identity": "The gradient of the loss is that of the mean weighted cross-entropy.",
}
"""Name of a finding → what it asks, in the words of a person."""

BLOCKING = frozenset({"nonfinite", "logit_gradient_identity"})
"""Findings after which the model must not be used."""


def gradient_check_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """One check for each finding."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=name in BLOCKING, description=question)
        for name, question in QUESTIONS.items()
    ]


def check_gradients(asset: str, findings: Sequence[Mapping[str, Any]]) -> list[dg.AssetCheckResult]:
    """One result for each question.

    Args:
        asset: Asset that trained.
        findings: ``name``, ``severity`` (``ok``, ``warn`` or ``error``) and ``message`` of every judgement.

    Raises:
        KeyError: a question has no finding.
    """
    found = {finding["name"]: finding for finding in findings}
    return [
        dg.AssetCheckResult(
            asset_key=asset,
            check_name=name,
            passed=found[name]["severity"] == "ok",
            severity=dg.AssetCheckSeverity.ERROR if found[name]["severity"] == "error" else dg.AssetCheckSeverity.WARN,
            description=found[name]["message"],
        )
        for name in QUESTIONS
    ]
