"""How much one model differs from another on the same rows in NE, AUC and AP, without drawing anything.

Each metric is linearised in the weights of the rows (the infinitesimal jackknife: Jaeckel 1972), and the rows' parts are added up
by user: a user's error is how far the metric moves with the user's weight. Errors of two models on the same rows are
subtracted user by user, so what the models share cancels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes, placement_errors
from ctr_pipeline.evaluation.metrics import Interval, Ranking, ap_of, auc_of, class_sums, entropy, rank, row_losses


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDifference:
    """A difference with what its interval follows from.

    Attributes:
        value: The difference.
        error: Its standard error; infinite where users are too few to tell.
        freedom: Degrees of freedom of the error: fewer than the users where some of them weigh much more than others.
    """

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """The two-sided Student interval at ``confidence``."""
        margin = self.quantile(confidence) * self.error
        return Interval(self.value, self.value - margin, self.value + margin)

    def quantile(self, confidence: float = 0.95) -> float:
        """Standard errors on each side of the value."""
        return float(special.stdtrit(self.freedom, 0.5 + confidence / 2))

    def chance_above(self, limit: float) -> float:
        """One-sided p-value of the hypothesis that the true difference is at most ``limit``."""
        if not np.isfinite(self.error) or self.error == 0:
            return 1.0 if not np.isfinite(self.error) or self.value <= limit else 0.0
        return float(special.stdtr(self.freedom, -(self.value - limit) / self.error))

    def to_json(self) -> dict[str, float | None]:
        """``{"value", "low", "high"}`` at 95 %."""
        return self.interval().to_json()


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedMetrics:
    """One model less another on the same rows; of NE below 0 is better, of AUC and AP above.

    Attributes:
        relative_ne: NE / NE of the reference - 1.
        auc: AUC - AUC of the reference.
        ap: AP - AP of the reference.
        rows: Labelled rows.
        positives: Positive ones.
        clusters: Independent users.
    """

    relative_ne: MetricDifference
    auc: MetricDifference
    ap: MetricDifference
    rows: int
    positives: int
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """The fields, with each difference as an interval of 95 %."""
        return {
            "relative_ne": self.relative_ne.to_json(),
            "auc": self.auc.to_json(),
            "ap": self.ap.to_json(),
            "rows": self.rows,
            "positives": self.positives,
            "clusters": self.clusters,
        }


def paired_metrics(
    logits: Reals, reference: Reals, labels: Integers, clusters: Integers | None = None
) -> PairedMetrics | None:
    """``logits`` [N] against ``reference`` [N] on the rows with a label [N], errors between ``clusters`` [N].

    Returns:
        None when the labelled rows have one class; infinite errors with fewer than
        :data:`~ctr_pipeline.evaluation.intervals.MIN_CLUSTERS` users in one.
    """
    own, other = labelled(logits, labels), labelled(reference, labels)
    if not 0 < own.positives < len(own):
        return None
    codes, count = cluster_codes(None if clusters is None else clusters[own.kept], len(own))
    enough = min(len(np.unique(codes[own.positive])), len(np.unique(codes[~own.positive]))) >= MIN_CLUSTERS

    def difference(value: float, errors: Float64s) -> MetricDifference:
        return of_errors(value, errors) if enough else MetricDifference(value=value, error=np.inf, freedom=1.0)

    losses, theirs = row_losses(own.logits, own.positive), row_losses(other.logits, other.positive)
    rankings = rank(own.logits), rank(other.logits)
    aucs, auc_errors = zip(*(_auc(*of, codes, count) for of in zip((own, other), rankings, strict=True)), strict=True)
    aps, ap_errors = zip(*(_ap(*of, codes, count) for of in zip((own, other), rankings, strict=True)), strict=True)
    return PairedMetrics(
        relative_ne=difference(float(losses.sum() / theirs.sum()) - 1.0, ratio_errors(losses, theirs, codes, count)),
        auc=difference(aucs[0] - aucs[1], auc_errors[0] - auc_errors[1]),
        ap=difference(aps[0] - aps[1], ap_errors[0] - ap_errors[1]),
        rows=len(own),
        positives=own.positives,
        clusters=count,
    )


def of_errors(value: float, errors: Float64s) -> MetricDifference:
    """A difference whose ``errors`` [K] by user add up to its own."""
    squares = float(np.sum(errors**2))
    users = len(errors)
    if squares == 0 or users < 2:
        return MetricDifference(value=value, error=0.0 if users > 1 else np.inf, freedom=1.0)
    # By the kurtosis of the errors (Satterthwaite 1946), K of normal ones: few users decide where rows are uneven.
    spread = float(np.sum(errors**4)) - squares**2 / users
    freedom = float(users) if spread <= 0 else float(np.clip(2 * squares**2 / spread, 1.0, users))
    return MetricDifference(value=value, error=float(np.sqrt(squares * users / (users - 1))), freedom=freedom)


def ratio_errors(over: Float64s, under: Float64s, codes: Indices, count: int) -> Float64s:
    """[K] by user the error of the ratio of two sums over rows, of ``over`` [N] and ``under`` [N]."""
    total = float(under.sum())
    ratio = float(over.sum()) / total
    return np.bincount(codes, weights=over - ratio * under, minlength=count) / total


def entropy_errors(losses: Float64s, positive: Float64s, codes: Indices, count: int) -> tuple[float, Float64s]:
    """NE of rows with these ``losses`` [N] and ``positive`` [N], and the errors [K] by user of its logarithm."""
    rate, loss = float(positive.mean()), float(losses.mean())
    base = entropy(rate)
    # d log NE = d loss / loss - d H(rate) / H(rate), with H'(rate) = -logit(rate).
    parts = (losses - loss) / loss + float(special.logit(rate)) * (positive - rate) / base
    return loss / base, np.bincount(codes, weights=parts, minlength=count) / len(losses)


def _auc(rows: Labelled, ranking: Ranking, codes: Indices, count: int) -> tuple[float, Float64s]:
    auc = auc_of(rows, ranking)
    assert auc is not None
    errors = placement_errors(rows, ranking, codes, count, auc)
    return auc, np.zeros(count) if errors is None else errors


def _ap(rows: Labelled, ranking: Ranking, codes: Indices, count: int) -> tuple[float, Float64s]:
    """AP and its errors by user.

    AP = Σ h H / (N P) over groups of equal scores, with h positives, H positives and N rows down to the group, P positives
    in all. A row of a group adds to H (a positive one) and N of its own and all later groups, a positive one to h and P.
    """
    ap, group = ap_of(rows, ranking), ranking.groups()
    assert ap is not None
    hits, misses = class_sums(rows, ranking)
    total, own = hits + misses, np.diff(hits, prepend=0.0)

    def from_here(values: Float64s) -> Float64s:
        return np.cumsum(values[::-1])[::-1]

    of_any = -from_here(own * hits / total**2)
    of_positive = hits / total + from_here(own / total) - ap
    parts = (of_any[group] + np.where(rows.positive, of_positive[group], 0.0)) / rows.positives
    errors: Float64s = np.bincount(codes, weights=parts, minlength=count).astype(np.float64)
    return ap, errors
