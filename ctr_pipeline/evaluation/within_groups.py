"""AUC within groups, such as users or requests: free of the differences in rate between them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import Z95, EvaluationError, Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedMetrics:
    """The AUC within groups with its interval; None when no group has both classes.

    Attributes:
        auc: Mean AUC within groups, weighted by their rows.
        groups: Groups that have both classes.
        left_out: Groups of one class: they have no AUC.
        rows: Rows in the groups that count.
        share: These rows over all rows with a settled label; None where there are none.
    """

    auc: Interval | None
    groups: int
    left_out: int
    rows: int
    share: float | None

    def to_json(self) -> dict[str, Any]:
        """``{"value", "low", "high", "weighted_by", "groups", "left_out", "rows", "share"}``; an unknown bound, or value, is null."""
        found = {"value": None, "low": None, "high": None} if self.auc is None else self.auc.to_json()
        counts = {"groups": self.groups, "left_out": self.left_out, "rows": self.rows, "share": self.share}
        return {**found, "weighted_by": "rows", **counts}


def grouped_metrics(
    logits: Reals, labels: Integers, groups: Integers, clusters: Integers | None = None
) -> GroupedMetrics:
    """The AUC within each of ``groups`` [N] (-1 = none: left out), averaged by rows, and how much of the rows it speaks of.

    (GAUC: Zhu et al. 2017, who weigh groups by impressions too.) One sort for all groups. Groups of one class have no AUC and
    are left out.
    The variance is that of a ratio of sums over independent units, on the logit scale. Units are the ``clusters`` [N]
    (-1 = a row by itself) where each group lies in one of them, as a request lies within a user; else the groups.

    Raises:
        EvaluationError: ``groups`` or ``clusters`` have another length than the logits.
    """
    for name, codes in (("groups", groups), ("clusters", clusters)):
        if codes is not None and codes.shape != logits.shape:
            raise EvaluationError(f"{name}: expected shape {logits.shape}; found {codes.shape}")
    settled = int(np.count_nonzero(labels >= 0))
    rows = labelled(logits, np.where(groups >= 0, labels, -1))
    if not len(rows):
        return GroupedMetrics(auc=None, groups=0, left_out=0, rows=0, share=None if settled == 0 else 0.0)
    _, codes = np.unique(groups[rows.kept], return_inverse=True)
    auc, sizes, chosen = _within_groups(rows, codes)
    share, left_out = float(sizes.sum()) / settled, int(codes.max()) + 1 - len(auc)
    if not len(auc):
        return GroupedMetrics(auc=None, groups=0, left_out=left_out, rows=0, share=share)
    value = float(np.average(auc, weights=sizes))
    units = chosen if clusters is None else units_of(codes, cluster_codes(clusters[rows.kept], len(rows))[0], chosen)
    return GroupedMetrics(
        auc=mean_interval(value, sizes * (auc - value), float(sizes.sum()), units),
        groups=len(auc),
        left_out=left_out,
        rows=int(sizes.sum()),
        share=share,
    )


def units_of(groups: Indices, clusters: Indices, chosen: Indices) -> Indices:
    """The cluster of each of the ``chosen`` groups; the groups themselves where one of them spans several clusters."""
    first = np.full(int(groups.max()) + 1, np.iinfo(np.intp).max)
    last = np.full(len(first), -1)
    np.minimum.at(first, groups, clusters)
    np.maximum.at(last, groups, clusters)
    return first[chosen] if np.array_equal(first[chosen], last[chosen]) else chosen


def mean_interval(value: float, deviations: Float64s, total: float, units: Indices) -> Interval:
    """The interval of a weighted mean in (0, 1) whose ``deviations`` [G] are independent between ``units`` [G]."""
    _, codes = np.unique(units, return_inverse=True)
    sums = np.bincount(codes, weights=deviations)
    variance = float(np.sum(sums**2)) / total**2 * len(sums) / max(len(sums) - 1, 1)
    if len(sums) < MIN_CLUSTERS or variance == 0 or value in (0.0, 1.0):
        return Interval(value, -np.inf, np.inf)
    margin = Z95 * np.sqrt(variance) / (value * (1.0 - value))
    centre = special.logit(value)
    return Interval(value, float(special.expit(centre - margin)), float(special.expit(centre + margin)))


def _within_groups(rows: Labelled, codes: Indices) -> tuple[Float64s, Indices, Indices]:
    """AUC, rows and code of each group that has both classes; ``codes`` [N] are 0..G-1."""
    order = np.lexsort((rows.logits, codes))
    code, score, positive = codes[order], rows.logits[order], rows.positive[order]
    ends = np.flatnonzero(np.append((np.diff(code) != 0) | (np.diff(score) != 0), True))
    starts = np.concatenate([[0], ends[:-1] + 1])
    midranks = np.repeat((starts + ends) / 2.0 + 1.0, ends - starts + 1)
    sizes = np.bincount(code)
    hits = np.bincount(code, weights=positive)
    first = np.cumsum(sizes) - sizes
    ranks = np.bincount(code, weights=positive * (midranks - first[code]))
    both = (hits > 0) & (hits < sizes)
    chosen = np.flatnonzero(both)
    hits, sizes, ranks = hits[both], sizes[both], ranks[both]
    auc = (ranks - hits * (hits + 1) / 2) / (hits * (sizes - hits))
    return auc, sizes, chosen
