"""Where a model is wrong although it is right on average: O/E and NE by slice, and AUC within groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import Z95, EvaluationError, Interval, entropy, poisson_ratio, row_losses

FALSE_DISCOVERY_RATE = 0.05
"""Expected share of wrong alarms among the slices that are marked as miscalibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceMetrics:
    """One slice of the labelled rows.

    Attributes:
        dimension: What the rows were divided by, such as ``position``.
        value: The rows' value of it.
        rows: Labelled rows.
        positives: Positive ones.
        oe: Observed over expected positives, with the exact Poisson interval.
        ne: Log loss over the entropy of the slice's own base rate; None with one class.
        p_value: Chance of a count at least this far from the expected one, were the predictions right.
        miscalibrated: Whether it stands out after Benjamini-Hochberg over all slices of the call.
    """

    dimension: str
    value: str
    rows: int
    positives: int
    oe: Interval
    ne: float | None
    p_value: float
    miscalibrated: bool

    def to_json(self) -> dict[str, Any]:
        """The fields, with the interval as an object."""
        return {
            "dimension": self.dimension,
            "value": self.value,
            "rows": self.rows,
            "positives": self.positives,
            "oe": self.oe.to_json(),
            "ne": self.ne,
            "p_value": self.p_value,
            "miscalibrated": self.miscalibrated,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedAUC:
    """Mean AUC within groups, weighted by their rows; None when no group has both classes.

    Attributes:
        value: The mean.
        groups: Groups that have both classes.
        rows: Rows in them.
    """

    value: float | None
    groups: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedMetrics:
    """The AUC within groups with its interval; None when no group has both classes.

    Attributes:
        auc: Mean AUC within groups, weighted by their rows.
        groups: Groups that have both classes.
        rows: Rows in them.
        share: These rows over all rows with a settled label; None where there are none.
    """

    auc: Interval | None
    groups: int
    rows: int
    share: float | None

    def to_json(self) -> dict[str, float | None]:
        """``{"value", "low", "high", "groups", "rows", "share"}``; an unknown bound, or value, is null."""
        found = {"value": None, "low": None, "high": None} if self.auc is None else self.auc.to_json()
        return {**found, "groups": self.groups, "rows": self.rows, "share": self.share}


def standard_slices(
    position: Integers, random: NDArray[np.bool_], numeric: Reals, numeric_names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """The slices that every evaluation looks at.

    Args:
        position: [N]; 0 = none.
        random: [N]; whether the row is randomised traffic.
        numeric: [N, D]; NaN = missing.
        numeric_names: D names.

    Returns:
        ``position`` and ``traffic``, where they vary, and ``missing <feature>`` for numbers that at least 1 % of the
        rows, but not all, lack: each [N].
    """
    slices: dict[str, NDArray[Any]] = {}
    if len(position) and position.min() != position.max():
        slices["position"] = position
    if random.any() and not random.all():
        slices["traffic"] = np.where(random, "random", "production")
    for column, name in enumerate(numeric_names):
        missing = np.isnan(numeric[:, column])
        if len(missing) and 0.01 <= missing.mean() < 1:
            slices[f"missing {name}"] = np.where(missing, "missing", "present")
    return slices


def slice_metrics(
    logits: Reals, labels: Integers, slices: Mapping[str, NDArray[Any]], *, largest: int = 50
) -> tuple[SliceMetrics, ...]:
    """O/E and NE of each value of each dimension in ``slices`` (name -> [N]).

    Of a dimension with more than ``largest`` values the largest slices are shown. Slices are in order of dimension,
    then value.

    Raises:
        EvaluationError: a dimension has another length than the logits.
    """
    rows = labelled(logits, labels)
    losses, predicted = row_losses(rows.logits, rows.positive), special.expit(rows.logits)
    found: list[tuple[str, str, int, int, float, float]] = []
    for dimension, values in slices.items():
        if values.shape != logits.shape:
            raise EvaluationError(f"slice {dimension!r}: expected shape {logits.shape}; found {values.shape}")
        names, codes = np.unique(values[rows.kept], return_inverse=True)
        counts, positives, expected, loss = (
            np.bincount(codes, weights=amount, minlength=len(names))
            for amount in (np.ones(len(rows)), rows.positive, predicted, losses)
        )
        for i in sorted(np.argsort(-counts, kind="stable")[:largest]):
            found.append(
                (dimension, str(names[i]), int(counts[i]), int(positives[i]), float(expected[i]), float(loss[i]))
            )
    p_values = np.array([poisson_p_value(positives, expected) for *_, positives, expected, _ in found])
    marked = benjamini_hochberg(p_values, FALSE_DISCOVERY_RATE)
    return tuple(
        SliceMetrics(
            dimension=dimension,
            value=value,
            rows=count,
            positives=positives,
            oe=poisson_ratio(positives, expected),
            ne=loss / count / entropy(positives / count) if 0 < positives < count else None,
            p_value=float(p_value),
            miscalibrated=bool(mark),
        )
        for (dimension, value, count, positives, expected, loss), p_value, mark in zip(
            found, p_values, marked, strict=True
        )
    )


def poisson_p_value(observed: int, expected: float) -> float:
    """Two-sided exact p-value of a Poisson count: twice the smaller tail, at most 1."""
    lower = special.pdtr(observed, expected)
    upper = special.pdtrc(observed - 1, expected) if observed else 1.0
    return float(min(1.0, 2.0 * min(lower, upper)))


def benjamini_hochberg(p_values: Float64s, rate: float) -> NDArray[np.bool_]:
    """Which of ``p_values`` [M] stand out at false discovery rate ``rate`` (Benjamini & Hochberg 1995): [M]."""
    order = np.argsort(p_values, kind="stable")
    passed = np.flatnonzero(p_values[order] <= rate * np.arange(1, len(order) + 1) / max(len(order), 1))
    marked = np.zeros(len(order), dtype=np.bool_)
    if len(passed):
        marked[order[: passed[-1] + 1]] = True
    return marked


def grouped_auc(logits: Reals, labels: Integers, groups: Integers) -> GroupedAUC:
    """AUC within each of ``groups`` [N] (-1 = none: left out), averaged by rows. One sort for all groups.

    Within a group, such as a user or a session, the AUC is free of differences in rate between groups (Zhu et al.
    2017, "GAUC"). Groups with one class have no AUC and are left out.

    Raises:
        EvaluationError: ``groups`` has another length than the logits.
    """
    if groups.shape != logits.shape:
        raise EvaluationError(f"groups: expected shape {logits.shape}; found {groups.shape}")
    rows = labelled(logits, np.where(groups >= 0, labels, -1))
    if not len(rows):
        return GroupedAUC(value=None, groups=0, rows=0)
    _, codes = np.unique(groups[rows.kept], return_inverse=True)
    auc, sizes, _ = _within_groups(rows, codes)
    if not len(auc):
        return GroupedAUC(value=None, groups=0, rows=0)
    return GroupedAUC(value=float(np.average(auc, weights=sizes)), groups=len(auc), rows=int(sizes.sum()))


def grouped_metrics(
    logits: Reals, labels: Integers, groups: Integers, clusters: Integers | None = None
) -> GroupedMetrics:
    """:func:`grouped_auc` with its interval, and how much of the rows it speaks of.

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
        return GroupedMetrics(auc=None, groups=0, rows=0, share=None if settled == 0 else 0.0)
    _, codes = np.unique(groups[rows.kept], return_inverse=True)
    auc, sizes, chosen = _within_groups(rows, codes)
    share = float(sizes.sum()) / settled
    if not len(auc):
        return GroupedMetrics(auc=None, groups=0, rows=0, share=share)
    value = float(np.average(auc, weights=sizes))
    units = chosen if clusters is None else _units(codes, cluster_codes(clusters[rows.kept], len(rows))[0], chosen)
    return GroupedMetrics(
        auc=_ratio_interval(value, sizes * (auc - value), float(sizes.sum()), units),
        groups=len(auc),
        rows=int(sizes.sum()),
        share=share,
    )


def _units(groups: Indices, clusters: Indices, chosen: Indices) -> Indices:
    """The cluster of each of the ``chosen`` groups; the groups themselves where one of them spans several clusters."""
    first = np.full(int(groups.max()) + 1, np.iinfo(np.intp).max)
    last = np.full(len(first), -1)
    np.minimum.at(first, groups, clusters)
    np.maximum.at(last, groups, clusters)
    return first[chosen] if np.array_equal(first[chosen], last[chosen]) else chosen


def _ratio_interval(value: float, deviations: Float64s, total: float, units: Indices) -> Interval:
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
