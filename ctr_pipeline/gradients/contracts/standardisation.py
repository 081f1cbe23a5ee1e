"""Standardised numbers of the training rows have the mean and the spread that their statistics promise."""

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.feature_profile import RowSample
from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "standardisation"

LARGEST_MEAN = 1.0
"""Largest distance of the mean from 0. Statistics of the same rows have the mean 0 and the deviation 1, so by Chebyshev the
mean of a random sample of n rows is that far off with a probability of at most 1 / n, whatever the distribution."""

LARGEST_TAIL = 2.0
"""Largest k² · (share of the values beyond k deviations): by Chebyshev it is at most 1 for the rows of the statistics; the rest
is for the chance of a sample."""

DEVIATIONS = (2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
EXPECTED = 50.0
"""Values of the sample that may lie beyond k deviations, below which a share is not judged."""

FEWEST = 200
"""Rows of a sample that is judged."""


def standardisation_outcome(sample: RowSample) -> Outcome:
    """Whether each number is standardised by the statistics of its own rows.

    A number of another unit in some rows, statistics of other rows or of before a change of the source all show here, where
    most values still lie in a usual range.

    Args:
        sample: Training rows, evenly spread, with missing values filled as the statistics filled them.
    """
    if not sample.numbers.size or len(sample.numbers) < FEWEST:
        return Outcome(name=NAME, verdict="not_measured", message=f"there are no numbers, or below {FEWEST} rows")
    judged = [_judged(column) for column in sample.numbers.T]
    excess = [max(abs(mean) / LARGEST_MEAN, tail / LARGEST_TAIL) for mean, tail, _ in judged]
    at = int(np.argmax(excess))
    mean, tail, beyond = judged[at]
    where = sample.names[at]
    if excess[at] > 1:
        by_mean = abs(mean) / LARGEST_MEAN >= tail / LARGEST_TAIL
        what = (
            f"the mean of its standardised values is {mean:.3g} (between −{LARGEST_MEAN:g} and {LARGEST_MEAN:g} expected)"
            if by_mean
            else f"{tail / beyond**2:.1%} of its values lie beyond {beyond:g} standard deviations (at most {LARGEST_TAIL / beyond**2:.1%} "
            "expected)"
        )
        message = (
            f"feature {where}: {what}: the statistics are of other rows, or some rows have another unit; convert at ingestion "
            "and pack the dataset again"
        )
        measured, limit = (abs(mean), LARGEST_MEAN) if by_mean else (tail, LARGEST_TAIL)
        return Outcome(
            name=NAME, verdict="failed", message=message, measured=measured, limit=limit, where=where, feature=where
        )
    message = "numbers have the mean and the spread of their training statistics"
    return Outcome(name=NAME, verdict="passed", message=message, measured=excess[at], limit=1.0, where=where)


def _judged(column: NDArray[np.floating]) -> tuple[float, float, float]:
    """The mean; the largest k² · share beyond k, and that k."""
    known = column[np.isfinite(column)]
    if len(known) < FEWEST:
        return 0.0, 0.0, DEVIATIONS[0]
    size = np.abs(known)
    tails = [(k * k * float((size > k).mean()), k) for k in DEVIATIONS if len(known) / k**2 >= EXPECTED]
    tail, beyond = max(tails, default=(0.0, DEVIATIONS[0]))
    return float(known.mean()), tail, beyond
