"""Where a model is wrong although it is right on average: O/E and NE by slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals, labelled
from ctr_pipeline.evaluation.intervals import cluster_codes
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval, entropy, row_losses
from ctr_pipeline.evaluation.overdispersion import CountsByPart, spread_of_users

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
        oe: Observed over expected positives, with the mid-p interval of a count that varies as the users make it vary.
        ne: Log loss over the entropy of the slice's own base rate; None with one class.
        p_value: Chance of a count at least this far from the expected one, were the predictions right; below .05 where ``oe`` leaves
            1 out.
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
    logits: Reals,
    labels: Integers,
    slices: Mapping[str, NDArray[Any]],
    clusters: Integers | None = None,
    *,
    largest: int = 50,
) -> tuple[SliceMetrics, ...]:
    """O/E and NE of each value of each dimension in ``slices`` (name -> [N]).

    Rows of one of ``clusters`` [N], such as users, are not independent; -1 is a row by itself, as all are without clusters.

    Of a dimension with more than ``largest`` values the largest slices are shown. Slices are in order of dimension,
    then value.

    Raises:
        EvaluationError: a dimension, or the clusters, have another length than the logits.
    """
    if clusters is not None and clusters.shape != logits.shape:
        raise EvaluationError(f"clusters: expected shape {logits.shape}; found {clusters.shape}")
    rows = labelled(logits, labels)
    losses, predicted = row_losses(rows.logits, rows.positive), special.expit(rows.logits)
    users, _ = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    spread = spread_of_users(rows.positive, predicted, users)
    found: list[tuple[str, str, int, int, Interval, float, float]] = []
    for dimension, values in slices.items():
        if values.shape != logits.shape:
            raise EvaluationError(f"slice {dimension!r}: expected shape {logits.shape}; found {values.shape}")
        names, codes = np.unique(values[rows.kept], return_inverse=True)
        counts = CountsByPart.of(rows.positive, predicted, users, codes, len(names), spread)
        loss = np.bincount(codes, weights=losses, minlength=len(names))
        ratios, p_values = counts.ratios(), counts.p_values()
        for i in sorted(np.argsort(-counts.rows, kind="stable")[:largest]):
            size, positives = int(counts.rows[i]), int(counts.observed[i])
            found.append((dimension, str(names[i]), size, positives, ratios[i], float(p_values[i]), float(loss[i])))
    marked = benjamini_hochberg(np.array([p_value for *_, p_value, _ in found]), FALSE_DISCOVERY_RATE)
    return tuple(
        SliceMetrics(
            dimension=dimension,
            value=value,
            rows=count,
            positives=positives,
            oe=ratio,
            ne=loss / count / entropy(positives / count) if 0 < positives < count else None,
            p_value=p_value,
            miscalibrated=bool(mark),
        )
        for (dimension, value, count, positives, ratio, p_value, loss), mark in zip(found, marked, strict=True)
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
