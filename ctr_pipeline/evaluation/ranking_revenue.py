"""What a ranking earns where each group, such as a page, has one place: the model's, the logged, the best possible."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Reals
from ctr_pipeline.evaluation.decision_value import THOUSAND, mean_over_clusters
from ctr_pipeline.evaluation.intervals import cluster_codes
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval
from ctr_pipeline.evaluation.within_groups import units_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingRevenue:
    """Revenue per thousand impressions, one impression a group: that of the row which an order has first.

    Attributes:
        key: What the groups are.
        groups: Groups of at least two rows whose outcomes, score and position are known.
        left_out: Other groups.
        model: Of the row with the highest score. Of equal scores the mean, as below.
        expected: What the model itself expects of that row.
        logged: Of the row at the best position.
        random: Of a row at random.
        oracle: Of the row that earned most.
        gain: ``model`` less ``logged``, of the same groups.
        regret: ``oracle`` less ``model``, of the same groups.
    """

    key: str
    groups: int
    left_out: int
    model: Interval
    expected: Interval
    logged: Interval
    random: Interval
    oracle: Interval
    gain: Interval
    regret: Interval

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with each interval as an object."""
        names = ("model", "expected", "logged", "random", "oracle", "gain", "regret")
        counts = {"key": self.key, "groups": self.groups, "left_out": self.left_out}
        return {**counts, **{name: getattr(self, name).to_json() for name in names}}


def ranking_revenue(
    scores: Reals,
    values: Reals,
    positions: Integers,
    groups: Integers,
    clusters: Integers | None = None,
    *,
    key: str = "group",
) -> RankingRevenue | None:
    """Revenue of the first row of each group.

    Args:
        scores: [N] what the model expects each row to earn; NaN where it cannot tell.
        values: [N] what the row earned; NaN where that is not settled.
        positions: [N] logged slot, 1 for the first; 0 = not logged.
        groups: [N] codes of the groups, -1 for none. A group with a row of unknown score, value or position is left out.
        clusters: [N] what intervals draw, -1 for none, where each group lies in one of them; else groups are drawn.
        key: What the groups are.

    Returns:
        None where no group counts.

    Raises:
        EvaluationError: an array has another length than the scores.
    """
    for name, given in (("values", values), ("positions", positions), ("groups", groups), ("clusters", clusters)):
        if given is not None and given.shape != scores.shape:
            raise EvaluationError(f"{name}: expected shape {scores.shape}; found {given.shape}")
    within = np.flatnonzero(groups >= 0)
    if not len(within):
        return None
    _, codes = np.unique(groups[within], return_inverse=True)
    unknown = np.isnan(scores[within]) | np.isnan(values[within]) | (positions[within] <= 0)
    sizes = np.bincount(codes)
    counted = (sizes >= 2) & (np.bincount(codes, weights=unknown) == 0)
    chosen = np.flatnonzero(counted)
    if not len(chosen):
        return None
    rows = within[counted[codes]]
    group = (np.cumsum(counted) - 1)[codes[counted[codes]]]
    score, value = scores[rows].astype(np.float64), values[rows].astype(np.float64)
    first = {
        "model": _first(score, value, group),
        "expected": _first(score, score, group),
        "logged": _first(-positions[rows].astype(np.float64), value, group),
        "random": np.bincount(group, weights=value) / np.bincount(group),
        "oracle": _first(value, value, group),
    }
    first |= {"gain": first["model"] - first["logged"], "regret": first["oracle"] - first["model"]}
    units: Indices = np.arange(len(chosen))
    if clusters is not None:
        units = units_of(group, cluster_codes(clusters[rows], len(rows))[0], units)
        _, units = np.unique(units, return_inverse=True)
    count = int(units.max()) + 1
    intervals = {name: mean_over_clusters(THOUSAND * of, units, count) for name, of in first.items()}
    return RankingRevenue(key=key, groups=len(chosen), left_out=len(sizes) - len(chosen), **intervals)


def _first(order: Float64s, values: Float64s, group: NDArray[np.intp]) -> Float64s:
    """[G] mean of ``values`` over the rows of each group with its largest ``order``."""
    largest = np.full(int(group.max()) + 1, -np.inf)
    np.maximum.at(largest, group, order)
    top = order == largest[group]
    found: Float64s = np.bincount(group[top], weights=values[top]) / np.bincount(group[top])
    return found
