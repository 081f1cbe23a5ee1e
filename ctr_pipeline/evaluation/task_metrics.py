"""Everything that is measured of one task on one set of rows, in one object."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Indices, Integers, Reals, labelled, why_undefined
from ctr_pipeline.evaluation.calibration_gap import calibration_error_of
from ctr_pipeline.evaluation.decision_value import ActionCosts, DecisionValue, decision_value_of
from ctr_pipeline.evaluation.decomposition import Decomposition, decomposed_log_loss
from ctr_pipeline.evaluation.group_ranking import GroupRanking, group_ranking_of
from ctr_pipeline.evaluation.intervals import bootstrap_of, cluster_codes, delong_of
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval, rank, recall_of, with_error_of_slice
from ctr_pipeline.evaluation.reliability import ReliabilityBin, calibration_error, reliability_of
from ctr_pipeline.evaluation.thresholds import Threshold, best_f1_of
from ctr_pipeline.evaluation.within_groups import GroupedMetrics, grouped_of

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
        settled_share: Rows with a settled label over all; None without any.
        ece: Expected calibration error, in the unit of a rate; None without positives.
        session_auc: AUC within sessions; None where the rows have none.
        decision: What acting on the rows is worth at the declared costs; None where none are, and without rows.
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
    settled_share: float | None = None
    ece: Interval | None = None
    session_auc: GroupedMetrics | None = None
    decision: DecisionValue | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, ready for ``json.dumps``.

        Intervals become ``{"value", "low", "high"}`` with null for an unknown bound; ``recall_at`` has keys such as
        ``"0.01"``; each of ``bins`` becomes ``{"rows", "positives", "predicted", "observed", "low", "high"}``.
        """
        return {
            "rows": self.rows,
            "masked": self.masked,
            "settled_share": self.settled_share,
            "positives": self.positives,
            "clusters": self.clusters,
            "base_rate": self.base_rate,
            "mean_prediction": self.mean_prediction,
            **{name: None if value is None else value.to_json() for name, value in self.intervals().items()},
            "user_auc": None if self.user_auc is None else self.user_auc.to_json(),
            **({} if self.session_auc is None else {"session_auc": self.session_auc.to_json()}),
            **({} if self.grouped_auc is None else {"grouped_auc": self.grouped_auc.to_json()}),
            **({} if self.group_order is None else {"group_order": self.group_order.to_json()}),
            "log_loss_parts": None if self.log_loss_parts is None else self.log_loss_parts.to_json(),
            "best_f1": None if self.best_f1 is None else self.best_f1.to_json(),
            **({} if self.decision is None else {"decision": self.decision.to_json()}),
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
        found = {"auc": self.auc, "ap": self.ap, "log_loss": self.log_loss, "ne": self.ne, "oe": self.oe}
        return {**found, "ece": self.ece}

    def within(self) -> dict[str, GroupedMetrics | None]:
        """The AUC within groups, by name."""
        return {"user_auc": self.user_auc, "session_auc": self.session_auc, "grouped_auc": self.grouped_auc}

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
        if self.decision is not None:
            found |= {"decision_regret": self.decision.regret}
            intervals["decision_gain"] = self.decision.gain
        if self.group_order is not None:
            order = self.group_order
            intervals |= {f"ndcg_{order.k}": order.ndcg, "mrr": order.mrr}
        for name, grouped in self.within().items():
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroups:
    """What the rows belong to, as codes [N], -1 for none.

    Attributes:
        clusters: What intervals draw, such as users; None where every row is independent.
        cluster_key: What it is called.
        groups: What a row is ranked within against others, such as a request; None for nothing.
        group_key: What it is called.
        sessions: Sessions; None where the log has none.
    """

    clusters: Integers | None = None
    cluster_key: str = "user"
    groups: Integers | None = None
    group_key: str = "group"
    sessions: Integers | None = None

    def of(self, rows: NDArray[Any]) -> "RowGroups":
        """Those of some rows: their indices, or whether each is one of them."""
        clusters, groups, sessions = (
            None if codes is None else codes[rows] for codes in (self.clusters, self.groups, self.sessions)
        )
        return replace(self, clusters=clusters, groups=groups, sessions=sessions)


def evaluate(
    logits: Reals,
    labels: Integers,
    clusters: Integers | None = None,
    groups: Integers | None = None,
    *,
    seed: int,
    replicates: int = 100,
    calibrated_on: float = 0,
    costs: ActionCosts | None = None,
) -> TaskMetrics:
    """:func:`evaluate_rows` of rows with ``clusters`` and ``groups`` [N]."""
    belongs = RowGroups(clusters=clusters, groups=groups)
    return evaluate_rows(
        logits, labels, belongs, seed=seed, replicates=replicates, calibrated_on=calibrated_on, costs=costs
    )


def evaluate_rows(
    logits: Reals,
    labels: Integers,
    belongs: RowGroups,
    *,
    seed: int,
    replicates: int = 100,
    calibrated_on: float = 0,
    costs: ActionCosts | None = None,
) -> TaskMetrics:
    """Measures one task.

    Args:
        logits: [N], of the probabilities that would be served (calibrated).
        labels: [N] in {0, 1, -1}; rows with -1 are left out.
        belongs: What the rows belong to.
        seed: Of the bootstrap.
        replicates: Bootstrap replicates.
        calibrated_on: Independent outcomes of other rows that the calibrator was fitted on
            (:func:`~ctr_pipeline.evaluation.overdispersion.effective_outcomes`); the interval of observed over expected
            then holds its error too. 0 for logits that were not calibrated, or on these very rows.
        costs: What an action on a row costs and an outcome is worth, where that is declared.

    Raises:
        EvaluationError: there is not one code of each kind for each row.
        ScoreError: logits and labels differ in shape, a label is none of 0, 1, -1, or a labelled row's logit is not
            finite.
    """
    for name, given in (("clusters", belongs.clusters), ("groups", belongs.groups), ("sessions", belongs.sessions)):
        if given is not None and given.shape != logits.shape:
            raise EvaluationError(f"{name}: expected shape {logits.shape}; found {given.shape}")
    rows = labelled(logits, labels)
    ranking, clusters = rank(rows.logits), belongs.clusters
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    owners = None if clusters is None else codes
    resampled = bootstrap_of(rows, ranking, codes, count, seed=seed, replicates=replicates)
    ap, ne = resampled.average_precision, resampled.normalised_entropy
    bins, recalls = reliability_of(rows, ranking, owners), recall_of(rows, ranking, RECALL_SHARES)
    base_rate = rows.positives / len(rows) if len(rows) else None

    def within(key: str, of: Integers | None, units: Indices | None) -> GroupedMetrics | None:
        return None if of is None else grouped_of(rows, ranking, of[rows.kept], units, key=key)

    groups = belongs.groups
    metrics = TaskMetrics(
        rows=len(rows),
        masked=len(logits) - len(rows),
        settled_share=len(rows) / len(logits) if len(logits) else None,
        positives=rows.positives,
        clusters=count,
        base_rate=base_rate,
        mean_prediction=float(np.mean(special.expit(rows.logits))) if len(rows) else None,
        auc=delong_of(rows, ranking, codes, count),
        user_auc=within(belongs.cluster_key, clusters, None),
        session_auc=within("session", belongs.sessions, owners),
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
        ece=calibration_error_of(rows, ranking, codes, count, seed=seed),
        bins=bins,
        grouped_auc=within(belongs.group_key, groups, owners),
        group_order=None
        if groups is None
        else group_ranking_of(rows, ranking, groups[rows.kept], owners, key=belongs.group_key),
        log_loss_parts=decomposed_log_loss(logits, labels),
        best_f1=best_f1_of(rows, ranking),
        decision=None if costs is None else decision_value_of(rows, costs, codes, count),
    )
    return replace(metrics, undefined=_undefined(metrics, resampled.reason))


def evaluate_ranking(
    scores: Reals,
    labels: Integers,
    belongs: RowGroups,
    *,
    seed: int,
    replicates: int = 100,
) -> TaskMetrics:
    """Measures how scores [N] that are no probabilities rank the outcomes of one task; rows whose score is NaN are left out.

    The metrics that compare predicted with observed rates are not given. Arguments and errors are those of
    :func:`evaluate_rows`.
    """
    known = np.where(np.isnan(scores), -1, labels)
    found = evaluate_rows(np.nan_to_num(scores), known, belongs, seed=seed, replicates=replicates)
    rates = dict.fromkeys(
        ("mean_prediction", "log_loss", "ne", "rig", "oe", "calibration_error", "ece", "log_loss_parts", "best_f1")
    )
    reason = dict.fromkeys(rates, "the scores are no probabilities")
    return replace(found, **rates, bins=(), undefined={**found.undefined, **reason})  # type: ignore[arg-type]


def _undefined(metrics: TaskMetrics, too_few: str | None) -> dict[str, str]:
    """Each metric of ``metrics`` that is not given, and why."""
    reason = why_undefined(metrics.rows, metrics.positives)
    absent = ["auc", "ap", "lift", "log_loss", "ne", "rig", "oe", "calibration_error", "base_rate", "mean_prediction"]
    absent += ["log_loss_parts", "best_f1", "ece"]
    found = {name: reason for name in absent if reason and getattr(metrics, name) is None}
    if reason and not metrics.recall_at:
        found["recall_at"] = reason
    if metrics.user_auc is None:
        found["user_auc"] = "the rows have no users"
    for name, grouped in metrics.within().items():
        if grouped is None:
            continue
        unit = grouped.key
        if grouped.auc is None:
            found[name] = f"no {unit} has both classes"
        elif not np.isfinite(grouped.auc.low):
            found[f"interval of {name}"] = (
                f"fewer than 10 independent {unit}s have both classes, or all are ranked alike"
            )
    if too_few:
        found["intervals of ap, log_loss and ne"] = too_few
    return found
