"""Gradient health: measure each step cheaply, stop before a bad update, name the tensor that broke first.

Importing the package registers the detectors and needs no torch, so that Dagster's definitions can derive their checks
from them. What computes is imported from its module.
"""

from ctr_pipeline.gradients import detectors as _built_in  # noqa: F401 - registers them
from ctr_pipeline.gradients.core.detector import Detector
from ctr_pipeline.gradients.core.detector_registry import register_detector, registered_detectors, unregister_detector
from ctr_pipeline.gradients.core.diagnosis import CAUSE_ORDER, Diagnosis
from ctr_pipeline.gradients.core.findings import Finding, HealthReport, NamedFinding, exceeds, grade, strongest
from ctr_pipeline.gradients.core.step_view import (
    AppliedRate,
    LossView,
    Probe,
    StepRecord,
    StepStart,
    StepView,
    Update,
)

__all__ = [
    "CAUSE_ORDER",
    "AppliedRate",
    "Detector",
    "Diagnosis",
    "Finding",
    "HealthReport",
    "LossView",
    "NamedFinding",
    "Probe",
    "StepRecord",
    "StepStart",
    "StepView",
    "Update",
    "exceeds",
    "grade",
    "register_detector",
    "registered_detectors",
    "strongest",
    "unregister_detector",
]
