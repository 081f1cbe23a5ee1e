"""Gradient health: measure each step cheaply, stop before a bad update, say where it came from."""

from ctr_pipeline.gradients.bundle import CAUSE_ORDER, Explanation, write_bundle
from ctr_pipeline.gradients.identity import logit_gradient_ratio
from ctr_pipeline.gradients.localise import BatchView, explain, input_fault
from ctr_pipeline.gradients.monitor import GradientMonitor, StepRecord
from ctr_pipeline.gradients.norms import GradientNorms, clip_gradients, gradient_norms
from ctr_pipeline.gradients.replay import Replay
from ctr_pipeline.gradients.verdict import Finding, HealthSummary, health_verdict

__all__ = [
    "CAUSE_ORDER",
    "BatchView",
    "Explanation",
    "Finding",
    "GradientMonitor",
    "GradientNorms",
    "HealthSummary",
    "Replay",
    "StepRecord",
    "clip_gradients",
    "explain",
    "gradient_norms",
    "health_verdict",
    "input_fault",
    "logit_gradient_ratio",
    "write_bundle",
]
