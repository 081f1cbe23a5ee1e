"""How much of each feature is missing in a batch, against the rows that batches are drawn from."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "missing_values"
SURPRISE = 40.0
"""Logarithm of how rare a share must be by chance, e⁻⁴⁰: a batch is a random sample, so this is no matter of drift."""

MARGIN = 20.0
"""Missing values that the sample counts as having more than it has: it may have missed a rare kind of rows."""


class MissingShares:
    """Compares the share of missing values of each feature in a batch with that of a sample of all training rows.

    Args:
        names: [D] names of the numbers.
        sample: [N, D] their values in the sample, NaN where missing.
    """

    def __init__(self, names: Sequence[str], sample: NDArray[np.floating]) -> None:
        self._names = list(names)
        rows = len(sample)
        missing = np.isnan(sample).sum(axis=0)
        self._expected = np.minimum((missing + MARGIN) / max(rows + MARGIN, 1.0), 1.0)

    def outcome(self, values: NDArray[np.floating]) -> Outcome:
        """The contract for a batch [B, D] that was drawn at random from the rows of the sample.

        By the bound of Chernoff, a share of s or more has a probability of at most exp(−B · KL(s, p)) where p is expected.
        """
        rows = len(values)
        if not values.size:
            return Outcome(name=NAME, verdict="not_measured", message="there are no numbers")
        shares = np.isnan(values).mean(axis=0)
        surprise = [rows * _divergence(float(s), float(p)) for s, p in zip(shares, self._expected, strict=True)]
        at = int(np.argmax(surprise))
        if surprise[at] > SURPRISE:
            share, expected, where = float(shares[at]), float(self._expected[at]), self._names[at]
            message = (
                f"feature {where} is missing in {share:.0%} of the batch and in at most {expected:.1%} of the training rows: "
                "something on the way to the model makes it NaN (log of a negative number, 0 / 0, a failed join)"
            )
            return Outcome(
                name=NAME, verdict="failed", message=message, measured=share, limit=expected, where=where, feature=where
            )
        message = "no feature is missing more often than in the training rows"
        return Outcome(name=NAME, verdict="passed", message=message, measured=surprise[at], limit=SURPRISE)


def _divergence(share: float, expected: float) -> float:
    """Kullback–Leibler divergence of two shares, 0 where there is no more than expected."""
    if share <= expected:
        return 0.0
    rest = (1 - share) * math.log((1 - share) / (1 - expected)) if share < 1 else 0.0
    return share * math.log(share / expected) + rest
