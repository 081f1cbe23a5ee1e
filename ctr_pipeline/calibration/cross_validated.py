"""The calibrator that does best on rows which it was not fitted on."""

import numpy as np

from ctr_pipeline.calibration.calibrator import Calibrator, fit_calibrator, register_choice
from ctr_pipeline.calibration.labelled import Integers, Reals, labelled
from ctr_pipeline.spec.calibration import CalibratorSection, CrossValidated

_EQUAL = 1e-9
"""Relative difference of losses that is rounding."""


def fit_best(logits: Reals, labels: Integers, section: CrossValidated) -> Calibrator:
    """The candidate of least cross-validated log loss, fitted on all rows; of equally good ones the first.

    The folds are every n-th row, so that each holds rows of all times. Where a fold leaves rows of one class, the
    candidates that need both change nothing there, and the choice falls on what needs none.

    Args:
        logits: [N].
        labels: [N] in {0, 1, -1}; rows with -1 are left out.
        section: Candidates and folds.
    """
    rows = labelled(logits, labels)
    values, outcomes = rows.logits, rows.positive.astype(np.int8)
    fold = np.arange(len(rows)) % section.folds
    losses = [_loss(values, outcomes, fold, candidate) for candidate in section.choices]
    good = min(losses) * (1 + _EQUAL)
    chosen = next(candidate for candidate, loss in zip(section.choices, losses, strict=True) if loss <= good)
    return fit_calibrator(chosen, logits, labels)


def _loss(logits: Reals, labels: Integers, fold: Integers, candidate: CalibratorSection) -> float:
    """Sum of the log losses of the rows, each by the calibrator that was fitted without the row's fold."""
    total = 0.0
    for left_out in np.unique(fold):
        rest = fold != left_out
        held = fit_calibrator(candidate, logits[rest], labels[rest]).apply(logits[~rest])
        total += float(np.logaddexp(0.0, np.where(labels[~rest] == 1, -1.0, 1.0) * held).sum())
    return total


register_choice("cross_validated", fit_best, CrossValidated)
