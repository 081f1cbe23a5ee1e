"""Isotonic calibration: a rising line through the observed rates of neighbouring scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import isotonic_regression

from ctr_pipeline.calibration.calibrator import CalibrationError, register_calibrator
from ctr_pipeline.calibration.labelled import Float64s, Integers, Labelled, Reals, labelled, why_undefined
from ctr_pipeline.calibration.platt import fit_offset
from ctr_pipeline.spec.calibration import Isotonic

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class IsotonicCalibrator:
    """Calibrated logit: piecewise linear in the logit through its knots, with slope 1 below the first and above the last.

    Attributes:
        logits: Logits of the knots, rising.
        calibrated: Their calibrated logits, rising.
        rows: Labelled rows that it was fitted on.
        positives: Positive ones among them.
        reason: Why there is one knot only; None when there are more.
    """

    logits: tuple[float, ...] = (0.0,)
    calibrated: tuple[float, ...] = (0.0,)
    rows: int = 0
    positives: int = 0
    reason: str | None = None

    @classmethod
    def fit(cls, logits: Reals, labels: Integers, section: Isotonic) -> "IsotonicCalibrator":
        """See :func:`fit_isotonic`."""
        return fit_isotonic(logits, labels, section.min_positives)

    def apply(self, logits: Reals) -> Float64s:
        """Calibrated logits of ``logits``, of any shape."""
        given = np.asarray(logits, dtype=np.float64)
        outside = np.minimum(given - self.logits[0], 0.0) + np.maximum(given - self.logits[-1], 0.0)
        return np.asarray(np.interp(given, self.logits, self.calibrated) + outside)

    def to_json(self) -> dict[str, Any]:
        """The fields, for :meth:`from_json`."""
        return {
            "logits": list(self.logits),
            "calibrated": list(self.calibrated),
            "rows": self.rows,
            "positives": self.positives,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The calibrator that :meth:`to_json` described.

        Raises:
            CalibrationError: a field is absent, or the knots are not finite and rising.
        """
        try:
            fitted = cls(
                logits=tuple(float(value) for value in content["logits"]),
                calibrated=tuple(float(value) for value in content["calibrated"]),
                rows=int(content["rows"]),
                positives=int(content["positives"]),
                reason=content["reason"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"calibrator: expected logits, calibrated, rows, positives and reason ({error!r})"
            ) from error
        knots = np.array([fitted.logits, fitted.calibrated]) if len(fitted.logits) == len(fitted.calibrated) else None
        if knots is None or knots.size == 0 or not (np.isfinite(knots).all() and np.all(np.diff(knots, axis=1) > 0)):
            raise CalibrationError(
                "calibrator: expected as many rising finite numbers in calibrated as in logits, at least one; found "
                f"{fitted.logits} and {fitted.calibrated}"
            )
        return fitted

    @classmethod
    def module(cls, fitted: Sequence[Self]) -> "nn.Module":
        """The lines of all tasks, each a sum of ramps."""
        from ctr_pipeline.calibration.modules import PiecewiseLinear

        return PiecewiseLinear([c.logits for c in fitted], [c.calibrated for c in fitted])


def fit_isotonic(logits: Reals, labels: Integers, min_positives: int) -> IsotonicCalibrator:
    """Isotonic regression of the labels (pool adjacent violators), joined by straight lines on the logit scale.

    Rows of neighbouring scores form bins of at least ``min_positives`` positives; bins whose rates fall with the score
    are pooled. Each pool gives a knot at its mean logit, with the logit of its rate, as in centred isotonic regression
    (Oron and Flournoy 2017): no two scores get one and the same value, and the order of the rows stays. Last, an offset
    makes the calibrated probabilities of the rows add up to their positives.

    The identity is returned, with the reason, for rows of one class. Where there is one pool, only the offset is
    fitted.

    Args:
        logits: [N].
        labels: [N] in {0, 1, -1}; rows with -1 are left out.
        min_positives: At least 1.
    """
    rows = labelled(logits, labels)
    undefined = why_undefined(len(rows), rows.positives)
    if undefined:
        return IsotonicCalibrator(rows=len(rows), positives=rows.positives, reason=f"left as it is: {undefined}")
    at, rates = _pools(rows, min_positives)
    if len(at) == 1:
        few = rows.positives < 2 * min_positives
        cause = f"{rows.positives} positives, 2 bins need {2 * min_positives}" if few else "the rate does not rise"
        return IsotonicCalibrator(
            calibrated=(fit_offset(rows),),
            rows=len(rows),
            positives=rows.positives,
            reason=f"only the offset is fitted: {cause}",
        )
    # A pool without negatives has rate 1; half a negative among all rows keeps it above the others and finite.
    heights = special.logit(np.minimum(rates, 1 - 0.5 / len(rows)))
    line = IsotonicCalibrator(logits=tuple(at.tolist()), calibrated=tuple(heights.tolist()))
    offset = fit_offset(Labelled(line.apply(rows.logits), rows.positive, None, rows.kept))
    return IsotonicCalibrator(
        logits=line.logits,
        calibrated=tuple((heights + offset).tolist()),
        rows=len(rows),
        positives=rows.positives,
    )


def _pools(rows: Labelled, min_positives: int) -> tuple[Float64s, Float64s]:
    """Mean logit and rate of each pool, both rising."""
    scores, group = np.unique(rows.logits, return_inverse=True)
    counts = np.bincount(group, minlength=len(scores)).astype(np.float64)
    positives = np.bincount(group, weights=rows.positive, minlength=len(scores))
    starts = _bins(np.cumsum(positives), min_positives)
    size, hits, total = (np.add.reduceat(values, starts) for values in (counts, positives, counts * scores))
    blocks = isotonic_regression(hits / size, weights=size).blocks[:-1]
    size, hits, total = (np.add.reduceat(values, blocks) for values in (size, hits, total))
    # As the graph holds them, so that both bend at the same logits.
    at, rates = (total / size).astype(np.float32).astype(np.float64), hits / size
    # Pools of one rate may stand beside each other.
    rising = (np.diff(at, prepend=-np.inf) > 0) & (np.diff(rates, prepend=-np.inf) > 0)
    return at[rising], rates[rising]


def _bins(cumulative: Float64s, min_positives: int) -> NDArray[np.intp]:
    """Where each bin begins, given the positives up to each score; the last bin takes what is left over."""
    starts = [0]
    while True:
        before = cumulative[starts[-1] - 1] if starts[-1] else 0.0
        end = int(np.searchsorted(cumulative, before + min_positives)) + 1
        if end >= len(cumulative) or cumulative[-1] - cumulative[end - 1] < min_positives:
            return np.array(starts, dtype=np.intp)
        starts.append(end)


register_calibrator("isotonic", IsotonicCalibrator, Isotonic)
