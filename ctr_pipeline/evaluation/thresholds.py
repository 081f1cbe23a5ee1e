"""From which probability on to act: by F1, or by what an action costs and a success is worth."""

from dataclasses import dataclass

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.metrics import EvaluationError, Ranking, class_sums, rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A probability from which on rows count as predicted, and the confusion table that it gives.

    Attributes:
        probability: Rows with at least this probability are predicted.
        true_positives: Predicted rows that are positive.
        false_positives: Predicted rows that are not.
        false_negatives: Positive rows that are not predicted.
        true_negatives: All others.
    """

    probability: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float | None:
        """Positives among the predicted rows; None where nothing is predicted."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Predicted rows among the positives; None without positives."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where neither a row is predicted nor one is positive."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    def to_json(self) -> dict[str, float | None]:
        """The fields and the shares by name."""
        return {
            "probability": self.probability,
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
            "true_negatives": self.true_negatives,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
        }


def best_f1(logits: Reals, labels: Integers) -> Threshold | None:
    """The threshold with the largest F1 on these rows; of several the highest. None without positives.

    Of probabilities that hold, it is half of the largest F1 (Lipton, Elkan & Naryanaswamy 2014), so where positives are
    rare it is low, and says nothing about what an action is worth: see :func:`of_costs`.
    """
    rows = labelled(logits, labels)
    return best_f1_of(rows, rank(rows.logits))


def best_f1_of(rows: Labelled, ranking: Ranking) -> Threshold | None:
    """:func:`best_f1` of rows that are already ranked."""
    if rows.positives == 0:
        return None
    hits, misses = class_sums(rows, ranking)
    best = int(np.argmax(2 * hits / (hits + misses + rows.positives)))
    lowest = float(rows.logits[ranking.order[ranking.ends[best]]])
    return _table(float(special.expit(lowest)), int(hits[best]), int(misses[best]), rows.positives, len(rows))


def of_costs(logits: Reals, labels: Integers, *, cost: float, value: float) -> Threshold:
    """The threshold from which on an action is worth its cost, where probabilities hold: cost / value.

    Args:
        logits: [N] of the calibrated probabilities.
        labels: [N] in {0, 1, -1}; rows with -1 are left out.
        cost: Of an action, at least 0.
        value: Of a success, above 0, in the unit of the cost.

    Raises:
        EvaluationError: a cost or value is not finite, or outside its range.
    """
    if not (np.isfinite(cost) and np.isfinite(value) and cost >= 0 and value > 0):
        raise EvaluationError(f"expected a cost of at least 0 and a value above 0; found {cost} and {value}")
    return threshold_of_costs(labelled(logits, labels), cost=cost, value=value)


def threshold_of_costs(rows: Labelled, *, cost: float, value: float) -> Threshold:
    """:func:`of_costs` of rows with a label."""
    probability = min(1.0, cost / value)
    predicted = special.expit(rows.logits) >= probability
    hits = int(np.count_nonzero(predicted & rows.positive))
    return _table(probability, hits, int(np.count_nonzero(predicted)) - hits, rows.positives, len(rows))


def _table(probability: float, hits: int, misses: int, positives: int, rows: int) -> Threshold:
    return Threshold(
        probability=probability,
        true_positives=hits,
        false_positives=misses,
        false_negatives=positives - hits,
        true_negatives=rows - positives - misses,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
