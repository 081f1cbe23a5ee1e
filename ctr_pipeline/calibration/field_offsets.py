"""Offsets of a calibrated logit by the value of a field, such as the advertiser, drawn towards 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import optimize, special

from ctr_pipeline.calibration.calibrator import (
    CalibrationError,
    Calibrator,
    calibrator_from_json,
    calibrator_to_json,
    register_wrapper,
)
from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals, labelled, why_undefined
from ctr_pipeline.features.layout import FIRST_VOCABULARY_ROW

if TYPE_CHECKING:
    from torch import nn

    from ctr_pipeline.calibration.modules import FieldOffsets

LOWEST_K, HIGHEST_K = 0.1, 1e5
"""Between which k is sought: rates of the values with a standard deviation of 316 % to 0.3 % of what is expected."""

_GRID = 25
"""Values of k that are tried first: the likelihood may have more than one top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetCalibrator:
    """Calibrated logit = that of ``curve``, plus the offset of the row's value.

    It keeps the order of the rows of one value. Rows of a value without an offset, of a missing and of an unknown one
    have the curve's logit.

    Attributes:
        curve: The task's calibrator.
        feature: Name of the field.
        column: Its column in the array of the ids.
        k: Shape and rate of the gamma distribution of the values' rates; None for infinity: no value has an offset.
        values: Embedding rows of the values that have an offset, rising.
        offsets: The offset of each of ``values``.
    """

    curve: Calibrator
    feature: str
    column: int
    k: float | None = None
    values: tuple[int, ...] = ()
    offsets: tuple[float, ...] = ()

    @property
    def rows(self) -> int:
        """Labelled rows that it was fitted on."""
        return self.curve.rows

    @property
    def positives(self) -> int:
        """Positive ones among them."""
        return self.curve.positives

    @property
    def reason(self) -> str | None:
        """Why the curve was not, or not wholly, fitted; None when it was."""
        return self.curve.reason

    @classmethod
    def fit(
        cls, curve: Calibrator, logits: Reals, labels: Integers, *, feature: str, column: int, ids: Integers
    ) -> "OffsetCalibrator":
        """See :func:`fit_offsets`."""
        return fit_offsets(curve, logits, labels, feature=feature, column=column, ids=ids)

    def apply(self, logits: Reals) -> Float64s:
        """Calibrated logits of ``logits``, of any shape, for rows whose value has no offset."""
        return self.curve.apply(logits)

    def offsets_of(self, ids: Integers) -> Float64s:
        """The offset [N] of each row of ``ids`` [N, F]."""
        rows = ids[:, self.column]
        if not self.values:
            return np.zeros(len(rows))
        places = np.searchsorted(self.values, rows).clip(max=len(self.values) - 1)
        return np.where(np.take(self.values, places) == rows, np.take(self.offsets, places), 0.0)

    def to_json(self) -> dict[str, Any]:
        """The fields, for :meth:`from_json`."""
        return {
            "curve": calibrator_to_json(self.curve),
            "feature": self.feature,
            "column": self.column,
            "k": self.k,
            "values": list(self.values),
            "offsets": list(self.offsets),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The calibrator that :meth:`to_json` described.

        Raises:
            CalibrationError: a field is absent, or the values are no rising embedding rows of a vocabulary, each with a
                finite offset.
        """
        try:
            fitted = cls(
                curve=calibrator_from_json(content["curve"]),
                feature=str(content["feature"]),
                column=int(content["column"]),
                k=None if content["k"] is None else float(content["k"]),
                values=tuple(int(value) for value in content["values"]),
                offsets=tuple(float(value) for value in content["offsets"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CalibrationError(
                f"calibrator: expected curve, feature, column, k, values and offsets ({error!r})"
            ) from error
        rising = np.all(np.diff(fitted.values, prepend=FIRST_VOCABULARY_ROW - 1) > 0)
        if not (rising and len(fitted.values) == len(fitted.offsets) and np.isfinite(fitted.offsets).all()):
            raise CalibrationError(
                f"calibrator: expected rising embedding rows from {FIRST_VOCABULARY_ROW} on in values, and as many "
                f"finite numbers in offsets; found {len(fitted.values)} values and {len(fitted.offsets)} offsets"
            )
        if fitted.column < 0 or (fitted.k is None and fitted.values) or (fitted.k is not None and not fitted.k > 0):
            raise CalibrationError(
                f"calibrator: expected a column from 0 on and k > 0, or no k and no values; found column {fitted.column}, "
                f"k = {fitted.k} and {len(fitted.values)} values"
            )
        return fitted

    @classmethod
    def module(cls, fitted: Sequence[Self]) -> "nn.Module":
        """The curves of all tasks; the graph adds the offsets where it has the ids."""
        from ctr_pipeline.calibration.modules import curves

        return curves([one.curve for one in fitted])


def fit_offsets(
    curve: Calibrator, logits: Reals, labels: Integers, *, feature: str, column: int, ids: Integers
) -> OffsetCalibrator:
    """Offsets by empirical Bayes (Morris 1983; gamma and Poisson as DuMouchel 1999).

    Of a value with *o* positives where the calibrated probabilities add up to *e*, *o* is taken as Poisson with mean
    *r e*, and the rates *r* of the values as gamma with mean 1 and variance 1/*k*. The offset is the logarithm of the
    rate's posterior mean, (*o* + *k*) / (*e* + *k*). For frequent positives, whose numbers vary less than Poisson and
    whose odds change more than their rates, it is smaller than it could be, never larger.

    Args:
        curve: The task's calibrator.
        logits: [N] uncalibrated.
        labels: [N] in {0, 1, -1}; rows with -1 are left out.
        feature: Name of the field.
        column: Its column in ``ids``.
        ids: [N, F] embedding rows.
    """
    rows = labelled(logits, labels)
    values = np.asarray(ids[rows.kept, column], dtype=np.int64)
    known = values >= FIRST_VOCABULARY_ROW
    values, positive = values[known], rows.positive[known]
    without = OffsetCalibrator(curve=curve, feature=feature, column=column)
    if why_undefined(len(values), int(positive.sum())):
        return without
    found, place = np.unique(values, return_inverse=True)
    probabilities = special.expit(curve.apply(rows.logits[known]))
    observed, expected = (np.bincount(place, of).astype(np.float64) for of in (positive, probabilities))
    k = most_likely_k(observed, expected)
    if k is None:
        return without
    offsets = np.log((observed + k) / (expected + k))
    return OffsetCalibrator(
        curve=curve,
        feature=feature,
        column=column,
        k=k,
        values=tuple(found.tolist()),
        offsets=tuple(offsets.tolist()),
    )


def offsets_module(calibrators: Sequence[Calibrator]) -> "FieldOffsets | None":
    """The offsets of all tasks as one module, in the order of the tasks; None where no calibrator has any."""
    from ctr_pipeline.calibration.modules import FieldOffsets

    own = [one if isinstance(one, OffsetCalibrator) else None for one in calibrators]
    tables = [{} if one is None else dict(zip(one.values, one.offsets, strict=True)) for one in own]
    return FieldOffsets([0 if one is None else one.column for one in own], tables) if any(tables) else None


def most_likely_k(observed: Float64s, expected: Float64s) -> float | None:
    """The *k* of greatest marginal likelihood, which is negative binomial; None where none beats Poisson.

    It lies between :data:`LOWEST_K` and :data:`HIGHEST_K`; at the latter the values' rates do not differ either.

    Args:
        observed: [V] positives of each value.
        expected: [V] their expected number.
    """
    hits, met = observed[observed > 0], expected.sum()

    def gain(log_k: float) -> float:
        """Log likelihood above that of Poisson."""
        k = np.exp(log_k)
        counts = special.gammaln(hits + k) - special.gammaln(k) - hits * log_k
        return float(counts.sum() + met - (k + observed) @ np.log1p(expected / k))

    grid = np.linspace(np.log(LOWEST_K), np.log(HIGHEST_K), _GRID)
    best = int(np.argmax([gain(log_k) for log_k in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)])
    between = optimize.minimize_scalar(lambda x: -gain(x), bounds=bounds, method="bounded", options={"xatol": 1e-8}).x
    # The search never tries its bounds themselves.
    log_k = max(between, grid[best], key=gain)
    if best == _GRID - 1 or gain(log_k) <= 0:
        return None
    return float(np.exp(log_k))


register_wrapper("with_offsets", OffsetCalibrator)
