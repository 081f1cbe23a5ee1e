"""What a model has to be better than before it may be served, with a champion or without one.

Three floors: the chosen epoch on the validation rows against the base rate, and the model on the test rows against the
base rate and against a model that knows nothing but the position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals
from ctr_pipeline.evaluation.intervals import PairedDifference, bootstrap, paired_difference
from ctr_pipeline.evaluation.metrics import Interval

PRIOR_ROWS = 100.0
"""Rows at the base rate by which the rate of each position is smoothed."""


FEW_POSITIVES = 50
"""Positives of a task below which the comparison with the position often cannot tell a good model. Of models that predict the
true rates of a task, and separate it well (AUC about .76), 83 % were refused with 8 positives among the test rows, 50 % with 15,
30 % with 25, 8 % with 40 and 3 % with 60; of models that add noise to the position at most 3 % passed, whatever the number.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """How a model compares with what it has to beat."""

    validation_ne: float | None
    """Mean NE of the tasks on the validation rows, of the chosen epoch; None where no task has both classes there."""
    validation: Mapping[str, Interval | None]
    """By task, NE on the validation rows, uncalibrated; None where their labels are not of both classes."""
    position: Mapping[str, PairedDifference | None]
    """By task, NE on the test rows against the position-only model; empty where no position is known."""
    validation_reasons: tuple[str, ...]
    """Why the validation forbids the use of the model: a sentence each."""
    position_reasons: tuple[str, ...]
    """Why the comparison with the position-only model does."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """All of them."""
        return self.validation_reasons + self.position_reasons

    def to_json(self) -> dict[str, Any]:
        """The fields, with each interval as an object."""
        return {
            "validation_ne": self.validation_ne,
            "validation": {task: None if ne is None else ne.to_json() for task, ne in self.validation.items()},
            "position": {task: None if d is None else d.to_json() for task, d in self.position.items()},
            "reasons": list(self.reasons),
        }


def validation_entropy(logits: Reals, labels: Integers, clusters: Integers | None, *, seed: int) -> Interval | None:
    """NE of one task's uncalibrated ``logits`` [N] on the validation rows, bootstrapped over ``clusters`` [N].

    Returns:
        None when the labelled rows have one class.
    """
    return bootstrap(logits, labels, clusters, seed=seed).normalised_entropy


def validation_reasons(mean: float | None, by_task: Mapping[str, Interval | None], limit: float) -> tuple[str, ...]:
    """A sentence for each way in which the validation shows that the training did not learn.

    Args:
        mean: Mean NE of the chosen epoch; None where it is no number.
        by_task: NE of each task with its interval; None where the validation rows cannot tell.
        limit: NE from which on a model is refused; 1 is the base rate. A single task is refused where its whole interval
            lies above the limit: with few outcomes a good model may lie above it by chance.
    """
    known = {task: ne for task, ne in by_task.items() if ne is not None}
    reasons = []
    if known and mean is None:
        reasons.append(
            "The training did not learn: the chosen epoch has no finite normalised entropy on the validation."
        )
    elif mean is not None and mean >= limit:
        reasons.append(
            f"The training did not learn: the chosen epoch has a mean normalised entropy of {mean:.3f} on the validation "
            f"rows; it has to lie below {limit:g} (the base rate has 1)."
        )
    for task, ne in known.items():
        if ne.low > limit:
            reasons.append(
                f"{task}: NE {ne.value:.3f} (95 % interval {ne.low:.3f} to {ne.high:.3f}) on the validation rows is surely "
                f"above {limit:g}."
            )
    return tuple(reasons)


def position_only(train_positions: Integers, train_labels: Integers, positions: Integers) -> Float64s | None:
    """Logits of the model that knows nothing but the logged position: the rate of each among the training rows.

    Rates are smoothed by :data:`PRIOR_ROWS` rows at the base rate, so that a position of few rows has about that.

    Args:
        train_positions: [M] from 1; 0 where none was logged.
        train_labels: [M] in {0, 1, -1}; -1 is left out.
        positions: [N] of the rows to predict.

    Returns:
        [N]; None where the training rows have fewer than two positions or their labels one class.
    """
    known = train_labels >= 0
    seen, outcomes = np.asarray(train_positions)[known].astype(np.int64), np.asarray(train_labels)[known]
    if not 0 < np.count_nonzero(outcomes) < len(outcomes) or len(np.unique(seen[seen > 0])) < 2:
        return None
    base = float(np.mean(outcomes))
    size = int(max(seen.max(), np.max(positions, initial=0))) + 1
    shown = np.bincount(seen, minlength=size) + PRIOR_ROWS
    rates = (np.bincount(seen, weights=outcomes, minlength=size) + PRIOR_ROWS * base) / shown
    logits: Float64s = special.logit(rates)[np.asarray(positions).astype(np.int64)]
    return logits


def against_position(
    logits: Reals, reference: Reals, labels: Integers, clusters: Integers | None, *, seed: int
) -> PairedDifference | None:
    """NE of one task's ``logits`` [N] against those of :func:`position_only`, with the same draws of ``clusters`` [N].

    Returns:
        None when the labelled rows have one class.
    """
    return paired_difference(logits, reference, labels, clusters, seed=seed)


def position_reasons(differences: Mapping[str, PairedDifference | None]) -> tuple[str, ...]:
    """A sentence for each task that is not shown to be predicted better than by its position alone.

    A task with few outcomes has to be shown to be so too: what cannot be shown is not served. Its sentence then says that it is the
    outcomes that are missing, unless the whole interval speaks against the model.
    """
    reasons = []
    for task, difference in differences.items():
        if difference is None or difference.relative.high < 0:
            continue
        change = difference.relative
        interval = f"95 % interval {change.low:+.1%} to {change.high:+.1%}"
        found = f"{task}: NE {change.value:+.1%} ({interval if np.isfinite(change.high) else 'no interval'}) beside"
        known = "a model that knows the position alone"
        if difference.positives < FEW_POSITIVES and not change.low > 0:
            reasons.append(
                f"{found} {known}: with {difference.positives} outcomes on the test rows it cannot be told whether the model is "
                f"better; below {FEW_POSITIVES} a good one is often refused. Give the test more days (split.test), or leave the "
                "position to other gates (quality.better_than_position: false)."
            )
            continue
        worse = "is no better" if change.value >= 0 else "is not surely better"
        reasons.append(f"{found} {known}: the model {worse}; the interval has to lie below 0.")
    return tuple(reasons)
