"""Gradient health: measure each step cheaply, stop before a bad update, say where it came from."""

from ctr_pipeline.gradients.adapters.batch import BatchView
from ctr_pipeline.gradients.adapters.inputs import input_fault
from ctr_pipeline.gradients.core.diagnosis import CAUSE_ORDER, Diagnosis
from ctr_pipeline.gradients.core.loss_gradient_check import logit_gradient_ratio
from ctr_pipeline.gradients.core.monitor import GradientMonitor, StepRecord
from ctr_pipeline.gradients.core.norms import GradientNorms, clip_gradients, gradient_norms
from ctr_pipeline.gradients.core.thresholds import Finding, HealthSummary, evaluate_health
from ctr_pipeline.gradients.triage.diagnose import diagnose
from ctr_pipeline.gradients.triage.failed_step import dump_failed_step
from ctr_pipeline.gradients.triage.replay import Replay

__all__ = [
    "CAUSE_ORDER",
    "BatchView",
    "Diagnosis",
    "Finding",
    "GradientMonitor",
    "GradientNorms",
    "HealthSummary",
    "Replay",
    "StepRecord",
    "clip_gradients",
    "diagnose",
    "dump_failed_step",
    "evaluate_health",
    "gradient_norms",
    "input_fault",
    "logit_gradient_ratio",
]
