"""No calibration: where a slice has too little to say, or the logits are right already."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctr_pipeline.calibration.calibrator import CalibrationError, register_calibrator
from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals, labelled
from ctr_pipeline.spec.calibration import Identity

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityCalibrator:
    """The logits as they are.

    Attributes:
        rows: Labelled rows of the slice.
        positives: Positive ones among them.
        reason: Why nothing was fitted, or None where that was asked for.
    """

    rows: int = 0
    positives: int = 0
    reason: str | None = None

    @classmethod
    def fit(cls, logits: Reals, labels: Integers, _: Identity) -> "IdentityCalibrator":
        """Counts the rows."""
        rows = labelled(logits, labels)
        return cls(rows=len(rows), positives=rows.positives)

    def apply(self, logits: Reals) -> Float64s:
        """``logits``, of any shape."""
        return np.asarray(logits, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """The fields, for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The calibrator that :meth:`to_json` described.

        Raises:
            CalibrationError: a field is absent.
        """
        try:
            return cls(rows=int(content["rows"]), positives=int(content["positives"]), reason=content["reason"])
        except (KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"calibrator: expected rows, positives and reason ({error!r})") from error

    @classmethod
    def module(cls, fitted: Sequence[Self]) -> "nn.Module":
        """Multiplication by 1 and addition of 0."""
        from ctr_pipeline.calibration.modules import Affine

        return Affine([1.0] * len(fitted), [0.0] * len(fitted))


register_calibrator("identity", IdentityCalibrator, Identity)
