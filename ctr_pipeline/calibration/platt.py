"""Platt scaling: a slope and an offset for each task's logit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import special

from ctr_pipeline.calibration.calibrator import CalibrationError, register_calibrator
from ctr_pipeline.calibration.labelled import Float64s, Integers, Labelled, Reals, labelled, why_undefined
from ctr_pipeline.spec.calibration import Platt

if TYPE_CHECKING:
    from torch import nn

SLOPE_SD, OFFSET_SD = 0.15, 0.3
"""How far a slope is taken to be from 1, and an offset from 0, before any row of the slice is seen."""

_ROUNDING = 1e-14
"""Relative error of a mean log loss, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlattCalibrator:
    """Calibrated logit = ``a`` * logit + ``b``.

    Attributes:
        a: Slope, above 0, so that the order of the rows stays.
        b: Offset.
        rows: Labelled rows that it was fitted on.
        positives: Positive ones among them.
        reason: Why slope or offset was not fitted; None when both were.
    """

    a: float = 1.0
    b: float = 0.0
    rows: int = 0
    positives: int = 0
    reason: str | None = None

    @classmethod
    def fit(cls, logits: Reals, labels: Integers, section: Platt) -> "PlattCalibrator":
        """See :func:`fit_platt`."""
        return fit_platt(logits, labels, prior=section.prior)

    def apply(self, logits: Reals) -> Float64s:
        """Calibrated logits of ``logits``, of any shape."""
        return np.asarray(logits, dtype=np.float64) * self.a + self.b

    def to_json(self) -> dict[str, Any]:
        """The fields, for :meth:`from_json`."""
        return {"a": self.a, "b": self.b, "rows": self.rows, "positives": self.positives, "reason": self.reason}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The calibrator that :meth:`to_json` described.

        Raises:
            CalibrationError: a field is absent, or the slope or offset is not a finite number, the slope above 0.
        """
        try:
            fitted = cls(
                a=float(content["a"]),
                b=float(content["b"]),
                rows=int(content["rows"]),
                positives=int(content["positives"]),
                reason=content["reason"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"calibrator: expected a, b, rows, positives and reason ({error!r})") from error
        if not (np.isfinite(fitted.a) and np.isfinite(fitted.b) and fitted.a > 0):
            raise CalibrationError(f"calibrator: expected finite a > 0 and b; found a = {fitted.a}, b = {fitted.b}")
        return fitted

    @classmethod
    def module(cls, fitted: Sequence[Self]) -> "nn.Module":
        """Slopes and offsets of all tasks as one multiplication and one addition."""
        from ctr_pipeline.calibration.modules import Affine

        return Affine([calibrator.a for calibrator in fitted], [calibrator.b for calibrator in fitted])


def fit_platt(logits: Reals, labels: Integers, weights: Reals | None = None, *, prior: float = 0.0) -> PlattCalibrator:
    """The slope and offset that minimise log loss (Platt 1999), by damped Newton steps.

    With a ``prior``, the most likely ones under independent normal priors: the slope around 1 with standard deviation
    :data:`SLOPE_SD`, and what is added at the middle of the rows (their mean logit, weighted by p(1 - p)) around 0 with
    :data:`OFFSET_SD`; ``prior`` multiplies both precisions. A few positives then move little, many all that they must.

    The identity is returned, with the reason, for rows of one class and for scores that separate the classes, where
    the best slope would be infinite. With one single score, or a best slope of 0 or below (which would turn the
    order of the rows around), only the offset is fitted.
    """
    given = labelled(logits, labels, weights)
    used = given if given.weights is None else labelled(logits, np.where(np.asarray(weights) > 0, labels, -1), weights)
    rows, positives = len(used), used.positives
    undefined = why_undefined(rows, positives)
    if undefined:
        return PlattCalibrator(rows=rows, positives=positives, reason=f"left as it is: {undefined}")
    hits, misses = used.logits[used.positive], used.logits[~used.positive]
    constant = used.logits.min() == used.logits.max()
    if not constant and (misses.max() <= hits.min() or hits.max() <= misses.min()):
        return PlattCalibrator(rows=rows, positives=positives, reason="left as it is: the scores separate the classes")
    if not constant:
        slope, offset = _newton(used, fit_slope=True, prior=prior)
        if slope > 0:
            return PlattCalibrator(a=slope, b=offset, rows=rows, positives=positives)
    reason = "all scores are equal" if constant else "the best slope is not above 0"
    return PlattCalibrator(
        b=fit_offset(used, prior), rows=rows, positives=positives, reason=f"only the offset is fitted: {reason}"
    )


def fit_offset(rows: Labelled, prior: float = 0.0) -> float:
    """What to add to the logits of ``rows``, which have both classes, so that the probabilities add up to the positives.

    With a ``prior`` as for :func:`fit_platt` it is drawn towards 0.
    """
    return _newton(rows, fit_slope=False, prior=prior)[1]


def middle(logits: Float64s) -> float:
    """Mean of ``logits``, each as much as its row says about an offset."""
    information = special.expit(logits) * special.expit(-logits) + 1e-12
    return float(information @ logits / information.sum())


def _newton(rows: Labelled, *, fit_slope: bool, prior: float) -> tuple[float, float]:
    """Slope and offset of least log loss; the slope stays 1 unless fitted. Works on standardised logits."""
    centre = middle(rows.logits) if prior else float(np.mean(rows.logits))
    spread = float(np.std(rows.logits)) or 1.0
    scaled = (rows.logits - centre) / spread
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    # Of the mean log loss; unequal weights are worth fewer rows (Kish 1965).
    both = prior * np.array([(spread * SLOPE_SD) ** -2, OFFSET_SD**-2])
    precision = both if fit_slope else both[1:]
    precision = precision * np.sum(weights**2) / weights.sum() ** 2
    likely = np.array([spread, centre]) if fit_slope else np.zeros(1)
    weights = weights / weights.sum()
    inputs = np.stack([scaled, np.ones(len(rows))]) if fit_slope else np.ones((1, len(rows)))
    fixed = np.zeros(len(rows)) if fit_slope else rows.logits
    point = np.zeros(len(inputs))
    point[-1] = special.logit(weights[rows.positive].sum()) - (0.0 if fit_slope else centre)

    def loss(candidate: Float64s) -> float:
        losses = np.logaddexp(0.0, np.where(rows.positive, -1.0, 1.0) * (candidate @ inputs + fixed))
        return float(weights @ losses + precision @ (candidate - likely) ** 2 / 2)

    current = loss(point)
    for _ in range(100):
        predicted = special.expit(point @ inputs + fixed)
        gradient = inputs @ (weights * (predicted - rows.positive)) + precision * (point - likely)
        curvature = (inputs * (weights * predicted * (1.0 - predicted))) @ inputs.T + np.diag(precision)
        step = np.linalg.solve(curvature + 1e-12 * np.trace(curvature) * np.eye(len(point)) + 1e-300, gradient)
        size = 1.0
        # Near its minimum the loss is flat to the last bits, where rounding must not stop a step that still helps.
        while size > 1e-10 and not loss(point - size * step) <= current + _ROUNDING * max(1.0, current):
            size /= 2
        if size <= 1e-10:
            break
        point = point - size * step
        current = loss(point)
        if np.max(np.abs(size * step)) < 1e-12:
            break
    if not fit_slope:
        return 1.0, float(point[0])
    slope = float(point[0] / spread)
    return slope, float(point[1] - slope * centre)


register_calibrator("platt", PlattCalibrator, Platt)
