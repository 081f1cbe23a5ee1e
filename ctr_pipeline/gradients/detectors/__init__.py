"""The health checks of a training, one class in one file each; importing the package registers them."""

from ctr_pipeline.gradients.core.detector_registry import register_detector
from ctr_pipeline.gradients.detectors.batch_composition import BatchComposition
from ctr_pipeline.gradients.detectors.clipped_steps import ClippedSteps
from ctr_pipeline.gradients.detectors.dead_units import DeadUnits
from ctr_pipeline.gradients.detectors.departure import Departure
from ctr_pipeline.gradients.detectors.divergence import Divergence
from ctr_pipeline.gradients.detectors.learning_rate import LearningRate
from ctr_pipeline.gradients.detectors.loss_gradient import LossGradient
from ctr_pipeline.gradients.detectors.nonfinite import Nonfinite
from ctr_pipeline.gradients.detectors.norm_ratio import NormRatio
from ctr_pipeline.gradients.detectors.stale_batch import StaleBatch
from ctr_pipeline.gradients.detectors.update_ratio import UpdateRatio

register_detector(Nonfinite)
register_detector(NormRatio)
register_detector(UpdateRatio)
register_detector(DeadUnits)
register_detector(ClippedSteps)
register_detector(LossGradient)
register_detector(Divergence)
register_detector(StaleBatch)
register_detector(Departure)
register_detector(LearningRate)
register_detector(BatchComposition)

__all__ = [
    "BatchComposition",
    "ClippedSteps",
    "DeadUnits",
    "Departure",
    "Divergence",
    "LearningRate",
    "LossGradient",
    "Nonfinite",
    "NormRatio",
    "StaleBatch",
    "UpdateRatio",
]
