"""How well the rows of a group, such as a request or a session, are ordered: nDCG and MRR."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import cluster_codes
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval, Ranking, rank
from ctr_pipeline.evaluation.within_groups import mean_interval, units_of


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRanking:
    """The order within groups, a mean in which each group counts once; None when no group has a positive row.

    Attributes:
        key: What the rows are grouped by, such as ``request_id``.
        k: Places that nDCG looks at.
        ndcg: Normalised discounted cumulative gain at k (Järvelin & Kekäläinen 2002), gain 1 of a positive row.
        mrr: Mean reciprocal rank of the first positive row.
        groups: Groups with a positive row.
        left_out: Groups without one: they have no order that could be right.
        rows: Rows of the groups that count.
    """

    key: str
    k: int
    ndcg: Interval | None
    mrr: Interval | None
    groups: int
    left_out: int
    rows: int

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with each interval as an object."""
        return {
            "key": self.key,
            "k": self.k,
            "ndcg": None if self.ndcg is None else self.ndcg.to_json(),
            "mrr": None if self.mrr is None else self.mrr.to_json(),
            "groups": self.groups,
            "left_out": self.left_out,
            "rows": self.rows,
        }


def group_ranking(
    logits: Reals,
    labels: Integers,
    groups: Integers,
    clusters: Integers | None = None,
    *,
    k: int = 10,
    key: str = "group",
) -> GroupRanking:
    """NDCG at k and MRR within ``groups`` [N] (-1 = none: left out), which ``key`` names.

    Rows of equal logits have no order of their own: both are means over all their orders (McSherry & Najork 2008), so that
    the order of the rows given cannot matter. The variance is that of a mean over independent units: the ``clusters`` [N]
    (-1 = a row by itself) where each group lies in one of them, else the groups.

    Raises:
        EvaluationError: ``groups`` or ``clusters`` have another length than the logits, or k is below 1.
    """
    for name, codes in (("groups", groups), ("clusters", clusters)):
        if codes is not None and codes.shape != logits.shape:
            raise EvaluationError(f"{name}: expected shape {logits.shape}; found {codes.shape}")
    if k < 1:
        raise EvaluationError(f"expected k of at least 1; found {k}")
    rows = labelled(logits, labels)
    owners = None if clusters is None else cluster_codes(clusters[rows.kept], len(rows))[0]
    return group_ranking_of(rows, rank(rows.logits), groups[rows.kept], owners, k=k, key=key)


def group_ranking_of(
    rows: Labelled, ranking: Ranking, groups: Integers, owners: Indices | None, *, k: int = 10, key: str
) -> GroupRanking:
    """:func:`group_ranking` of rows that are already ranked, with their groups [M] and codes of their clusters [M]."""
    within = np.flatnonzero(groups >= 0)
    if not len(within):
        return GroupRanking(key=key, k=k, ndcg=None, mrr=None, groups=0, left_out=0, rows=0)
    _, codes = np.unique(groups[within], return_inverse=True)
    positive = rows.positive[within]
    ties = _Ties.of(ranking.groups()[within], positive, codes, len(ranking.ends))
    sizes, hits = np.bincount(codes), np.bincount(codes, weights=positive)
    chosen = np.flatnonzero(hits > 0)
    left_out = len(sizes) - len(chosen)
    if not len(chosen):
        return GroupRanking(key=key, k=k, ndcg=None, mrr=None, groups=0, left_out=left_out, rows=0)
    units = chosen if owners is None else units_of(codes, owners[within], chosen)
    ndcg = ties.discounted_gain(k)[chosen] / _cumulative_discounts(k)[np.minimum(hits[chosen], k).astype(np.intp)]
    return GroupRanking(
        key=key,
        k=k,
        ndcg=_mean(ndcg, units),
        mrr=_mean(ties.reciprocal_rank()[chosen], units),
        groups=len(chosen),
        left_out=left_out,
        rows=int(sizes[chosen].sum()),
    )


@dataclass(frozen=True, slots=True)
class _Ties:
    """Rows of one group and one logit, in order of groups and falling logits.

    Attributes:
        group: [E] the group.
        first: [E] place of the first row in its group, from 1 on.
        sizes: [E] rows.
        hits: [E] positive rows.
        groups: Number of groups.
    """

    group: Indices
    first: Indices
    sizes: Indices
    hits: Indices
    groups: int

    @classmethod
    def of(cls, places: Indices, positive: NDArray[np.bool_], codes: Indices, distinct: int) -> "_Ties":
        """Of the place of each row's score among the ``distinct`` ones, the highest first, and its group."""
        keys = codes.astype(np.int64) * distinct + places
        order = np.argsort(keys)
        ends = np.flatnonzero(np.append(np.diff(keys[order]) != 0, True))
        sizes = np.diff(ends, prepend=-1)
        starts = ends - sizes + 1
        hits = np.add.reduceat(positive[order].astype(np.intp), starts)
        lengths = np.bincount(codes)
        begins = np.cumsum(lengths) - lengths
        group = codes[order[ends]]
        return cls(group, starts - begins[group] + 1, sizes, hits, len(lengths))

    def discounted_gain(self, k: int) -> Float64s:
        """[groups] DCG at k."""
        total = _cumulative_discounts(k)
        last = np.minimum(self.first + self.sizes - 1, k)
        discounts = total[last] - total[np.minimum(self.first - 1, k)]
        gains: Float64s = self.hits * discounts / self.sizes
        return np.bincount(self.group, weights=gains, minlength=self.groups).astype(np.float64)

    def reciprocal_rank(self) -> Float64s:
        """[groups] expected 1 / place of the first positive row; 0 without one."""
        with_hits = np.flatnonzero(self.hits > 0)
        _, at = np.unique(self.group[with_hits], return_index=True)
        there = with_hits[at]
        size, hits, first = self.sizes[there], self.hits[there], self.first[there]
        # The first of h positives among n equal rows stands behind j others in C(n - j - 1, h - 1) of C(n, h) cases.
        lengths = size - hits + 1
        owner = np.repeat(np.arange(len(there)), lengths)
        behind = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        chance = np.exp(_log_choose(size[owner] - behind - 1, hits[owner] - 1) - _log_choose(size, hits)[owner])
        values = np.bincount(owner, weights=chance / (first[owner] + behind), minlength=len(there))
        found: Float64s = np.zeros(self.groups)
        found[self.group[there]] = values
        return found


def _cumulative_discounts(k: int) -> Float64s:
    """[k + 1] sum of 1 / log2(place + 1) over the first places."""
    return np.concatenate([np.zeros(1), np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])


def _log_choose(n: Indices, h: Indices) -> Float64s:
    found: Float64s = special.gammaln(n + 1.0) - special.gammaln(h + 1.0) - special.gammaln(n - h + 1.0)
    return found


def _mean(values: Float64s, units: Indices) -> Interval:
    value = float(values.mean())
    return mean_interval(value, values - value, float(len(values)), units)
