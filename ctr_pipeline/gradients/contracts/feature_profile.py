"""What a sample of the training rows says of its features: their scale, their ids, and how well each alone predicts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.outcome import Outcome

FAR_MEDIAN = 10.0
"""Median of abs(z) above which mean and deviation are not those of the column: by Chebyshev it is below 1.42 for their own."""
FAR_VALUE = 100.0
LEAK_AUC = 0.999
SUSPECT_AUC = 0.99
FEWEST = 30
"""Positives and negatives below which an AUC says nothing: of a few positives some feature ranks all first by chance."""
SHIFTS = (-3, -2, -1, 1, 2, 3)
ALIGNED_AUC = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSample:
    """Consecutive or evenly spread training rows.

    Attributes:
        names: [D + F] names of the numbers, then of the ids.
        numbers: [N, D] standardised numbers, as training statistics standardise them; NaN where missing.
        ids: [N, F] rows of each id's own table.
        labels: [N, T] 1, 0, or below 0 where not known.
        tasks: [T] names.
    """

    names: Sequence[str]
    numbers: NDArray[np.floating]
    ids: NDArray[np.integer]
    labels: NDArray[np.integer]
    tasks: Sequence[str]


def scale_outcome(sample: RowSample) -> Outcome:
    """Numbers lie where their training statistics say."""
    name = "feature_scale"
    if not sample.numbers.size:
        return Outcome(name=name, verdict="not_measured", message="there are no numbers")
    with np.errstate(all="ignore"):
        size = np.abs(sample.numbers)
        known = ~np.isnan(size)
        far = ((size > FAR_VALUE) & known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        middle = [
            float(np.median(column[own])) if own.any() else 0.0 for column, own in zip(size.T, known.T, strict=True)
        ]
    at = int(np.argmax(middle))
    worst, where = middle[at], sample.names[at]
    if worst > FAR_MEDIAN:
        message = (
            f"feature {where}: half of its values are {worst:.3g} or more standard deviations from the mean of the training "
            f"statistics (below {FAR_MEDIAN:g} expected): the statistics are of other rows, or of another scale; pack the "
            "dataset again"
        )
        return Outcome(
            name=name, verdict="failed", message=message, measured=worst, limit=FAR_MEDIAN, where=where, feature=where
        )
    at = int(np.argmax(far))
    share, where = float(far[at]), sample.names[at]
    if share:
        message = (
            f"feature {where}: {share:.2%} of its values are more than {FAR_VALUE:g} standard deviations from the mean: "
            "look for a unit, an overflow or a marker of missing values; a transform or bins would help"
        )
        return Outcome(
            name=name,
            verdict="failed",
            message=message,
            measured=share,
            limit=0.0,
            where=where,
            feature=where,
            hard=False,
        )
    message = "numbers lie where the training statistics say"
    return Outcome(name=name, verdict="passed", message=message, measured=worst, limit=FAR_MEDIAN)


def single_feature_outcome(sample: RowSample) -> Outcome:
    """No feature alone tells the outcome (a leak), at the row where it stands."""
    name, best, where, task = "single_feature", 0.5, "", ""
    for column, label in enumerate(sample.labels.T):
        for feature, auc in feature_aucs(sample, label):
            if max(auc, 1 - auc) > best:
                best, where, task = max(auc, 1 - auc), feature, sample.tasks[column]
    if not where:
        message = f"no task has {FEWEST} known positives and negatives among the sampled rows"
        return Outcome(name=name, verdict="not_measured", message=message)
    if best > SUSPECT_AUC:
        message = (
            f"feature {where} alone tells task {task} with an AUC of {best:.4f} (error above {LEAK_AUC:g}): it is made of "
            "the outcome, or read after it; remove it, or read it as of the impression"
        )
        return Outcome(
            name=name, verdict="failed", message=message, measured=best, limit=LEAK_AUC, where=where, feature=where,
            hard=best > LEAK_AUC,
        )  # fmt: skip
    if best - 0.5 < 4 * _noise(sample):
        message = (
            f"the strongest single feature, {where}, has an AUC of {best:.3f} for task {task}, which chance gives too: labels "
            "may stand beside rows that are not theirs"
        )
        return Outcome(
            name=name,
            verdict="failed",
            message=message,
            measured=best,
            limit=0.5 + 4 * _noise(sample),
            where=where,
            hard=False,
        )
    message = f"the strongest single feature is {where} with an AUC of {best:.3f} for task {task}"
    return Outcome(name=name, verdict="passed", message=message, measured=best, limit=LEAK_AUC, where=where)


def row_shift_outcome(consecutive: RowSample) -> Outcome:
    """Labels stand beside their own rows: no shift by some rows makes a feature predict that says nothing as it is."""
    name = "row_shift"
    own, shift, feature, found = 0.0, 0, "", 0.0
    for label in consecutive.labels.T:
        here = _best(feature_aucs(consecutive, label))
        if here is None:
            continue
        for by in SHIFTS:
            there = _best(feature_aucs(consecutive, np.roll(label, by)))
            if there is not None and there[1] - here[1] > found - own:
                own, found, shift, feature = here[1], there[1], by, there[0]
    noise = 4 * _noise(consecutive)
    if found > ALIGNED_AUC + noise and own < ALIGNED_AUC and found - own > noise:
        message = (
            f"labels that are shifted by {shift} rows are predicted by feature {feature} with an AUC of {found:.3f}, and where "
            f"they are by none above {own:.3f}: labels and inputs were joined by place and not by key"
        )
        return Outcome(
            name=name, verdict="failed", message=message, measured=found, limit=own, where=feature, feature=feature
        )
    message = "no shift of the labels is predicted better"
    return Outcome(name=name, verdict="passed", message=message, measured=found - own, limit=noise)


def funnel_outcome(labels: NDArray[np.integer], tasks: Sequence[str], parents: Sequence[int]) -> Outcome:
    """Outcomes of a later step of a funnel happen where those of the step before it did."""
    worst, where, checked = 0.0, "", False
    for task, parent in enumerate(parents):
        if parent < 0:
            continue
        happened = (labels[:, task] == 1) & (labels[:, parent] >= 0)
        if happened.sum() < FEWEST:
            continue
        checked = True
        share = float((labels[happened, parent] == 0).mean())
        if share > worst:
            worst, where = share, f"{tasks[task]} after {tasks[parent]}"
    name, limit = "funnel", 0.5
    if not checked:
        return Outcome(name=name, verdict="not_measured", message="no later step of a funnel has enough outcomes")
    if worst > 0:
        message = (
            f"{where}: {worst:.1%} of the outcomes have none at the step before (error above {limit:.0%}): a mask is "
            "inverted, or the labels of two tasks are exchanged"
        )
        return Outcome(
            name=name, verdict="failed", message=message, measured=worst, limit=limit, where=where, hard=worst > limit
        )
    message = "every outcome of a funnel has one at the step before"
    return Outcome(name=name, verdict="passed", message=message, measured=0.0, limit=limit)


def feature_aucs(sample: RowSample, label: NDArray[np.integer]) -> list[tuple[str, float]]:
    """For each feature the AUC with which it alone predicts ``label`` [N]; empty without enough of both outcomes.

    Numbers by their rank, either way round. Ids by the share of positives of the same id among the other half of the
    rows, so that a rare id does not know its own row.
    """
    known = label >= 0
    positive = label[known] == 1
    if min(positive.sum(), (~positive).sum()) < FEWEST:
        return []
    found = [
        (name, area_under_curve(np.nan_to_num(column[known], nan=0.0), positive))
        for name, column in zip(sample.names, sample.numbers.T, strict=False)
    ]
    names = sample.names[sample.numbers.shape[1] :]
    odd = np.arange(len(positive)) % 2 == 1
    return found + [
        (name, area_under_curve(_rates_of_others(column[known], positive, odd), positive))
        for name, column in zip(names, sample.ids.T, strict=True)
    ]


def _rates_of_others(
    ids: NDArray[np.integer], positive: NDArray[np.bool_], odd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    codes = ids.astype(np.int64) - int(ids.min())
    size, prior = int(codes.max()) + 1, float(positive.mean())
    rates = np.empty(len(codes))
    for own, other in ((odd, ~odd), (~odd, odd)):
        counts = np.bincount(codes[other], minlength=size)
        sums = np.bincount(codes[other], weights=positive[other], minlength=size)
        rates[own] = ((sums + prior) / (counts + 1))[codes[own]]
    return rates


def area_under_curve(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the curve, ties counted half."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _best(aucs: Sequence[tuple[str, float]]) -> tuple[str, float] | None:
    return max(((name, max(auc, 1 - auc)) for name, auc in aucs), key=lambda item: item[1], default=None)


def _noise(sample: RowSample) -> float:
    """Standard error of an AUC of 1/2 with the rarer outcome of the task that has most of them."""
    rarer = max(int(min((label == 1).sum(), (label == 0).sum())) for label in sample.labels.T)
    return float(np.sqrt(1 / (12 * max(rarer, 1))))
