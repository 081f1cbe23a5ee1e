"""Values of a feature that are known: about as many of the training rows as of those that it is validated on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "known_values"

HARD, SOFT = 0.4, 0.2
"""Difference of the shares that is an error, and that is a warning. Of rows of a log before and after a point of
time they differ by some hundredths; a source that was added or lost, or keys of another spelling, moves nearly all rows."""

LEAST_LOSS = 0.9
"""Share of the validation's rows without a value from which it is the feature that is gone there."""

FEWEST = 500
"""Rows of each sample."""

MISSING, UNKNOWN = 0, 1
"""Rows of a vocabulary for a value that is missing, and for one that it does not have."""


@dataclass(frozen=True, slots=True)
class _Shares:
    feature: str
    what: str
    own: float
    other: float
    hard: bool


def known_values_outcome(
    names: tuple[Sequence[str], Sequence[str]],
    training: tuple[NDArray[np.floating], NDArray[np.integer]],
    reference: tuple[NDArray[np.floating], NDArray[np.integer]],
) -> Outcome:
    """Whether values are missing, or unknown to the vocabulary, in as many of the training rows as of the validation's.

    Ids that the vocabulary does not know are expected to be fewer among the rows that it was counted on. The other way round
    they may well be more: later rows have new values.

    Args:
        names: [D] names of the numbers and [F] of the ids.
        training: [N, D] raw numbers, NaN where missing, and [N, F] vocabulary rows, of the last training rows.
        reference: The same of the validation.
    """
    if min(len(training[0]), len(reference[0])) < FEWEST:
        return Outcome(name=NAME, verdict="not_measured", message=f"below {FEWEST} rows in training or validation")
    found = list(_shares(names, training, reference))
    wrong = [s for s in found if abs(s.own - s.other) > SOFT]
    if not wrong:
        message = "values are missing or unknown in about as many training rows as in the validation"
        largest = max((abs(s.own - s.other) for s in found), default=0.0)
        return Outcome(name=NAME, verdict="passed", message=message, measured=largest, limit=SOFT)
    worst = max(wrong, key=lambda s: (s.hard, abs(s.own - s.other)))
    why = (
        "keys of the rows and of the vocabulary are spelled otherwise, or the source was lost for some time: make both alike, "
        "and pack the dataset again"
        if worst.own > worst.other
        else "the model would learn from what is not there when it is used: restore the feature, or leave it out"
    )
    message = (
        f"feature {worst.feature} is {worst.what} in {worst.own:.0%} of the last training rows and in {worst.other:.0%} of "
        f"those of the validation: {why}"
    )
    return Outcome(
        name=NAME, verdict="failed", message=message, measured=abs(worst.own - worst.other), limit=HARD if worst.hard else SOFT,
        where=worst.feature, feature=worst.feature, hard=worst.hard,
    )  # fmt: skip


def _shares(
    names: tuple[Sequence[str], Sequence[str]],
    training: tuple[NDArray[np.floating], NDArray[np.integer]],
    reference: tuple[NDArray[np.floating], NDArray[np.integer]],
) -> list[_Shares]:
    found = []
    for name, own, other in zip(names[0], training[0].T, reference[0].T, strict=True):
        found.append(_missing(name, float(np.isnan(own).mean()), float(np.isnan(other).mean())))
    for name, ids, others in zip(names[1], training[1].T, reference[1].T, strict=True):
        found.append(_missing(name, float((ids == MISSING).mean()), float((others == MISSING).mean())))
        here, there = float((ids == UNKNOWN).mean()), float((others == UNKNOWN).mean())
        if here > there:
            found.append(_Shares(name, "unknown to its vocabulary", here, there, here - there > HARD))
    return found


def _missing(name: str, own: float, other: float) -> _Shares:
    gone = other >= LEAST_LOSS and own < other - HARD
    return _Shares(name, "missing", own, other, own - other > HARD or gone)
