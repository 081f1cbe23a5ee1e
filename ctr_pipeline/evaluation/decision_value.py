"""What it is worth to act on the rows that a model picks, where an action has a cost and an outcome a value."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval
from ctr_pipeline.evaluation.thresholds import Threshold, threshold_of_costs

THOUSAND = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionCosts:
    """What an action on a row costs, and what a positive row is worth then; in one unit."""

    cost: float
    """At least 0."""
    value: float
    """Above 0."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.cost) and np.isfinite(self.value) and self.cost >= 0 and self.value > 0):
            raise EvaluationError(
                f"expected a cost of at least 0 and a value above 0; found {self.cost} and {self.value}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionValue:
    """Acting on the rows whose probability is at least cost / value.

    Attributes:
        costs: What an action costs and an outcome is worth.
        threshold: The probability, with its confusion table.
        gain: Value of the positive rows acted on less the cost of all actions, per thousand rows.
        all_rows: The same of acting on every row.
        oracle: The same of acting on the positive rows alone: no model gains more.
    """

    costs: ActionCosts
    threshold: Threshold
    gain: Interval
    all_rows: float
    oracle: float

    @property
    def regret(self) -> float:
        """What the oracle gains more, per thousand rows."""
        return self.oracle - self.gain.value

    def to_json(self) -> dict[str, Any]:
        """The fields by name, ``regret``, and those of the threshold."""
        return {
            "cost": self.costs.cost,
            "value": self.costs.value,
            **self.threshold.to_json(),
            "gain_per_1000": self.gain.to_json(),
            "gain_of_all_per_1000": self.all_rows,
            "gain_of_oracle_per_1000": self.oracle,
            "regret_per_1000": self.regret,
        }


def decision_value(
    logits: Reals, labels: Integers, costs: ActionCosts, clusters: Integers | None = None
) -> DecisionValue | None:
    """What acting on calibrated ``logits`` [N] gains, with an interval over ``clusters`` [N] (-1 = a row by itself).

    Returns:
        None without rows.

    Raises:
        EvaluationError: ``clusters`` have another length than the logits.
    """
    if clusters is not None and clusters.shape != logits.shape:
        raise EvaluationError(f"clusters: expected shape {logits.shape}; found {clusters.shape}")
    rows = labelled(logits, labels)
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    return decision_value_of(rows, costs, codes, count)


def decision_value_of(rows: Labelled, costs: ActionCosts, codes: Indices, count: int) -> DecisionValue | None:
    """:func:`decision_value` of rows with cluster ``codes`` below ``count``."""
    if not len(rows):
        return None
    threshold = threshold_of_costs(rows, cost=costs.cost, value=costs.value)
    acted = special.expit(rows.logits) >= threshold.probability
    gains = THOUSAND * acted * (costs.value * rows.positive - costs.cost)
    rate = rows.positives / len(rows)
    return DecisionValue(
        costs=costs,
        threshold=threshold,
        gain=mean_over_clusters(gains, codes, count),
        all_rows=THOUSAND * (costs.value * rate - costs.cost),
        oracle=THOUSAND * rate * max(costs.value - costs.cost, 0.0),
    )


def mean_over_clusters(values: Float64s, codes: Indices, count: int) -> Interval:
    """Mean of ``values`` [M] over rows, with the Student interval of a ratio of sums over clusters."""
    mean = float(values.mean())
    sums = np.bincount(codes, weights=values - mean, minlength=count)
    error = float(np.sqrt(np.sum(sums**2) * count / max(count - 1, 1))) / len(values)
    if count < MIN_CLUSTERS or error == 0:
        return Interval(mean, -np.inf, np.inf)
    margin = float(special.stdtrit(count - 1, 0.975)) * error
    return Interval(mean, mean - margin, mean + margin)
