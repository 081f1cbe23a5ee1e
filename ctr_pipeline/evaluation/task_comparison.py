"""A model of several tasks beside models of one task each, on the same test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals
from ctr_pipeline.evaluation.metrics import Interval, entropy
from ctr_pipeline.evaluation.paired_draws import METRICS, Draws, interval, resampled

AUC, NE = METRICS.index("AUC"), METRICS.index("NE")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskComparison:
    """One model on one task, beside the task's single-task control. Means over training seeds.

    Attributes:
        side: Name of the model.
        task: Name of the task.
        auc: Its AUC; NaN where the test rows cannot tell, as the others.
        ne: Its normalised entropy.
        control_auc: AUC of the control.
        control_ne: Normalised entropy of the control.
        auc_difference: AUC minus that of the control, paired by user: above 0 the model is better.
        ne_difference: NE minus that of the control: below 0 the model is better.
        ne_by_seed: The difference in NE of each training seed.
        positives: Positive test rows.
        ne_draws: [R + 1] the difference in NE as it is, and in each replicate; all tasks have the same draws of users.
        entropy: Entropy of the base rate: NE times it is the log loss.
    """

    side: str
    task: str
    auc: float
    ne: float
    control_auc: float
    control_ne: float
    auc_difference: Interval
    ne_difference: Interval
    ne_by_seed: tuple[float, ...]
    positives: int
    ne_draws: Float64s = field(default_factory=lambda: np.zeros(0), compare=False, repr=False)
    entropy: float = float("nan")

    @property
    def verdict(self) -> str:
        """``worse`` or ``better`` than the control where the interval of NE says so and no seed says otherwise; else ``even``."""
        if self.ne_difference.low > 0 and min(self.ne_by_seed) > 0:
            return "worse"
        if self.ne_difference.high < 0 and max(self.ne_by_seed) < 0:
            return "better"
        return "even"

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; what is not defined is null."""
        numbers = {"auc": self.auc, "ne": self.ne, "control_auc": self.control_auc, "control_ne": self.control_ne}
        defined = bool(np.isfinite(self.auc_difference.value)) and bool(np.isfinite(self.ne_difference.value))
        return {
            "side": self.side,
            "task": self.task,
            **{name: value if np.isfinite(value) else None for name, value in numbers.items()},
            "auc_difference": self.auc_difference.to_json() if defined else None,
            "ne_difference": self.ne_difference.to_json() if defined else None,
            "ne_by_seed": [value if np.isfinite(value) else None for value in self.ne_by_seed],
            "positives": self.positives,
            "verdict": self.verdict if defined else "not measured",
        }


def compare_with_controls(
    task: str,
    sides: Mapping[str, Sequence[Reals]],
    control: Sequence[Reals],
    labels: Integers,
    users: Integers,
    *,
    seed: int = 7,
    replicates: int = 200,
) -> list[TaskComparison]:
    """Each side beside the control on one task.

    Args:
        task: Name of the task.
        sides: By name, for each training seed the calibrated logits [N] of the task.
        control: The same of the control, with the same training seeds.
        labels: [N] in {0, 1, -1}.
        users: [N] user codes, -1 for none.
        seed: Of the draws of users.
        replicates: How many.
    """

    def draws(logits: Sequence[Reals]) -> list[Draws]:
        return [resampled(own, labels, users, seed=seed, replicates=replicates) for own in logits]

    base = draws(control)
    found = []
    for side, logits in sides.items():
        own = draws(logits)
        pairs = list(zip(own, base, strict=True))
        difference = np.mean([a - b for a, b in pairs], axis=0)
        mean, control_mean = np.mean([a[0] for a in own], axis=0), np.mean([b[0] for b in base], axis=0)
        found.append(
            TaskComparison(
                side=side, task=task, auc=float(mean[AUC]), ne=float(mean[NE]),
                control_auc=float(control_mean[AUC]), control_ne=float(control_mean[NE]),
                auc_difference=interval(difference[:, AUC]), ne_difference=interval(difference[:, NE]),
                ne_by_seed=tuple(float(a[0, NE] - b[0, NE]) for a, b in pairs),
                positives=int(np.count_nonzero(labels == 1)), ne_draws=difference[:, NE],
                entropy=_entropy(labels),
            )
        )  # fmt: skip
    return found


def _entropy(labels: Integers) -> float:
    """Of the base rate of the labelled rows; NaN without both classes."""
    rate = float(np.mean(labels[labels >= 0] == 1)) if (labels >= 0).any() else 0.0
    return float(entropy(rate)) if 0 < rate < 1 else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueComparison:
    """One model on all tasks together, each with the value of its outcome, beside the single-task controls.

    Attributes:
        side: Name of the model.
        values: Value of an outcome by task.
        ne_difference: Σ value · (log loss - that of the control) / Σ value · entropy: below 0 the model is better.
    """

    side: str
    values: dict[str, float]
    ne_difference: Interval

    @property
    def verdict(self) -> str:
        """``worse`` or ``better`` where the interval says so; else ``even``."""
        return "worse" if self.ne_difference.low > 0 else "better" if self.ne_difference.high < 0 else "even"

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        difference = self.ne_difference.to_json()
        return {"side": self.side, "values": self.values, "ne_difference": difference, "verdict": self.verdict}


def compare_by_value(comparisons: Sequence[TaskComparison], values: Mapping[str, float]) -> list[ValueComparison]:
    """Each side on the tasks that have a value, in one number.

    Sides of which a task with a value was not measured are left out.

    Args:
        comparisons: Of sides and tasks.
        values: Value of an outcome by task, above 0.
    """
    found = []
    for side in dict.fromkeys(one.side for one in comparisons):
        own = {one.task: one for one in comparisons if one.side == side and one.task in values}
        measured = all(np.isfinite(one.ne_difference.value) and one.entropy > 0 for one in own.values())
        if not own or own.keys() != values.keys() or not measured:
            continue
        weights = {task: values[task] * one.entropy for task, one in own.items()}
        count = min(len(one.ne_draws) for one in own.values())
        together = sum(weights[task] * one.ne_draws[:count] for task, one in own.items()) / sum(weights.values())
        found.append(ValueComparison(side=side, values=dict(values), ne_difference=interval(np.asarray(together))))
    return found
