"""Turns logits into probabilities whose rates hold."""

from ctr_pipeline.calibration.calibrator import (
    CalibrationError,
    Calibrator,
    calibrator_from_json,
    calibrator_to_json,
    fit_calibrators,
    register_calibrator,
)
from ctr_pipeline.calibration.isotonic import IsotonicCalibrator, fit_isotonic
from ctr_pipeline.calibration.labelled import ScoreError
from ctr_pipeline.calibration.platt import PlattCalibrator, fit_platt

__all__ = [
    "CalibrationError",
    "Calibrator",
    "IsotonicCalibrator",
    "PlattCalibrator",
    "ScoreError",
    "calibrator_from_json",
    "calibrator_to_json",
    "fit_calibrators",
    "fit_isotonic",
    "fit_platt",
    "register_calibrator",
]
