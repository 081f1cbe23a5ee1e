"""Whether a new model may be served at all, and whether it may replace the champion.

The first is a floor that holds without a champion too; the second is decided on the same test rows, with the same draws
of users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctr_pipeline.calibration.labelled import Integers, Reals
from ctr_pipeline.evaluation.intervals import PairedDifference, paired_difference
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval

MIN_POSITIVES = 100
"""A task with fewer positives cannot show that it is not worse, so it can only object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionDecision:
    """The decision and its grounds.

    Attributes:
        promote: Whether the challenger may become the champion.
        reasons: One sentence a task, for people.
        differences: Task to its difference in NE, challenger against champion; empty without a champion.
    """

    promote: bool
    reasons: list[str]
    differences: Mapping[str, PairedDifference] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """``{"promote", "reasons", "differences": {task: {...}}}``."""
        return {
            "promote": self.promote,
            "reasons": list(self.reasons),
            "differences": {task: difference.to_json() for task, difference in self.differences.items()},
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


def compare_with_champion(
    tasks: Sequence[str],
    challenger: Reals,
    champion: Reals | None,
    labels: Integers,
    clusters: Integers | None = None,
    *,
    max_ne_regression: float,
    seed: int,
    replicates: int = 200,
    min_positives: int = MIN_POSITIVES,
) -> PromotionDecision:
    """Decides whether the challenger is promoted.

    Without a champion it is. Otherwise every task with at least ``min_positives`` positives must not be worse: the
    upper 95 % bound of its relative difference in NE is at most ``max_ne_regression``. A rarer task objects only when
    it is surely worse: the lower bound lies above ``max_ne_regression``. When every task is rare, nothing shows that
    the challenger is as good, and the champion stays.

    Args:
        tasks: T names.
        challenger: [N, T] calibrated logits of the new model.
        champion: [N, T] calibrated logits of the champion on the same rows; None when there is no champion.
        labels: [N, T] in {0, 1, -1}.
        clusters: [N] user codes, -1 for none.
        max_ne_regression: Largest relative rise in NE that counts as not worse, such as 0.01.
        seed: Of the bootstrap.
        replicates: Bootstrap replicates.
        min_positives: Positives that a task needs to decide.

    Raises:
        EvaluationError: the shapes do not fit each other.
        ScoreError: labelled rows have logits that are not finite.
    """
    shape = (len(challenger), len(tasks))
    for name, array in (("challenger", challenger), ("champion", champion), ("labels", labels)):
        if array is not None and array.shape != shape:
            raise EvaluationError(f"{name}: expected shape {shape} (rows, tasks); found {array.shape}")
    if champion is None:
        return PromotionDecision(promote=True, reasons=["There is no champion yet."])
    promote, decided, reasons = True, False, []
    differences: dict[str, PairedDifference] = {}
    for column, task in enumerate(tasks):
        difference = paired_difference(
            challenger[:, column], champion[:, column], labels[:, column], clusters, seed=seed, replicates=replicates
        )
        if difference is None:
            reasons.append(f"{task}: the test rows do not have labels of both classes, so it does not count.")
            continue
        differences[task] = difference
        change = difference.relative
        found = f"{task}: NE {change.value:+.2%} (95 % interval {change.low:+.2%} to {change.high:+.2%})"
        if difference.positives < min_positives:
            worse = change.low > max_ne_regression
            outcome = (
                f"surely worse than {max_ne_regression:.2%}"
                if worse
                else f"{difference.positives} positives: too few to decide"
            )
        else:
            decided = True
            worse = not change.high <= max_ne_regression
            outcome = (
                f"may be more than {max_ne_regression:.2%} worse"
                if worse
                else f"at most {max_ne_regression:.2%} worse: passed"
            )
        promote = promote and not worse
        reasons.append(f"{found}: {outcome}.")
    if not decided:
        reasons.append(f"No task has {min_positives} positives, so nothing shows that the new model is as good.")
    return PromotionDecision(promote=promote and decided, reasons=reasons, differences=differences)
