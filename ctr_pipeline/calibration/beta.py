"""Beta calibration: a slope for log p, another for log(1 - p), and an offset."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import optimize, special

from ctr_pipeline.calibration.calibrator import CalibrationError, register_calibrator
from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals, labelled, why_undefined
from ctr_pipeline.calibration.platt import OFFSET_SD, SLOPE_SD, middle
from ctr_pipeline.spec.calibration import Beta

if TYPE_CHECKING:
    from torch import nn

_LEAST_SLOPE = 1e-3
"""Slopes above 0 keep the order of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BetaCalibrator:
    """Calibrated logit = ``a`` * log p - ``b`` * log(1 - p) + ``c``, with p the sigmoid of the logit.

    Attributes:
        a: Slope for log p, above 0.
        b: Slope for log(1 - p), above 0.
        c: Offset.
        rows: Labelled rows that it was fitted on.
        positives: Positive ones among them.
        reason: Why it was not fitted; None when it was.
    """

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0
    rows: int = 0
    positives: int = 0
    reason: str | None = None

    @classmethod
    def fit(cls, logits: Reals, labels: Integers, section: Beta) -> "BetaCalibrator":
        """See :func:`fit_beta`."""
        return fit_beta(logits, labels, section.prior)

    def apply(self, logits: Reals) -> Float64s:
        """Calibrated logits of ``logits``, of any shape."""
        given = np.asarray(logits, dtype=np.float64)
        return np.asarray(self.b * np.logaddexp(0.0, given) - self.a * np.logaddexp(0.0, -given) + self.c)

    def to_json(self) -> dict[str, Any]:
        """The fields, for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The calibrator that :meth:`to_json` described.

        Raises:
            CalibrationError: a field is absent, or not finite, or a slope is not above 0.
        """
        try:
            a, b, c = (float(content[name]) for name in ("a", "b", "c"))
            fitted = cls(
                a=a, b=b, c=c, rows=int(content["rows"]), positives=int(content["positives"]), reason=content["reason"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"calibrator: expected a, b, c, rows, positives and reason ({error!r})") from error
        if not (np.isfinite([a, b, c]).all() and a > 0 and b > 0):
            raise CalibrationError(f"calibrator: expected finite a > 0, b > 0 and c; found a = {a}, b = {b}, c = {c}")
        return fitted

    @classmethod
    def module(cls, fitted: Sequence[Self]) -> "nn.Module":
        """Slopes and offsets of all tasks."""
        from ctr_pipeline.calibration.modules import BetaCurve

        return BetaCurve([f.a for f in fitted], [f.b for f in fitted], [f.c for f in fitted])


def fit_beta(logits: Reals, labels: Integers, prior: float) -> BetaCalibrator:
    """The slopes and offset of least log loss (Kull, Silva Filho and Flach, AISTATS 2017), drawn towards the identity.

    Normal priors: both slopes around 1 with standard deviation :data:`~ctr_pipeline.calibration.platt.SLOPE_SD`, and
    what is added at the middle of the rows around 0 with :data:`~ctr_pipeline.calibration.platt.OFFSET_SD`; ``prior``
    multiplies the precisions. The identity is returned, with the reason, for rows of one class and for scores that
    separate the classes.
    """
    rows = labelled(logits, labels)
    unfitted = BetaCalibrator(rows=len(rows), positives=rows.positives)
    undefined = why_undefined(len(rows), rows.positives)
    if undefined:
        return replace(unfitted, reason=f"left as it is: {undefined}")
    hits, misses = rows.logits[rows.positive], rows.logits[~rows.positive]
    if misses.max() <= hits.min() or hits.max() <= misses.min():
        return replace(unfitted, reason="left as it is: the scores separate the classes")
    centre = middle(rows.logits)
    log_p, odds = -np.logaddexp(0.0, -rows.logits), np.logaddexp(0.0, rows.logits)
    at_p, at_odds = -np.logaddexp(0.0, -centre), np.logaddexp(0.0, centre)
    inputs = np.stack([log_p - at_p, odds - at_odds, np.ones(len(rows))])
    precision = prior * np.array([SLOPE_SD**-2, SLOPE_SD**-2, OFFSET_SD**-2]) / len(rows)
    sign = np.where(rows.positive, -1.0, 1.0)

    def loss(change: Float64s) -> tuple[float, Float64s]:
        """Mean log loss and its gradient, at slopes of 1 and an offset of 0, each plus ``change``."""
        values = rows.logits + change @ inputs
        error = special.expit(values) - rows.positive
        value = np.logaddexp(0.0, sign * values).mean() + precision @ change**2 / 2
        return float(value), np.asarray(inputs @ error / len(rows) + precision * change)

    bounds = [(_LEAST_SLOPE - 1, None), (_LEAST_SLOPE - 1, None), (None, None)]
    found = optimize.minimize(
        loss, np.zeros(3), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-10}
    ).x
    offset = float(found[2] - found[0] * at_p - found[1] * at_odds)
    return replace(unfitted, a=1 + float(found[0]), b=1 + float(found[1]), c=offset)


register_calibrator("beta", BetaCalibrator, Beta)
