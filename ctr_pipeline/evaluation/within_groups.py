"""AUC within groups, such as users or requests: free of the differences in rate between them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import Z95, EvaluationError, Interval, Ranking, rank


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedMetrics:
    """The AUC within groups with its interval; None when no group has both classes.

    Attributes:
        key: What the rows are grouped by, such as ``user``.
        auc: Mean AUC within groups, weighted by their rows.
        groups: Groups that have both classes.
        left_out: Groups of one class: they have no AUC.
        rows: Rows in the groups that count.
        share: These rows over all rows with a settled label; None where there are none.
    """

    key: str
    auc: Interval | None
    groups: int
    left_out: int
    rows: int
    share: float | None

    def to_json(self) -> dict[str, Any]:
        """``{"key", "value", "low", "high", "weighted_by", "groups", "left_out", "rows", "share"}``; an unknown bound, or value, is null."""
        found = {"value": None, "low": None, "high": None} if self.auc is None else self.auc.to_json()
        counts = {"groups": self.groups, "left_out": self.left_out, "rows": self.rows, "share": self.share}
        return {"key": self.key, **found, "weighted_by": "rows", **counts}


def grouped_metrics(
    logits: Reals, labels: Integers, groups: Integers, clusters: Integers | None = None, *, key: str = "group"
) -> GroupedMetrics:
    """The AUC within each of ``groups`` [N] (-1 = none: left out), averaged by rows, and how much of the rows it speaks of.

    (GAUC: Zhu et al. 2017, who weigh groups by impressions too.) One sort for all groups. Groups of one class have no AUC and
    are left out.
    The variance is that of a ratio of sums over independent units, on the logit scale. Units are the ``clusters`` [N]
    (-1 = a row by itself) where each group lies in one of them, as a request lies within a user; else the groups.
    ``key`` names what the groups are.

    Raises:
        EvaluationError: ``groups`` or ``clusters`` have another length than the logits.
    """
    for name, codes in (("groups", groups), ("clusters", clusters)):
        if codes is not None and codes.shape != logits.shape:
            raise EvaluationError(f"{name}: expected shape {logits.shape}; found {codes.shape}")
    rows = labelled(logits, labels)
    owners = None if clusters is None else cluster_codes(clusters[rows.kept], len(rows))[0]
    return grouped_of(rows, rank(rows.logits), groups[rows.kept], owners, key=key)


def grouped_of(
    rows: Labelled, ranking: Ranking, groups: Integers, owners: Indices | None, *, key: str
) -> GroupedMetrics:
    """:func:`grouped_metrics` of rows that are already ranked, with their groups [M] and codes of their clusters [M]."""
    settled, within = len(rows), np.flatnonzero(groups >= 0)
    if not len(within):
        share = None if settled == 0 else 0.0
        return GroupedMetrics(key=key, auc=None, groups=0, left_out=0, rows=0, share=share)
    _, codes = np.unique(groups[within], return_inverse=True)
    # From the lowest score up.
    places = len(ranking.ends) - 1 - ranking.groups()[within]
    auc, sizes, chosen = _within_groups(places, rows.positive[within], codes, len(ranking.ends))
    share, left_out = float(sizes.sum()) / settled, int(codes.max()) + 1 - len(auc)
    if not len(auc):
        return GroupedMetrics(key=key, auc=None, groups=0, left_out=left_out, rows=0, share=share)
    value = float(np.average(auc, weights=sizes))
    units = chosen if owners is None else units_of(codes, owners[within], chosen)
    return GroupedMetrics(
        key=key,
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


def _within_groups(
    places: Indices, positive: NDArray[np.bool_], codes: Indices, distinct: int
) -> tuple[Float64s, Indices, Indices]:
    """AUC, rows and code of each group that has both classes; ``codes`` [N] are 0..G-1, ``places`` [N] those of the scores."""
    keys = codes.astype(np.int64) * distinct + places
    # Rows of equal keys are alike but for their class, of which only the number counts.
    order = np.argsort(keys)
    sorted_keys, code, hit = keys[order], codes[order], positive[order]
    ends = np.flatnonzero(np.append(np.diff(sorted_keys) != 0, True))
    starts = np.concatenate([[0], ends[:-1] + 1])
    midranks = np.repeat((starts + ends) / 2.0 + 1.0, ends - starts + 1)
    sizes = np.bincount(code)
    hits = np.bincount(code, weights=hit)
    first = np.cumsum(sizes) - sizes
    ranks = np.bincount(code, weights=hit * (midranks - first[code]))
    both = (hits > 0) & (hits < sizes)
    chosen = np.flatnonzero(both)
    hits, sizes, ranks = hits[both], sizes[both], ranks[both]
    auc = (ranks - hits * (hits + 1) / 2) / (hits * (sizes - hits))
    return auc, sizes, chosen
