"""What an online test of a rate says, at its end and at any time before."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval
from ctr_pipeline.experiments.sample_ratio import sample_ratio_p_value
from ctr_pipeline.experiments.sample_size import UserTotals, explained_by_past, sequence_width

UNEVEN = 0.001
"""Level of the test of the sample ratio: below it nothing of the test can be believed."""


class Decision(StrEnum):
    """What may be said now, although it was looked at before and will be again."""

    BETTER = "better"
    WORSE = "worse"
    GO_ON = "go on"
    UNEVEN_ARMS = "uneven arms"
    """Users were not assigned in the declared ratio: find out why before anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A test between a treatment and a control.

    Attributes:
        treatment: Rate of the treatment.
        control: Rate of the control.
        difference: Treatment less control, after the period before is accounted for, with the interval of a single look that was
            planned.
        always: The same difference with a confidence sequence: it holds the truth at all looks together with the stated chance.
        relative: ``difference`` over the control's rate.
        explained: Share of the variance that the period before takes away.
        information: One over the squared standard error, as a share of that at the planned end: 1 where that is reached.
        users: Users of both arms.
        ratio_p_value: Of the declared ratio of users, valid at any number of looks.
        decision: By ``always``.
        alpha: Chance of a wrong decision where there is no difference.
    """

    treatment: float
    control: float
    difference: Interval
    always: Interval
    relative: Interval
    explained: float
    information: float
    users: tuple[int, int]
    ratio_p_value: float
    decision: Decision
    alpha: float

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with each interval as an object."""
        return {
            "treatment": self.treatment,
            "control": self.control,
            **{name: getattr(self, name).to_json() for name in ("difference", "always", "relative")},
            "explained": self.explained,
            "information": self.information,
            "users": list(self.users),
            "ratio_p_value": self.ratio_p_value,
            "decision": self.decision.value,
            "alpha": self.alpha,
        }


def read_test(
    treatment: UserTotals, control: UserTotals, *, planned_error: float, share: float = 0.5, alpha: float = 0.05
) -> Reading:
    """Compares the rates of two arms of users.

    Rows of a user depend on each other, so the variance is that between users. Where both arms have a period before, what it
    explains of their users is taken away from both (CUPED: Deng et al. 2013).

    The confidence sequence is the asymptotic one of Waudby-Smith et al. (2024), narrowest where
    the standard error of the difference is the planned one.

    Args:
        treatment: Users who were treated.
        control: Users who were not.
        planned_error: Standard error of the difference at the planned end.
        share: Declared share of the treatment.
        alpha: As in :class:`Reading`.

    Raises:
        EvaluationError: one arm alone has a period before, the control has no outcome, or an argument is outside its range.
    """
    if (treatment.before is None) != (control.before is None):
        raise EvaluationError("one arm alone has a period before: give that of both, or of none")
    if not 0 < alpha < 1:
        raise EvaluationError(f"alpha: expected a share between 0 and 1; found {alpha}")
    if not 0 < share < 1:
        raise EvaluationError(f"share: expected a share between 0 and 1; found {share}")
    if not (math.isfinite(planned_error) and planned_error > 0):
        raise EvaluationError(f"planned_error: expected a standard error above 0; found {planned_error}")
    if control.rate <= 0:
        raise EvaluationError("the control has no outcome, to which another rate could be compared")
    own, other = treatment.errors(), control.errors()
    plain = _error(own, other)
    shift = 0.0
    if treatment.before is not None and control.before is not None:
        own, other, shift = _adjusted(own, other, treatment.before, control.before)
    error = _error(own, other)
    value = treatment.rate - control.rate - shift
    users = len(own), len(other)
    margin = float(special.ndtri(1 - alpha / 2)) * error
    information = (planned_error / error) ** 2 if error else math.inf
    wide = sequence_width(information, alpha) * error if error else 0.0
    always = Interval(value, value - wide, value + wide)
    ratio = sample_ratio_p_value(users, (share, 1 - share))
    return Reading(
        treatment=treatment.rate,
        control=control.rate,
        difference=Interval(value, value - margin, value + margin),
        always=always,
        relative=_relative(value, error, other, control, alpha),
        explained=1.0 - (error / plain) ** 2 if plain else 0.0,
        information=information,
        users=users,
        ratio_p_value=ratio,
        decision=_decision(always, ratio),
        alpha=alpha,
    )


def _decision(always: Interval, ratio: float) -> Decision:
    if ratio < UNEVEN:
        return Decision.UNEVEN_ARMS
    if always.low > 0:
        return Decision.BETTER
    return Decision.WORSE if always.high < 0 else Decision.GO_ON


def _error(own: Float64s, other: Float64s) -> float:
    return float(np.sqrt(np.var(own, ddof=1) / len(own) + np.var(other, ddof=1) / len(other)))


def _adjusted(own: Float64s, other: Float64s, before: Float64s, control: Float64s) -> tuple[Float64s, Float64s, float]:
    """Errors without what the period before explains, and the difference that it explains."""
    fitted = explained_by_past(np.concatenate([own, other]), np.concatenate([before, control]))
    first, second = fitted[: len(own)], fitted[len(own) :]
    return own - first, other - second, float(first.mean() - second.mean())


def _relative(value: float, error: float, other: Float64s, control: UserTotals, alpha: float) -> Interval:
    """The difference over the control's rate, whose own error is in it (delta method)."""
    rate = control.rate
    own = float(np.var(other, ddof=1)) / len(other)
    # The control's error is in the difference with the opposite sign.
    variance = (error**2 + (value / rate) ** 2 * own + 2 * value / rate * own) / rate**2
    margin = float(special.ndtri(1 - alpha / 2)) * math.sqrt(max(variance, 0.0))
    return Interval(value / rate, value / rate - margin, value / rate + margin)
