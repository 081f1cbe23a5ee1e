"""Rows whose label is settled: what calibrators are fitted on and metrics are computed from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.errors import UserError

Reals = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Float64s = NDArray[np.float64]
Indices = NDArray[np.intp]


class ScoreError(UserError):
    """Scores or labels that cannot be used; the message says which row, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The rows that have a label.

    Attributes:
        logits: [M], finite.
        positive: [M], whether the label is 1.
        weights: [M], or None where every row counts 1.
        kept: [M], index of each row in the arrays given.
    """

    logits: Float64s
    positive: NDArray[np.bool_]
    weights: Float64s | None
    kept: Indices

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def positives(self) -> int:
        """Number of rows with label 1."""
        return int(np.count_nonzero(self.positive))


def labelled(logits: Reals, labels: Integers, weights: Reals | None = None) -> Labelled:
    """The rows with a label of 0 or 1.

    Raises:
        ScoreError: the lengths differ, a label is none of 0, 1, -1, a labelled row's logit is not finite,
            or a weight is negative or not finite.
    """
    if logits.ndim != 1 or logits.shape != labels.shape or (weights is not None and weights.shape != logits.shape):
        shapes = [str(array.shape) for array in (logits, labels, weights) if array is not None]
        raise ScoreError(f"expected logits, labels and weights of one length [N]; found shapes {', '.join(shapes)}")
    strange = np.flatnonzero((labels < -1) | (labels > 1))
    if len(strange):
        raise ScoreError(
            f"row {strange[0]}: label {labels[strange[0]]}; expected 1, 0, or -1 for a row without a settled label"
        )
    kept = np.flatnonzero(labels >= 0)
    values = np.asarray(logits[kept], dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        raise ScoreError(
            f"row {kept[broken[0]]}: logit {values[broken[0]]}; expected a finite number ({len(broken)} rows are not)"
        )
    chosen = None if weights is None else np.asarray(weights[kept], dtype=np.float64)
    if chosen is not None and not np.all(np.isfinite(chosen) & (chosen >= 0)):
        raise ScoreError("a weight is negative or not finite; expected numbers of at least 0")
    return Labelled(values, labels[kept] == 1, chosen, kept)


def why_undefined(rows: int, positives: int) -> str | None:
    """Why ``rows`` with ``positives`` define no ranking metric or NE; None when they do."""
    if rows == 0:
        return "no row has a settled label"
    if positives == 0:
        return f"none of the {rows} labelled rows is positive"
    if positives == rows:
        return f"all {rows} labelled rows are positive"
    return None
