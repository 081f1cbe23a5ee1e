"""The rows of one number that was served otherwise than recomputed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.online.skew_kinds import Mask, looked_at

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberEvidence:
    """The rows of one number. K rows were compared, of which some differ."""

    served: Numbers
    """[K]; NaN = missing."""
    expected: Numbers
    """[K] as recomputed."""
    differs: Mask
    """[K]"""
    requests: NDArray[np.int64]
    """[K] the request of each row."""
    ts: NDArray[np.int64] | None = None
    """[K] times in microseconds; None where they are not known."""
    earlier: Callable[[int], Numbers] | None = None
    """[K] values from a snapshot so many days older; None where the feature has no history."""
    others: Mapping[str, Numbers] = field(default_factory=dict)
    """[K] recomputed values of the other numbers."""
    is_age: bool = False
    """Whether it is a time in seconds before the impression."""
    fill: float = 0.0
    """What the model puts in the place of a missing value."""
    scale: tuple[float, float] = (0.0, 1.0)
    """Mean and deviation by which the model standardises it."""
    logarithmic: bool = False
    """Whether the model takes its logarithm before that."""

    def sample(self) -> "tuple[Numbers, Numbers, NDArray[np.intp]]":
        """Served and expected values of the differing rows, at most :data:`MOST_ROWS`, and where they are."""
        rows = looked_at(self.differs)
        return self.served[rows], self.expected[rows], rows


def close(served: Numbers, expected: Numbers, tolerance: float = 1e-6) -> Mask:
    """Where two values are equal within a relative tolerance, or both are missing."""
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(served), np.abs(expected))
        near = (np.abs(served - expected) <= tolerance * size) & np.isfinite(size)
    found: Mask = near | (served == expected) | (np.isnan(served) & np.isnan(expected))
    return found


def known_of(evidence: NumberEvidence) -> Mask:
    """Where both values are there."""
    found: Mask = np.isfinite(evidence.served) & np.isfinite(evidence.expected)
    return found
