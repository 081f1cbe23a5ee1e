"""What a training left behind, and what single observations say of causes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """An observation that speaks for a cause, or against it.

    Attributes:
        cause: Name of the cause.
        weight: How much it says, from 0 to 1: the share of doubt that it removes.
        text: The observation with its numbers, a sentence.
        location: Parameter, feature, task or module where it was made; None where it is of the whole training.
        separating: Whether no other known cause leaves it behind.
        against: Whether it speaks against the cause.
        stage: The stage of the training at which it departs from what is declared, where that is what was observed
            (:mod:`ctr_pipeline.gradients.triage.differential`).
    """

    cause: str
    weight: float
    text: str
    location: str | None = None
    separating: bool = False
    against: bool = False
    stage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvidence:
    """What a training left behind.

    Attributes:
        cause: The diagnosis of its stop, as plain values; empty where it went to its end. ``contract`` names the contract.
        outcomes: What contracts found, as plain values: those of contracts.json.
        findings: What detectors found, as plain values: those of result.json.
        steps: A record for each step, oldest first: those of steps.jsonl.
        validation: A record for each validated epoch: those of validation.jsonl.
        clues: Further observations, as of a survey of the built training.
        settings: The ``training`` section of its job.
        looked_at: Names of the evidence that was there.
    """

    cause: Mapping[str, Any] = field(default_factory=dict)
    outcomes: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[Mapping[str, Any]] = ()
    validation: Sequence[Mapping[str, Any]] = ()
    clues: Sequence[Clue] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    looked_at: tuple[str, ...] = ()

    def failed(self, contract: str) -> Mapping[str, Any] | None:
        """What ``contract`` found, where it is broken."""
        return next((o for o in self.outcomes if o["name"] == contract and o["verdict"] == "failed"), None)

    def finding(self, name: str) -> Mapping[str, Any] | None:
        """What the detector ``name`` found, where that is not ok."""
        return next((f for f in self.findings if f["name"] == name and f["severity"] != "ok"), None)
