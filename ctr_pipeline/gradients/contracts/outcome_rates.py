"""The share of positives over the time of the training rows: the last ones are no exception."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "outcome_rates"

PARTS = 5
LEAST_SHARE = 0.4
"""Least share of positives of the last fifth, in those of the first fifth and of the validation, whichever is lower: rates that
lie between those before and after them vary, and do not fall to less than half and come back."""

LEAST_ERRORS = 8.0
"""Standard errors by which it is lower."""

FEWEST_POSITIVES = 30
"""Positives that the first fifth and the validation have."""


def outcome_rates_outcome(
    labels: NDArray[np.integer], times: NDArray[np.integer], reference: NDArray[np.integer], tasks: Sequence[str]
) -> Outcome:
    """Whether outcomes of the last training rows are as frequent as those before and after them.

    Rows whose outcomes were not yet known when they were read, and count as none, are the last ones.

    Args:
        labels: [N, T] 1, 0, or below 0 where not known, of training rows that are evenly spread.
        times: [N] their times.
        reference: [M, T] labels of the validation, which comes after them.
        tasks: [T] names.
    """
    worst, found, where, checked = math.inf, "", "", False
    order = np.argsort(times, kind="stable")
    for task, name in enumerate(tasks):
        known = labels[order, task]
        parts = np.array_split(known[known >= 0], PARTS)
        (k_first, n_first), (k_last, n_last), (k_after, n_after) = (
            _counts(part) for part in (parts[0], parts[-1], reference[:, task])
        )
        if min(k_first, k_after) < FEWEST_POSITIVES or not n_last:
            continue
        checked = True
        first, last, after = k_first / n_first, k_last / n_last, k_after / n_after
        expected, of = (first, n_first) if first < after else (after, n_after)
        error = math.sqrt(expected * (1 - expected) * (1 / n_last + 1 / of))
        share = last / expected
        if expected - last > LEAST_ERRORS * error and share < worst:
            worst, where = share, name
            found = (
                f"outcomes of task {name} are known to have happened for {last:.2%} of the last fifth of the training rows, for "
                f"{first:.2%} of the first fifth and for {after:.2%} of the validation (at least {LEAST_SHARE:g} times the lower "
                "of these expected): outcomes of the last rows were not yet known when they were read; wait for the window to "
                "close, or leave open labels out"
            )
    if not checked:
        return Outcome(name=NAME, verdict="not_measured", message="no task has enough outcomes in time")
    if worst < LEAST_SHARE:
        return Outcome(name=NAME, verdict="failed", message=found, measured=worst, limit=LEAST_SHARE, where=where)
    message = "outcomes of the last training rows are as frequent as before and after them"
    return Outcome(
        name=NAME, verdict="passed", message=message, measured=None if math.isinf(worst) else worst, limit=LEAST_SHARE
    )


def _counts(label: NDArray[np.integer]) -> tuple[int, int]:
    """Positives, and known labels."""
    return int((label == 1).sum()), int((label >= 0).sum())
