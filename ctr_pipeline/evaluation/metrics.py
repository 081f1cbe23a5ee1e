"""How good logits are at ranking and at predicting rates. Plain numpy, exact with ties, masked rows left out.

Every function takes ``logits`` [N] and ``labels`` [N] in {0, 1, -1}; a label of -1 (censored) leaves its row out.
``weights`` [N], where given, multiply the rows. A metric that the rows cannot define, such as the AUC of one class,
is ``None``; :func:`~ctr_pipeline.calibration.labelled.why_undefined` gives the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.errors import UserError

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class EvaluationError(UserError):
    """Arguments of an evaluation that do not fit each other; the message says what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its 95 % interval; infinite bounds mean that the rows are too few for an interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """``{"value", "low", "high"}``; an infinite bound becomes null."""
        return {
            "value": self.value,
            "low": self.low if np.isfinite(self.low) else None,
            "high": self.high if np.isfinite(self.high) else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, float | None]) -> Self:
        """The interval that :meth:`to_json` described."""
        value, low, high = content["value"], content["low"], content["high"]
        assert value is not None, "an interval has a point estimate"
        return cls(value, -np.inf if low is None else low, np.inf if high is None else high)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows by falling score, with the last row of each group of equal scores.

    Attributes:
        order: [M], rows from the highest score to the lowest; equal scores keep their order.
        ends: [G], position in ``order`` of the last row of each group of equal scores.
    """

    order: Indices
    ends: Indices

    def cumulative(self, amounts: NDArray[Any]) -> Float64s:
        """Sum of ``amounts`` [M] over all rows down to and with each group: [G]."""
        return np.cumsum(amounts[self.order], dtype=np.float64)[self.ends]

    def groups(self) -> Indices:
        """The group of each row: [M], in the order of the rows given."""
        lengths = np.diff(self.ends, prepend=-1)
        group = np.empty(len(self.order), dtype=np.intp)
        group[self.order] = np.repeat(np.arange(len(self.ends)), lengths)
        return group


def rank(logits: Reals) -> Ranking:
    """The ranking of ``logits`` [M] from high to low, equal values together. O(M log M)."""
    order = np.argsort(-logits, kind="stable")
    falls = np.flatnonzero(np.diff(logits[order]))
    ends = np.append(falls, len(order) - 1) if len(order) else falls
    return Ranking(order, ends)


def roc_auc(logits: Reals, labels: Integers, weights: Reals | None = None) -> float | None:
    """Area under the ROC curve: the chance that a positive outranks a negative, a tie counting a half.

    Returns:
        None when a class has no weight.
    """
    rows = labelled(logits, labels, weights)
    return auc_of(rows, rank(rows.logits))


def auc_of(rows: Labelled, ranking: Ranking) -> float | None:
    """:func:`roc_auc` of rows that are already ranked."""
    hits, misses = class_sums(rows, ranking)
    if not len(hits) or hits[-1] == 0 or misses[-1] == 0:
        return None
    mean_hits = hits - np.diff(hits, prepend=0.0) / 2
    return float(np.sum(np.diff(misses, prepend=0.0) * mean_hits) / (hits[-1] * misses[-1]))


def average_precision(logits: Reals, labels: Integers, weights: Reals | None = None) -> float | None:
    """Average precision: the sum over score thresholds of precision times the rise in recall.

    Equal scores share a threshold. Not the trapezoid under the PR curve, which is too optimistic
    (Davis & Goadrich 2006).

    Returns:
        None when the positives have no weight.
    """
    rows = labelled(logits, labels, weights)
    return ap_of(rows, rank(rows.logits))


def ap_of(rows: Labelled, ranking: Ranking) -> float | None:
    """:func:`average_precision` of rows that are already ranked."""
    hits, misses = class_sums(rows, ranking)
    if not len(hits) or hits[-1] == 0:
        return None
    total = hits + misses
    precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])


def class_sums(rows: Labelled, ranking: Ranking) -> tuple[Float64s, Float64s]:
    """Weight of the positives, and of the negatives, down to each group of equal scores: two arrays [G]."""
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights
    return ranking.cumulative(weights * rows.positive), ranking.cumulative(weights * ~rows.positive)


def row_losses(logits: Float64s, positive: NDArray[np.bool_]) -> Float64s:
    """Log loss of each row in nats, from logits: log(1 + exp(∓z)), without overflow or cancellation."""
    losses: Float64s = np.logaddexp(0.0, np.where(positive, -logits, logits))
    return losses


def log_loss(logits: Reals, labels: Integers, weights: Reals | None = None) -> float | None:
    """Mean log loss in nats; None without rows."""
    rows = labelled(logits, labels, weights)
    return _mean(row_losses(rows.logits, rows.positive), rows.weights)


def entropy(rate: float) -> float:
    """Entropy in nats of a 0/1 outcome with probability ``rate``: the log loss of always predicting the base rate."""
    return float(special.entr(rate) + special.entr(1.0 - rate))


def normalised_entropy(logits: Reals, labels: Integers, weights: Reals | None = None) -> float | None:
    """Log loss over the entropy of the base rate (He et al. 2014): 1 is no better than the base rate, lower is better.

    Returns:
        None when a class has no weight.
    """
    rows = labelled(logits, labels, weights)
    loss, rate = _mean(row_losses(rows.logits, rows.positive), rows.weights), _mean(rows.positive, rows.weights)
    if loss is None or rate is None or not 0 < rate < 1:
        return None
    return loss / entropy(rate)


def relative_information_gain(logits: Reals, labels: Integers, weights: Reals | None = None) -> float | None:
    """1 - NE: the share of the base rate's entropy that the scores explain; None where NE is."""
    ne = normalised_entropy(logits, labels, weights)
    return None if ne is None else 1.0 - ne


