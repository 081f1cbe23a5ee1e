"""Six gates between a new model and the place of the champion, each on the same test rows.

A gate is passed, failed, or cannot be decided: the test then has too few outcomes for it. That is so where even a model that is
exactly as good as the champion (or exactly calibrated) would fail more often than once in ten; its reason says how many
outcomes would do. What is surely beyond the limit fails whatever the number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Integers, Reals, labelled
from ctr_pipeline.evaluation.daily_entropy import DayEntropy
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import Interval, row_losses
from ctr_pipeline.evaluation.paired_metrics import (
    MetricDifference,
    PairedMetrics,
    of_errors,
    paired_metrics,
    ratio_errors,
)
from ctr_pipeline.evaluation.slices import FALSE_DISCOVERY_RATE, benjamini_hochberg

MIN_POSITIVES = 100
"""A task with fewer positives cannot show that it is not worse, so it can only object."""

ENTROPY_CONFIDENCE = 0.99
"""Of the two-sided interval whose upper bound shows that a model is not worse: one that is worse by the limit itself passes once
in 200 times."""

NINE_OF_TEN = 1.2815515655446004
"""Normal quantile of 90 %: how often an equal model passes from the number of outcomes on that a reason names."""


class GateStatus(StrEnum):
    """What a gate found."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRules:
    """The limits of the gates, as the spec declares them in ``quality`` and ``quality.promotion``."""

    max_ne_regression: float
    require_better: bool = False
    max_auc_loss: float = 0.0005
    max_ap_loss: float = 0.002
    calibrated_within: float = 0.03
    max_slice_regression: float = 0.01
    min_slice_share: float = 0.01
    good_days: float = 0.8
    undecided_passes: bool = True
    min_positives: int = MIN_POSITIVES


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRows:
    """Test rows with the scores of both models.

    Attributes:
        tasks: T names.
        challenger: [N, T] calibrated logits of the new model.
        champion: [N, T] of the champion.
        labels: [N, T] in {0, 1, -1}.
        clusters: [N] user codes, -1 for none.
        random: [N] whether the row is in random order; None where that is not known.
        slices: Dimension to the value of each row [N].
    """

    tasks: Sequence[str]
    challenger: Reals
    champion: Reals
    labels: Integers
    clusters: Integers | None = None
    random: NDArray[np.bool_] | None = None
    slices: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def paired(self, column: int, at: NDArray[Any] | slice = slice(None)) -> PairedMetrics | None:
        """Both models on one task, on the rows ``at``."""
        clusters = None if self.clusters is None else self.clusters[at]
        return paired_metrics(self.challenger[at, column], self.champion[at, column], self.labels[at, column], clusters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What one gate found.

    Attributes:
        name: Its name.
        status: What it found, over all tasks.
        reasons: A sentence a task: what was found, the limit, and what to do.
        figures: Numbers by name.
    """

    name: str
    status: GateStatus
    reasons: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        numbers = {name: value for name, value in self.figures.items() if np.isfinite(value)}
        return {"name": self.name, "status": self.status.value, "reasons": list(self.reasons), "figures": numbers}


def worst(statuses: Sequence[GateStatus]) -> GateStatus:
    """The status of a gate from those of its parts."""
    for status in (GateStatus.FAILED, GateStatus.UNDECIDED, GateStatus.PASSED):
        if status in statuses:
            return status
    return GateStatus.NOT_APPLICABLE


def bounded(found: MetricDifference, limit: float) -> GateStatus:
    """Whether a rise that is bad is at most ``limit``, by its 95 % interval."""
    interval = found.interval()
    if interval.low > limit:
        return GateStatus.FAILED
    if not decides(found, limit):
        return GateStatus.UNDECIDED
    return GateStatus.PASSED if interval.high <= limit else GateStatus.FAILED


def decides(found: MetricDifference, limit: float, confidence: float = 0.95) -> bool:
    """Whether a model without any difference would be shown to be within ``limit`` nine times in ten."""
    return bool((found.quantile(confidence) + NINE_OF_TEN) * found.error <= limit)


def needed(found: MetricDifference, limit: float, outcomes: int, confidence: float = 0.95) -> str:
    """How many outcomes would let a gate decide, in words."""
    if not np.isfinite(found.error) or limit <= 0 or not outcomes:
        return "more"
    more = outcomes * ((found.quantile(confidence) + NINE_OF_TEN) * found.error / limit) ** 2
    return f"about {max(outcomes + 1, float(f'{more:.2g}')):,.0f}"


def interval_text(interval: Interval, form: str, confidence: float = 0.95) -> str:
    """The interval for people, its bounds in the ``form`` of :func:`format`."""
    if not np.isfinite([interval.low, interval.high]).all():
        return "too few users for an interval"
    return f"{confidence * 100:.0f} % interval {interval.low:{form}} to {interval.high:{form}}"


def undecided(outcomes: int, more: str) -> str:
    """The sentence of what cannot be decided."""
    return f"cannot be decided with {outcomes:,} outcomes, it needs {more}: give the test more days (split.test)"


def ranking_gate(rows: ComparedRows, paired: Mapping[str, PairedMetrics | None], rules: PromotionRules) -> Gate:
    """The lower bounds of the differences in AUC and AP."""
    reasons, statuses, figures = [], [], {}
    for task in rows.tasks:
        found = paired[task]
        if found is None:
            continue
        for name, difference, limit in (("AUC", found.auc, rules.max_auc_loss), ("AP", found.ap, rules.max_ap_loss)):
            loss = MetricDifference(value=-difference.value, error=difference.error, freedom=difference.freedom)
            status, interval = bounded(loss, limit), difference.interval()
            statuses.append(status)
            figures[f"{name.lower()}_change/{task}"] = difference.value
            seen = f"{task}: {name} {difference.value:+.4f} ({interval_text(interval, '+.4f')})"
            outcome = {
                GateStatus.PASSED: f"surely above -{limit:g}",
                GateStatus.FAILED: f"the interval has to lie above -{limit:g} (quality.promotion.max_{name.lower()}_loss)",
                GateStatus.UNDECIDED: f"whether it is above -{limit:g} "
                + undecided(found.positives, needed(loss, limit, found.positives)),
            }[status]
            reasons.append(f"{seen}: {outcome}.")
    return Gate(name="ranking", status=worst(statuses), reasons=tuple(reasons), figures=figures)


def calibration_gate(rows: ComparedRows, rules: PromotionRules) -> Gate:
    """The interval of observed over expected outcomes.

    It is that of the rates which the model predicts, the error of its calibrators being a part of these. Where the champion is as
    far off on these rows, the model is not refused for it: the rate has changed since both were calibrated, and the champion that
    would stay is no better.
    """
    reasons, statuses, figures = [], [], {}
    limit = -float(np.log1p(-rules.calibrated_within)), float(np.log1p(rules.calibrated_within))
    for column, task in enumerate(rows.tasks):
        own, other = (_log_ratio(rows, logits, column) for logits in (rows.challenger, rows.champion))
        positives = int(np.count_nonzero(rows.labels[:, column] == 1))
        if own is None or other is None:
            continue
        interval = own.interval()
        low, high = np.exp(interval.low), np.exp(interval.high)
        seen = f"{task}: observed over expected {np.exp(own.value):.3f} ({interval_text(Interval(own.value, low, high), '.3f')})"
        allowed = f"{1 - rules.calibrated_within:g} to {1 + rules.calibrated_within:g}"
        figures[f"observed_over_expected/{task}"] = float(np.exp(own.value))
        outside = interval.low > limit[1] or interval.high < -limit[0]
        if -limit[0] <= interval.low and interval.high <= limit[1]:
            status, outcome = GateStatus.PASSED, f"within {allowed}"
        elif not outside and not decides(own, min(limit)):
            more = needed(own, min(limit), positives)
            status, outcome = GateStatus.UNDECIDED, f"whether it is within {allowed} {undecided(positives, more)}"
        elif abs(other.value) > min(limit) and abs(own.value) <= abs(other.value) + min(limit):
            status = GateStatus.PASSED
            outcome = f"not within {allowed}, but the champion is as far off ({np.exp(other.value):.3f}): the rate has changed"
        else:
            status = GateStatus.FAILED
            outcome = (
                f"the interval has to lie within {allowed} (quality.promotion.calibrated_within), the champion has "
                f"{np.exp(other.value):.3f}; look at the slices, and give the calibration later or more days"
            )
        statuses.append(status)
        reasons.append(f"{seen}: {outcome}.")
    return Gate(name="calibration", status=worst(statuses), reasons=tuple(reasons), figures=figures)


def slices_gate(rows: ComparedRows, rules: PromotionRules) -> Gate:
    """No slice of some size is surely worse: one-sided tests against the limit, Benjamini-Hochberg over all of them."""
    found: list[tuple[str, MetricDifference]] = []
    for column, task in enumerate(rows.tasks):
        own = labelled(rows.challenger[:, column], rows.labels[:, column])
        other = labelled(rows.champion[:, column], rows.labels[:, column])
        losses, theirs = row_losses(own.logits, own.positive), row_losses(other.logits, own.positive)
        users = None if rows.clusters is None else rows.clusters[own.kept]
        for dimension, values in rows.slices.items():
            names, codes = np.unique(values[own.kept], return_inverse=True)
            sizes = np.bincount(codes, minlength=len(names))
            for place in np.flatnonzero(sizes >= rules.min_slice_share * len(own)):
                at = codes == place
                clusters, count = cluster_codes(None if users is None else users[at], int(sizes[place]))
                if len(np.unique(clusters[own.positive[at]])) < MIN_CLUSTERS:
                    continue
                value = float(losses[at].sum() / theirs[at].sum()) - 1.0
                errors = ratio_errors(losses[at], theirs[at], clusters, count)
                found.append((f"{task}: {dimension} {names[place]}", of_errors(value, errors)))
    if not found:
        return Gate(
            name="slices",
            status=GateStatus.NOT_APPLICABLE,
            reasons=(
                f"No slice has {rules.min_slice_share:.0%} of the rows and {MIN_CLUSTERS} users with an outcome.",
            ),
        )
    limit = rules.max_slice_regression
    chances = np.array([difference.chance_above(limit) for _, difference in found])
    worse = np.flatnonzero(benjamini_hochberg(chances, FALSE_DISCOVERY_RATE))
    reasons = [f"Surely more than {limit:.2%} worse: {len(worse) or 'none'} of {len(found)} slices."]
    for place in worse[np.argsort(chances[worse])][:10]:
        name, difference = found[place]
        interval = difference.interval()
        reasons.append(
            f"{name}: NE {difference.value:+.2%} ({interval_text(interval, '+.2%')}), surely more than "
            f"{limit:.2%} worse (quality.promotion.max_slice_regression): look at what changed for these rows."
        )
    return Gate(
        name="slices",
        status=GateStatus.FAILED if len(worse) else GateStatus.PASSED,
        reasons=tuple(reasons),
        figures={"slices": len(found), "worse": len(worse)},
    )


def days_gate(
    tasks: Sequence[str], days: Sequence[tuple[str, DayEntropy]], rules: PromotionRules, deciding: Sequence[str]
) -> Gate:
    """On most days the model holds: it is better, or not surely worse and by more than the limit.

    Args:
        tasks: Names.
        days: Day of the retrain that was tested, and what was found on a test day; each test day once for a task.
        rules: The limits.
        deciding: Tasks with enough positives.
    """
    reasons, statuses, figures = [], [], {}
    for task in tasks:
        own = [(origin, day) for origin, day in days if day.task == task and day.difference is not None]
        if task not in deciding or not own:
            continue
        bad = [day for _, day in own if not _held(day, rules)]
        share, origins = 1 - len(bad) / len(own), len({origin for origin, _ in own})
        what = "better" if rules.require_better else "not worse"
        figures[f"good_days/{task}"] = share
        seen = f"{task}: {what} on {len(own) - len(bad)} of {len(own)} days"
        seen += f", tested by {origins} retrains" if origins > 1 else ""
        failed = share < rules.good_days
        listed = ", ".join(f"{day.day} {day.relative:+.1%}" for day in bad[:5])
        statuses.append(GateStatus.FAILED if failed else GateStatus.PASSED)
        reasons.append(
            f"{seen}; it has to be on {rules.good_days:.0%} (quality.promotion.good_days). Look at what happened on: {listed}."
            if failed
            else f"{seen}{f' (not on {listed})' if bad else ''}."
        )
    if not statuses:
        text = "No test day has ten users with an outcome of a task that decides: cannot be decided."
        return Gate(name="days", status=GateStatus.UNDECIDED, reasons=(text,))
    return Gate(name="days", status=worst(statuses), reasons=tuple(reasons), figures=figures)


def random_traffic_gate(rows: ComparedRows, rules: PromotionRules) -> Gate:
    """The difference in NE on the rows whose order was random, which no ranking has chosen."""
    if rows.random is None or not rows.random.any():
        text = "The test has no rows in random order."
        return Gate(name="random_traffic", status=GateStatus.NOT_APPLICABLE, reasons=(text,))
    reasons, statuses, figures = [], [], {}
    limit = rules.max_ne_regression
    for column, task in enumerate(rows.tasks):
        paired = rows.paired(column, rows.random)
        if paired is None:
            continue
        change, interval = paired.relative_ne, paired.relative_ne.interval()
        status = bounded(change, limit)
        figures[f"ne_change/{task}"] = change.value
        outcome = {
            GateStatus.PASSED: f"at most {limit:.2%} worse",
            GateStatus.FAILED: f"the interval has to lie below {limit:.2%} (quality.max_ne_regression): the model may rank worse "
            "than the log shows",
            GateStatus.UNDECIDED: f"whether it is at most {limit:.2%} worse "
            + undecided(paired.positives, needed(change, limit, paired.positives)),
        }[status]
        statuses.append(status)
        seen = f"NE {change.value:+.2%} ({interval_text(interval, '+.2%')})"
        reasons.append(f"{task}: {seen} on {paired.rows:,} rows in random order: {outcome}.")
    return Gate(name="random_traffic", status=worst(statuses), reasons=tuple(reasons), figures=figures)


def _held(day: DayEntropy, rules: PromotionRules) -> bool:
    difference = day.difference
    assert difference is not None
    if rules.require_better:
        return difference.value < 0
    return difference.value <= rules.max_ne_regression or difference.interval().low <= 0


def _log_ratio(rows: ComparedRows, logits: Reals, column: int) -> MetricDifference | None:
    """The log of observed over expected outcomes; None without outcomes."""
    own = labelled(logits[:, column], rows.labels[:, column])
    if not own.positives:
        return None
    codes, count = cluster_codes(None if rows.clusters is None else rows.clusters[own.kept], len(own))
    expected = special.expit(own.logits)
    ratio = own.positives / float(expected.sum())
    errors = ratio_errors(own.positive.astype(np.float64), expected, codes, count) / ratio
    found = of_errors(float(np.log(ratio)), errors)
    enough = len(np.unique(codes[own.positive])) >= MIN_CLUSTERS
    return found if enough else MetricDifference(value=found.value, error=np.inf, freedom=1.0)
