"""Did the training stay healthy? The findings of the trainer, one check each."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ctr_pipeline.orchestration.checks.definition import CheckDefinition, Outcome, register

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


@dataclass(frozen=True, slots=True)
class TrainingEvidence:
    """The trainer's findings by name: ``severity`` (``ok``, ``warn`` or ``error``) and ``message``."""

    findings: Mapping[str, Mapping[str, Any]]


def check_finding(name: str, evidence: TrainingEvidence) -> Outcome:
    """The outcome of one finding."""
    finding = evidence.findings[name]
    return Outcome(
        passed=finding["severity"] == "ok", error=finding["severity"] == "error", description=finding["message"]
    )


register(
    *(
        CheckDefinition(
            asset="ranker",
            name=name,
            question=question,
            evaluate=partial(check_finding, name),
            blocking=name in BLOCKING,
        )
        for name, question in QUESTIONS.items()
    )
)