def lift(logits: Reals, labels: Integers, weights: Reals | None = None) -> float | None:
    """Average precision over the base rate: 1 is a random order; None without positives."""
    rows = labelled(logits, labels, weights)
    ap, rate = ap_of(rows, rank(rows.logits)), _mean(rows.positive, rows.weights)
    return None if ap is None or not rate else ap / rate


def observed_expected(logits: Reals, labels: Integers) -> Interval | None:
    """Observed positives over the sum of predicted probabilities, with the exact Poisson interval.

    Returns:
        None without rows.
    """
    rows = labelled(logits, labels)
    if not len(rows):
        return None
    return poisson_ratio(rows.positives, float(np.sum(special.expit(rows.logits))))


def with_error_of_slice(ratio: Interval, outcomes: float) -> Interval:
    """Observed over expected, with the error of the calibration slice in its interval.

    A rate that was fitted on ``outcomes`` independent outcomes is itself off by about 1/√outcomes; on the log scale the
    squares of the two half widths add up. 0 where nothing was fitted. Outcomes of few users count for fewer:
    :func:`~ctr_pipeline.evaluation.overdispersion.effective_outcomes`.
    """
    if outcomes <= 0 or ratio.value <= 0 or not np.isfinite([ratio.low, ratio.high]).all():
        return ratio
    lower, upper = np.log(ratio.value / max(ratio.low, 1e-300)), np.log(ratio.high / ratio.value)
    own = Z95 / np.sqrt(outcomes)
    low, high = np.hypot(lower, own), np.hypot(upper, own)
    return Interval(ratio.value, float(ratio.value * np.exp(-low)), float(ratio.value * np.exp(high)))


def poisson_ratio(observed: int, expected: float) -> Interval:
    """``observed`` / ``expected`` with the exact (Garwood 1936) 95 % interval of a Poisson count."""
    low = float(special.gammaincinv(observed, 0.025)) if observed else 0.0
    high = float(special.gammaincinv(observed + 1, 0.975))
    expected = max(expected, 1e-300)
    return Interval(observed / expected, low / expected, high / expected)


def recall_at(logits: Reals, labels: Integers, shares: Sequence[float] = (0.01, 0.05, 0.1)) -> list[float] | None:
    """Share of the positives among the highest scored ``shares`` of the rows.

    A cut inside a group of equal scores takes the group's expected share, so that the order of rows cannot matter.

    Returns:
        One recall per share, or None without positives.
    """
    rows = labelled(logits, labels)
    return recall_of(rows, rank(rows.logits), shares)


def recall_of(rows: Labelled, ranking: Ranking, shares: Sequence[float]) -> list[float] | None:
    """:func:`recall_at` of rows that are already ranked."""
    if rows.positives == 0:
        return None
    counts = np.concatenate([[0.0], ranking.ends + 1.0])
    hits = np.concatenate([[0.0], ranking.cumulative(rows.positive)])
    return [float(np.interp(share * len(rows), counts, hits) / rows.positives) for share in shares]


def _mean(values: NDArray[Any], weights: Float64s | None) -> float | None:
    if weights is None:
        return float(np.mean(values)) if len(values) else None
    total = float(np.sum(weights))
    return float(np.sum(values * weights) / total) if total > 0 else None
