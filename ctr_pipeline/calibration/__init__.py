"""Turns logits into probabilities whose rates hold."""

from ctr_pipeline.calibration.platt import CalibrationError, Calibrator, fit_platt

__all__ = ["CalibrationError", "Calibrator", "fit_platt"]
