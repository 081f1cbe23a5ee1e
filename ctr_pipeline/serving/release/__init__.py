"""Which model answers a request, and when a trial of another one ends. Pure rules: no clock, no registry, no files."""

from ctr_pipeline.serving.release.arms import Arm, in_canary
from ctr_pipeline.serving.release.guardrails import (
    CanaryGuard,
    GuardrailRules,
    TaskOutcomes,
    early_reasons,
    outcome_reasons,
)
from ctr_pipeline.serving.release.sequential_tests import Outcomes
from ctr_pipeline.serving.release.served_state import ServedState, ServedVersion, Trial, TrialMode

__all__ = [
    "Arm",
    "CanaryGuard",
    "GuardrailRules",
    "Outcomes",
    "ServedState",
    "ServedVersion",
    "TaskOutcomes",
    "Trial",
    "TrialMode",
    "early_reasons",
    "in_canary",
    "outcome_reasons",
]
