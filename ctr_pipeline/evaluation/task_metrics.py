"""Everything that is measured of one task on one set of rows, in one object."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Integers, Reals, labelled, why_undefined
from ctr_pipeline.evaluation.decomposition import Decomposition, decomposed_log_loss
from ctr_pipeline.evaluation.group_ranking import GroupRanking, group_ranking
from ctr_pipeline.evaluation.intervals import bootstrap_of, cluster_codes, delong_of
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval, rank, recall_at, with_error_of_slice
from ctr_pipeline.evaluation.reliability import ReliabilityBin, calibration_error, reliability
from ctr_pipeline.evaluation.thresholds import Threshold, best_f1
from ctr_pipeline.evaluation.within_groups import GroupedMetrics, grouped_metrics

RECALL_SHARES = (0.01, 0.05, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetrics:
    """How one task is predicted. A metric is None where the rows do not define it; ``undefined`` has the reason.

    Attributes:
        rows: Rows with a settled label.
        masked: Rows left out because their label is not settled.
        positives: Rows with label 1.
        clusters: Independent users (rows without one count by themselves).
        base_rate: Positives over rows.
        mean_prediction: Mean predicted probability.
        auc: Area under the ROC curve, with DeLong's interval over users.
        user_auc: AUC within users; None where the rows have no users.
        ap: Average precision, with a bootstrap interval over users.
        lift: Average precision over the base rate.
        log_loss: Mean log loss in nats.
        ne: Normalised entropy; below 1 is better than the base rate.
        rig: Relative information gain, 1 - NE.
        oe: Observed over expected positives; 1 is calibrated.
        recall_at: Share of the rows looked at, highest scores first, to share of the positives found.
        calibration_error: Mean |observed - predicted| by bin over the base rate.
        bins: Predicted and observed rate by bins with equally many positives.
        undefined: Metric to the reason why it, or its interval, is not given.
        grouped_auc: AUC within the groups of the spec's ``evaluation.group_by``; None where it names none.
        group_order: nDCG and MRR within these groups; None where it names none.
        log_loss_parts: What the log loss consists of; None without rows.
        best_f1: The threshold with the largest F1 on these rows; None without positives.
    """

    rows: int
    masked: int
    positives: int
    clusters: int
    base_rate: float | None
    mean_prediction: float | None
    auc: Interval | None
    user_auc: GroupedMetrics | None
    ap: Interval | None
    lift: float | None
    log_loss: Interval | None
    ne: Interval | None
    rig: float | None
    oe: Interval | None
    recall_at: Mapping[float, float] = field(default_factory=dict)
    calibration_error: float | None
    bins: tuple[ReliabilityBin, ...]
    undefined: Mapping[str, str] = field(default_factory=dict)
    grouped_auc: GroupedMetrics | None = None
    group_order: GroupRanking | None = None
    log_loss_parts: Decomposition | None = None
    best_f1: Threshold | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, ready for ``json.dumps``.

        Intervals become ``{"value", "low", "high"}`` with null for an unknown bound; ``recall_at`` has keys such as
        ``"0.01"``; each of ``bins`` becomes ``{"rows", "positives", "predicted", "observed", "low", "high"}``.
        """
        return {
            "rows": self.rows,
            "masked": self.masked,
            "positives": self.positives,
            "clusters": self.clusters,
            "base_rate": self.base_rate,
            "mean_prediction": self.mean_prediction,
            **{name: None if value is None else value.to_json() for name, value in self.intervals().items()},
            "user_auc": None if self.user_auc is None else self.user_auc.to_json(),
            **({} if self.grouped_auc is None else {"grouped_auc": self.grouped_auc.to_json()}),
            **({} if self.group_order is None else {"group_order": self.group_order.to_json()}),
            "log_loss_parts": None if self.log_loss_parts is None else self.log_loss_parts.to_json(),
            "best_f1": None if self.best_f1 is None else self.best_f1.to_json(),
            "lift": self.lift,
            "rig": self.rig,
            "recall_at": {f"{share:g}": recall for share, recall in self.recall_at.items()},
            "calibration_error": self.calibration_error,
            "bins": [
                {
                    "rows": b.rows,
                    "positives": b.positives,
                    "predicted": b.predicted,
                    "observed": b.observed,
                    "low": b.low,
                    "high": b.high,
                }
                for b in self.bins
            ],
            "undefined": dict(self.undefined),
        }

    def intervals(self) -> dict[str, Interval | None]:
        """The metrics that come with an interval, by name."""
        return {"auc": self.auc, "ap": self.ap, "log_loss": self.log_loss, "ne": self.ne, "oe": self.oe}

    def numbers(self) -> dict[str, float]:
        """Every defined number by name, such as ``auc``, ``auc_low``, ``recall_at_0.01``: for an experiment tracker."""
        found: dict[str, float | None] = {
            "rows": self.rows,
            "positives": self.positives,
            "base_rate": self.base_rate,
            "mean_prediction": self.mean_prediction,
            "lift": self.lift,
            "rig": self.rig,
            "calibration_error": self.calibration_error,
            **{f"recall_at_{share:g}": recall for share, recall in self.recall_at.items()},
        }
        if self.log_loss_parts is not None:
            parts = self.log_loss_parts
            found |= {"miscalibration": parts.miscalibration, "discrimination": parts.discrimination}
        if self.best_f1 is not None:
            found |= {"best_f1": self.best_f1.f1, "best_f1_probability": self.best_f1.probability}
        intervals = self.intervals()
        if self.group_order is not None:
            order = self.group_order
            intervals |= {f"ndcg_{order.k}": order.ndcg, "mrr": order.mrr}
        for name, grouped in (("user_auc", self.user_auc), ("grouped_auc", self.grouped_auc)):
            if grouped is not None:
                found |= {
                    f"{name}_groups": grouped.groups,
                    f"{name}_left_out": grouped.left_out,
                    f"{name}_share": grouped.share,
                }
                intervals[name] = grouped.auc
        for name, interval in intervals.items():
            if interval is not None:
                found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        return {name: float(value) for name, value in found.items() if value is not None and np.isfinite(value)}


