"""Turns logits into probabilities whose rates hold."""

from ctr_pipeline.calibration.beta import BetaCalibrator, fit_beta
from ctr_pipeline.calibration.calibrator import (
    CalibrationError,
    Calibrator,
    calibrator_from_json,
    calibrator_to_json,
    register_calibrator,
)
from ctr_pipeline.calibration.cross_validated import fit_best
from ctr_pipeline.calibration.field_offsets import OffsetCalibrator, fit_offsets
from ctr_pipeline.calibration.fitting import fit_calibrators
from ctr_pipeline.calibration.funnel import calibrated_logits
from ctr_pipeline.calibration.identity import IdentityCalibrator
from ctr_pipeline.calibration.isotonic import IsotonicCalibrator, fit_isotonic
from ctr_pipeline.calibration.labelled import ScoreError
from ctr_pipeline.calibration.platt import PlattCalibrator, fit_platt

__all__ = [
    "BetaCalibrator",
    "CalibrationError",
    "Calibrator",
    "IdentityCalibrator",
    "IsotonicCalibrator",
    "OffsetCalibrator",
    "PlattCalibrator",
    "ScoreError",
    "calibrated_logits",
    "calibrator_from_json",
    "calibrator_to_json",
    "fit_best",
    "fit_beta",
    "fit_calibrators",
    "fit_isotonic",
    "fit_offsets",
    "fit_platt",
    "register_calibrator",
]
