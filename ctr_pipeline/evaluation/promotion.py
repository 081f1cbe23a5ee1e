"""Whether a new model may be served at all, and whether it may replace the champion.

The first is a floor that holds without a champion too; the second is decided by six gates on the same test rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration.labelled import Integers, Reals
from ctr_pipeline.evaluation.daily_entropy import DayEntropy, daily_entropies
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval
from ctr_pipeline.evaluation.paired_metrics import PairedMetrics
from ctr_pipeline.evaluation.promotion_gates import (
    ENTROPY_CONFIDENCE,
    ComparedRows,
    Gate,
    GateStatus,
    PromotionRules,
    calibration_gate,
    days_gate,
    interval_text,
    needed,
    random_traffic_gate,
    ranking_gate,
    slices_gate,
    worst,
)

GATES = ("normalised_entropy", "ranking", "calibration", "slices", "days", "random_traffic")
"""Names of the gates."""

FIRST = "There is no champion yet."


class Standing(StrEnum):
    """How the normalised entropy of the new model stands beside the champion's."""

    FIRST = "first"
    BETTER = "better"
    NOT_WORSE = "not worse"
    WORSE = "not shown to be as good"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionDecision:
    """The decision and its grounds.

    Attributes:
        promote: Whether the challenger may become the champion.
        reasons: Sentences for people: those of gates that stop it, then those of the normalised entropy, then which others are passed.
        standing: What the normalised entropies show.
        gates: What each of the six gates found; those of a first model do not apply.
        differences: Task to its differences, challenger against champion; empty without a champion.
        days: Both models day by day.
    """

    promote: bool
    reasons: list[str]
    standing: Standing
    gates: tuple[Gate, ...]
    differences: Mapping[str, PairedMetrics] = field(default_factory=dict)
    days: Sequence[DayEntropy] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields by name, each as plain values."""
        return {
            "promote": self.promote,
            "reasons": list(self.reasons),
            "standing": self.standing.value,
            "gates": [gate.to_json() for gate in self.gates],
            "differences": {task: difference.to_json() for task, difference in self.differences.items()},
            "days": [day.to_json() for day in self.days],
        }


def base_rate_reasons(normalised_entropy: Mapping[str, Interval | None]) -> list[str]:
    """A sentence for each task that is not shown to be predicted better than by its base rate.

    Args:
        normalised_entropy: By task, NE on the test rows; None where their labels are not of both classes. Below 1 is better than
            the base rate, and the whole 95 % interval has to be.
    """
    reasons = []
    for task, ne in normalised_entropy.items():
        if ne is None:
            reasons.append(
                f"{task}: the test rows do not have labels of both classes, so the model cannot be evaluated."
            )
        elif not ne.high < 1:
            found = f"{task}: NE {ne.value:.3f} (95 % interval {ne.low:.3f} to {ne.high:.3f})"
            worse = "is no better than the base rate" if ne.value >= 1 else "is not surely better than the base rate"
            reasons.append(f"{found} {worse}; its interval has to lie below 1.")
    return reasons


def decide_promotion(
    tasks: Sequence[str],
    challenger: Reals,
    champion: Reals | None,
    labels: Integers,
    clusters: Integers | None = None,
    *,
    rules: PromotionRules,
    days: Integers | None = None,
    random: NDArray[np.bool_] | None = None,
    slices: Mapping[str, NDArray[Any]] | None = None,
    origin: str = "",
    earlier: Mapping[str, Sequence[DayEntropy]] | None = None,
) -> PromotionDecision:
    """Decides whether the challenger is promoted.

    Without a champion it is. Otherwise no gate may fail, and one that cannot be decided counts as ``rules`` say; that of the
    normalised entropy always decides.

    Args:
        tasks: T names.
        challenger: [N, T] calibrated logits of the new model.
        champion: [N, T] calibrated logits of the champion on the same rows; None when there is no champion.
        labels: [N, T] in {0, 1, -1}.
        clusters: [N] user codes, -1 for none.
        rules: The limits.
        days: [N] days since 1970-01-01, UTC; None where they are not known.
        random: [N] whether the row is in random order; None where that is not known.
        slices: Dimension to the value of each row [N].
        origin: Day of the retrain.
        earlier: Day of earlier retrains of the same spec to what was found on their test days, beside the champion of then.
            A test day counts once, as tested by the latest of the retrains.

    Raises:
        EvaluationError: the shapes do not fit each other.
        ScoreError: labelled rows have logits that are not finite.
    """
    shape = (len(challenger), len(tasks))
    for name, array in (("challenger", challenger), ("champion", champion), ("labels", labels)):
        if array is not None and array.shape != shape:
            raise EvaluationError(f"{name}: expected shape {shape} (rows, tasks); found {array.shape}")
    found = [] if days is None else daily_entropies(tasks, challenger, champion, labels, clusters, days)
    if champion is None:
        gates = tuple(Gate(name=name, status=GateStatus.NOT_APPLICABLE, reasons=(FIRST,)) for name in GATES)
        return PromotionDecision(promote=True, reasons=[FIRST], standing=Standing.FIRST, gates=gates, days=found)
    rows = ComparedRows(
        tasks=tasks,
        challenger=challenger,
        champion=champion,
        labels=labels,
        clusters=clusters,
        random=random,
        slices=slices or {},
    )
    paired = {task: rows.paired(column) for column, task in enumerate(tasks)}
    entropy, standing = entropy_gate(paired, rules)
    deciding = [task for task, of in paired.items() if of is not None and of.positives >= rules.min_positives]
    gates = (
        entropy,
        ranking_gate(rows, paired, rules),
        calibration_gate(rows, rules),
        slices_gate(rows, rules),
        days_gate(tasks, latest_tests(origin, found, earlier or {}), rules, deciding),
        random_traffic_gate(rows, rules),
    )
    stopping = [gate for gate in gates if stops(gate, rules)]
    told = [*stopping, *(gate for gate in (entropy,) if gate not in stopping)]
    return PromotionDecision(
        promote=not stopping,
        reasons=[*(sentence for gate in told for sentence in gate.reasons), *_others(gates, told)],
        standing=standing,
        gates=gates,
        differences={task: of for task, of in paired.items() if of is not None},
        days=found,
    )


def _others(gates: Sequence[Gate], told: Sequence[Gate]) -> list[str]:
    """A sentence of what the gates found whose reasons are not told."""
    words = {
        GateStatus.PASSED: "passed",
        GateStatus.UNDECIDED: "not decided, with too few outcomes",
        GateStatus.NOT_APPLICABLE: "not applicable",
    }
    found = {
        word: ", ".join(gate.name.replace("_", " ") for gate in gates if gate not in told and gate.status is status)
        for status, word in words.items()
    }
    listed = "; ".join(f"{word}: {names}" for word, names in found.items() if names)
    return [f"Further gates {listed}."] if listed else []


def stops(gate: Gate, rules: PromotionRules) -> bool:
    """Whether a gate keeps the model from being promoted."""
    return gate.status is GateStatus.FAILED or (gate.status is GateStatus.UNDECIDED and not rules.undecided_passes)


def latest_tests(
    origin: str, found: Sequence[DayEntropy], earlier: Mapping[str, Sequence[DayEntropy]]
) -> list[tuple[str, DayEntropy]]:
    """The retrain and what it found, for each test day of each task: of several retrains the latest counts."""
    known = {(day.task, day.day): (origin, day) for day in found}
    for of in sorted(earlier, reverse=True):
        for day in earlier[of]:
            known.setdefault((day.task, day.day), (of, day))
    return [known[key] for key in sorted(known, key=lambda key: key[1])]


def entropy_gate(paired: Mapping[str, PairedMetrics | None], rules: PromotionRules) -> tuple[Gate, Standing]:
    """The first gate: no task is worse, and where the rules require it one is surely better.

    Every task with at least ``min_positives`` positives has to be shown not to be worse: the upper bound of its difference in NE
    at :data:`~ctr_pipeline.evaluation.promotion_gates.ENTROPY_CONFIDENCE` is at most ``max_ne_regression``. It is better where the
    interval lies below 0, at 95 % over all of these tasks together (Bonferroni). A rarer task objects only when it is surely
    worse: its 95 % interval lies above ``max_ne_regression``. When every task is rare, nothing shows that the challenger is as good.
    """
    limit = rules.max_ne_regression
    deciding = [task for task, of in paired.items() if of is not None and of.positives >= rules.min_positives]
    reasons, statuses, better = [], [], []
    figures: dict[str, float] = {}
    for task, of in paired.items():
        if of is None:
            reasons.append(f"{task}: the test rows do not have labels of both classes, so it does not count.")
            continue
        change, level = of.relative_ne, ENTROPY_CONFIDENCE if task in deciding else 0.95
        interval = change.interval(level)
        figures |= {f"ne_change/{task}": change.value, f"ne_change_low/{task}": interval.low}
        figures |= {f"ne_change_high/{task}": interval.high}
        seen = f"{task}: NE {change.value:+.2%} ({interval_text(interval, '+.2%', level)})"
        if task not in deciding:
            worse = interval.low > limit
            outcome = f"surely worse than {limit:.2%}" if worse else f"{of.positives} outcomes: too few to decide"
        else:
            worse = not interval.high <= limit
            is_better = change.interval(1 - 0.05 / len(deciding)).high < 0
            better += [task] if is_better and not worse else []
            outcome = "better" if is_better else f"at most {limit:.2%} worse"
            outcome += ": passed" if not worse else ""
            if worse:
                outcome = f"may be more than {limit:.2%} worse (quality.max_ne_regression)"
                if not interval.low > 0:
                    more = needed(change, limit, of.positives, ENTROPY_CONFIDENCE)
                    outcome += f"; with {of.positives:,} outcomes an equal model is told from it, by nine in ten, from {more} on"
        statuses.append(GateStatus.FAILED if worse else GateStatus.PASSED)
        reasons.append(f"{seen}: {outcome}.")
    status = worst(statuses)
    if not deciding:
        status = GateStatus.FAILED
        reasons.append(
            f"No task has {rules.min_positives} positives, so nothing shows that the new model is as good. Give the test more days "
            "(split.test)."
        )
    standing = Standing.WORSE if status is GateStatus.FAILED else Standing.BETTER if better else Standing.NOT_WORSE
    if rules.require_better and standing is Standing.NOT_WORSE:
        status = GateStatus.FAILED
        reasons.append("No task is surely better, which quality.promotion.require asks for.")
    return Gate(name="normalised_entropy", status=status, reasons=tuple(reasons), figures=figures), standing