def evaluate(
    logits: Reals,
    labels: Integers,
    clusters: Integers | None = None,
    groups: Integers | None = None,
    *,
    seed: int,
    replicates: int = 100,
    calibrated_on: int = 0,
) -> TaskMetrics:
    """Measures one task.

    Args:
        logits: [N], of the probabilities that would be served (calibrated).
        labels: [N] in {0, 1, -1}; rows with -1 are left out.
        clusters: [N], user code of each row, -1 for none; without it every row is independent.
        groups: [N], code of the group within which a row is ranked against others, -1 for none.
        seed: Of the bootstrap.
        replicates: Bootstrap replicates.
        calibrated_on: Positives of other rows that the calibrator was fitted on; the interval of observed over expected
            then holds its error too. 0 for logits that were not calibrated, or on these very rows.

    Raises:
        EvaluationError: there is not one cluster code, or one group code, for each row.
        ScoreError: logits and labels differ in shape, a label is none of 0, 1, -1, or a labelled row's logit is not
            finite.
    """
    if clusters is not None and clusters.shape != logits.shape:
        raise EvaluationError(f"clusters: expected shape {logits.shape}; found {clusters.shape}")
    rows = labelled(logits, labels)
    ranking = rank(rows.logits)
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    resampled = bootstrap_of(rows, ranking, codes, count, seed=seed, replicates=replicates)
    ap, ne = resampled.average_precision, resampled.normalised_entropy
    bins = reliability(logits, labels)
    recalls = recall_at(logits, labels, RECALL_SHARES)
    base_rate = rows.positives / len(rows) if len(rows) else None
    metrics = TaskMetrics(
        rows=len(rows),
        masked=len(logits) - len(rows),
        positives=rows.positives,
        clusters=count,
        base_rate=base_rate,
        mean_prediction=float(np.mean(special.expit(rows.logits))) if len(rows) else None,
        auc=delong_of(rows, ranking, codes, count),
        user_auc=None if clusters is None else grouped_metrics(logits, labels, clusters),
        ap=ap,
        lift=None if ap is None or not base_rate else ap.value / base_rate,
        log_loss=resampled.log_loss,
        ne=ne,
        rig=None if ne is None else 1.0 - ne.value,
        oe=None
        if resampled.observed_expected is None
        else with_error_of_slice(resampled.observed_expected, calibrated_on),
        recall_at={} if recalls is None else dict(zip(RECALL_SHARES, recalls, strict=True)),
        calibration_error=calibration_error(bins),
        bins=bins,
        grouped_auc=None if groups is None else grouped_metrics(logits, labels, groups, clusters),
        group_order=None if groups is None else group_ranking(logits, labels, groups, clusters),
        log_loss_parts=decomposed_log_loss(logits, labels),
        best_f1=best_f1(logits, labels),
    )
    return replace(metrics, undefined=_undefined(metrics, resampled.reason))


def evaluate_ranking(
    scores: Reals,
    labels: Integers,
    clusters: Integers | None = None,
    groups: Integers | None = None,
    *,
    seed: int,
    replicates: int = 100,
) -> TaskMetrics:
    """Measures how scores [N] that are no probabilities rank the outcomes of one task; rows whose score is NaN are left out.

    The metrics that compare predicted with observed rates are not given. Arguments and errors are those of :func:`evaluate`.
    """
    known = np.where(np.isnan(scores), -1, labels)
    found = evaluate(np.nan_to_num(scores), known, clusters, groups, seed=seed, replicates=replicates)
    rates = dict.fromkeys(
        ("mean_prediction", "log_loss", "ne", "rig", "oe", "calibration_error", "log_loss_parts", "best_f1")
    )
    reason = dict.fromkeys(rates, "the scores are no probabilities")
    return replace(found, **rates, bins=(), undefined={**found.undefined, **reason})  # type: ignore[arg-type]


def _undefined(metrics: TaskMetrics, too_few: str | None) -> dict[str, str]:
    """Each metric of ``metrics`` that is not given, and why."""
    reason = why_undefined(metrics.rows, metrics.positives)
    absent = ["auc", "ap", "lift", "log_loss", "ne", "rig", "oe", "calibration_error", "base_rate", "mean_prediction"]
    absent += ["log_loss_parts", "best_f1"]
    found = {name: reason for name in absent if reason and getattr(metrics, name) is None}
    if reason and not metrics.recall_at:
        found["recall_at"] = reason
    if metrics.user_auc is None:
        found["user_auc"] = "the rows have no users"
    for name, unit, grouped in (("user_auc", "user", metrics.user_auc), ("grouped_auc", "group", metrics.grouped_auc)):
        if grouped is None:
            continue
        if grouped.auc is None:
            found[name] = f"no {unit} has both classes"
        elif not np.isfinite(grouped.auc.low):
            found[f"interval of {name}"] = (
                f"fewer than 10 independent {unit}s have both classes, or all are ranked alike"
            )
    if too_few:
        found["intervals of ap, log_loss and ne"] = too_few
    return found
