"""Training rows against the validation's: what a feature tells alone is about the same in both."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.feature_profile import FEWEST, RowSample, feature_aucs
from ctr_pipeline.gradients.contracts.outcome import Outcome

ERRORS = 5.0
"""Standard errors of an AUC on each side: all features of all tasks are looked at, and some are far off by chance."""

LEAST_SIGNAL = 0.03
"""Distance of the validation's AUC from 1/2 that its lower bound must have before the training rows are judged by it."""

LEAK_GAP, LEAK_AUC = 0.1, 0.75
"""Gap between the bounds of both AUCs, and the least AUC in training, from which a feature is too good to be a trait of it:
drift moves an AUC by some hundredths."""

DOMINANT_AUC, DOMINANT_GAP = 0.85, 0.1
"""AUC of one feature, and its distance from the next, both by their bounds, from which it is looked at twice."""


@dataclass(frozen=True, slots=True)
class _Strength:
    """How well a feature alone predicts a task: the larger of its AUC and one minus it, with its standard error."""

    auc: float
    error: float

    @property
    def low(self) -> float:
        return max(0.5, self.auc - ERRORS * self.error)

    @property
    def high(self) -> float:
        return min(1.0, self.auc + ERRORS * self.error)


@dataclass(frozen=True, slots=True)
class _Compared:
    """The features of a task that has enough outcomes in both samples."""

    task: str
    training: dict[str, _Strength]
    reference: dict[str, _Strength]


def reference_outcomes(pairs: Iterable[tuple[RowSample, RowSample]]) -> list[Outcome]:
    """Whether labels stand beside their own rows, and no feature tells them.

    Args:
        pairs: Training rows and rows of the validation, for one or several tasks each. As many rows of both are compared,
            since an id tells more where more of its rows are known.
    """
    compared = [found for training, reference in pairs for found in _strengths(training, reference)]
    return [_alignment(compared), _leak(compared), _dominance(compared)]


def _alignment(tasks: list[_Compared]) -> Outcome:
    """Where a feature predicts an outcome in the validation, some feature predicts it in the training rows.

    Else the training labels stand beside rows that are not theirs. One feature alone may well have become useful; that
    none says anything of the training rows, and some do of later ones, has no such reason.
    """
    name, compared = "label_alignment", False
    for found in tasks:
        task, own, other = found.task, found.training, found.reference
        best = max(other, key=lambda feature: other[feature].low)
        if other[best].low - 0.5 < LEAST_SIGNAL:
            continue
        compared = True
        strongest = max(own, key=lambda feature: own[feature].auc)
        if own[strongest].high < other[best].low and own[strongest].low <= 0.5:
            message = (
                f"no feature predicts task {task} in the training rows better than chance (the strongest, {strongest}, has an "
                f"AUC of {own[strongest].auc:.3f}), and in the validation {best} does with {other[best].auc:.3f}: labels stand "
                "beside rows that are not theirs; join them by their key"
            )
            return Outcome(
                name=name, verdict="failed", message=message, measured=own[strongest].auc, limit=other[best].low, where=task
            )  # fmt: skip
    if not compared:
        message = "no feature alone predicts an outcome in the validation well enough"
        return Outcome(name=name, verdict="not_measured", message=message)
    return Outcome(
        name=name, verdict="passed", message="features predict the training labels as they do the validation's"
    )


def _leak(tasks: list[_Compared]) -> Outcome:
    """No feature alone tells the training outcome far better than that of the validation."""
    name, worst, where = "feature_leak", 0.0, ""
    compared = False
    for found in tasks:
        task, own, other = found.task, found.training, found.reference
        for feature in own.keys() & other.keys():
            compared = True
            gap = own[feature].low - other[feature].high
            if gap > worst:
                worst, where = gap, feature
            if gap > LEAK_GAP and own[feature].low > LEAK_AUC:
                message = (
                    f"feature {feature} alone predicts task {task} with an AUC of {own[feature].auc:.3f} in the training rows "
                    f"and of {other[feature].auc:.3f} in the validation: it is made of the outcome there or read after it "
                    "(read it as of the impression), or it has gone since (leave it out)"
                )
                return Outcome(
                    name=name, verdict="failed", message=message, measured=own[feature].auc,
                    limit=other[feature].high + LEAK_GAP, where=feature, feature=feature,
                )  # fmt: skip
    if not compared:
        return Outcome(name=name, verdict="not_measured", message="too few outcomes in the training or the validation")
    message = "features tell the training outcomes about as well as those of the validation"
    return Outcome(name=name, verdict="passed", message=message, measured=worst, limit=LEAK_GAP, where=where)


def _dominance(tasks: list[_Compared]) -> Outcome:
    """No feature alone predicts an outcome far better than all others, in training and validation alike.

    It may be the best that there is; it may as well be made of the outcome in all rows that were joined, and not be there
    when an impression is served. So it is a warning.
    """
    name, worst, where = "feature_dominance", 0.0, ""
    for found in tasks:
        best = max(found.training, key=lambda feature: found.training[feature].low)
        lows, gaps = [], []
        for strengths in (found.training, found.reference):
            others = [strengths[feature].high for feature in strengths if feature != best]
            lows.append(strengths[best].low)
            gaps.append(strengths[best].low - max(others, default=0.5))
        if min(gaps) > worst:
            worst, where = min(gaps), best
        if min(lows) > DOMINANT_AUC and min(gaps) > DOMINANT_GAP:
            message = (
                f"feature {best} alone predicts task {found.task} with an AUC of {found.training[best].auc:.3f} in the training "
                f"rows and of {found.reference[best].auc:.3f} in the validation, and no other comes near it: look whether it is "
                "known when the impression is served, or made of the outcome"
            )
            return Outcome(
                name=name, verdict="failed", message=message, measured=min(gaps), limit=DOMINANT_GAP, where=best, feature=best,
                hard=False,
            )  # fmt: skip
    if not tasks:
        return Outcome(name=name, verdict="not_measured", message="too few outcomes in the training or the validation")
    message = "no feature alone predicts an outcome far better than all others"
    return Outcome(name=name, verdict="passed", message=message, measured=worst, limit=DOMINANT_GAP, where=where)


def _strengths(training: RowSample, reference: RowSample) -> list[_Compared]:
    """The tasks with enough outcomes in both."""
    rows = min(len(training.labels), len(reference.labels))
    training, reference = _spread(training, rows), _spread(reference, rows)
    found = []
    for column, task in enumerate(training.tasks):
        own = _of(training, training.labels[:, column])
        other = _of(reference, reference.labels[:, column])
        if own and other:
            found.append(_Compared(task, own, other))
    return found


def _spread(sample: RowSample, rows: int) -> RowSample:
    chosen = np.linspace(0, len(sample.labels) - 1, rows).astype(np.int64)
    return replace(sample, numbers=sample.numbers[chosen], ids=sample.ids[chosen], labels=sample.labels[chosen])


def _of(sample: RowSample, label: NDArray[np.integer]) -> dict[str, _Strength]:
    positives, negatives = int((label == 1).sum()), int((label == 0).sum())
    if min(positives, negatives) < FEWEST:
        return {}
    strengths = [(feature, max(auc, 1 - auc)) for feature, auc in feature_aucs(sample, label)]
    return {feature: _Strength(auc, _error(auc, positives, negatives)) for feature, auc in strengths}


def _error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil, Radiology 143, 1982)."""
    pair = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    spread = auc * (1 - auc) + (positives - 1) * pair[0] + (negatives - 1) * pair[1]
    return math.sqrt(max(spread, 0.0) / (positives * negatives))
