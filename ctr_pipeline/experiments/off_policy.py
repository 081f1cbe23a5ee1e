"""The value of a policy that was not in service, from the rewards of one that was, whose propensities were logged.

A weight is π(a | x) / p(a | x): how much likelier the candidate π shows what was shown than the policy that showed it did.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Reals
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval

CLIP = 10.0
"""Weight above which the clipped estimate counts a row as of this weight, and switch-DR trusts the reward model alone."""

LEAST_SHARE = 0.01
"""Effective rows over rows below which an alarm is raised."""

LEAST_ROWS = 100
"""Effective rows below which an alarm is raised."""

LEAST_REWARDED = 10
"""Rows with a reward and a weight below which an alarm is raised."""

LARGEST_SHARE = 0.05
"""Share of the sum of all weights that one unit may have without an alarm."""


@dataclass(frozen=True, slots=True)
class RewardModel:
    """Rewards as a model predicts them, from other rows than those that it is used with.

    Attributes:
        shown: [N] predicted reward of what was shown.
        candidate: [N] mean predicted reward of what the candidate would show: the sum over a of π(a | x) q(x, a).
    """

    shown: NDArray[np.floating[Any]]
    candidate: NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """Mean reward a row of a candidate policy by several estimators, each with its 95 % interval.

    Attributes:
        ipw: Mean of weight · reward (Horvitz & Thompson 1952): without bias where propensities are right.
        snipw: The same over the mean weight (Hájek 1971; Swaminathan & Joachims 2015): less spread, next to no bias.
        clipped: As ``ipw``, with weights of at most ``clip`` (Ionides 2008): little spread, too low where much is clipped.
        dr: Mean of the model's value of the candidate plus weight · (reward - prediction) (Dudík, Langford & Li 2011); None
            without a reward model.
        switch_dr: As ``dr``, without the second term where the weight is above ``clip`` (Wang, Agarwal & Dudík 2017).
        logged: Mean reward of the policy that was in service.
        rows: Rows.
        units: Independent units.
        clip: The largest weight of the clipped estimates.
        effective_rows: (sum of weights)² / sum of their squares (Kish 1965).
        mean_weight: 1 where the propensities are right and each action that the candidate shows was possible.
        largest_weight: The largest one.
        clipped_share: Share of the sum of weights that clipping takes away.
        alarms: Why the estimates should not be relied on; empty where nothing speaks against them.
    """

    ipw: Interval
    snipw: Interval
    clipped: Interval
    dr: Interval | None
    switch_dr: Interval | None
    logged: Interval
    rows: int
    units: int
    clip: float
    effective_rows: float
    mean_weight: Interval
    largest_weight: float
    clipped_share: float
    alarms: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with each interval as an object."""
        intervals = ("ipw", "snipw", "clipped", "dr", "switch_dr", "logged", "mean_weight")
        numbers = ("rows", "units", "clip", "effective_rows", "largest_weight", "clipped_share")
        found = {name: getattr(self, name) for name in intervals}
        return {
            **{name: None if value is None else value.to_json() for name, value in found.items()},
            **{name: getattr(self, name) for name in numbers},
            "alarms": list(self.alarms),
        }


def policy_value(
    rewards: Reals,
    propensity: Reals,
    candidate: Reals,
    clusters: Integers | None = None,
    *,
    model: RewardModel | None = None,
    clip: float = CLIP,
) -> PolicyValue:
    """The value of a candidate policy.

    Intervals are normal, with the variance between ``clusters``: on the log scale for rewards that are never negative, whose
    estimates are skewed, else as they are.

    Args:
        rewards: [N] such as 0 and 1 for clicks.
        propensity: [N] probability with which what was shown was shown, above 0.
        candidate: [N] probability with which the candidate would have shown it, 0 to 1.
        clusters: [N] unit of each row, such as its user, -1 for none; without it every row is independent.
        model: For the doubly robust estimates.
        clip: As :data:`CLIP`.

    Raises:
        EvaluationError: there is no row, an array has another length, or a value is outside its range.
    """
    given = {"rewards": rewards, "propensity": propensity, "candidate": candidate}
    if model is not None:
        given |= {"model.shown": model.shown, "model.candidate": model.candidate}
    values = {name: _checked(name, array, len(rewards)) for name, array in given.items()}
    if not len(rewards):
        raise EvaluationError("off-policy value: there is no row")
    if not clip > 0:
        raise EvaluationError(f"clip: expected a weight above 0; found {clip}")
    _refuse("propensity", values["propensity"], values["propensity"] > 0, "above 0, and at most 1")
    for name in ("propensity", "candidate"):
        _refuse(name, values[name], (values[name] >= 0) & (values[name] <= 1), "a probability")
    codes, units = cluster_codes(clusters, len(rewards))
    reward, weight = values["rewards"], values["candidate"] / values["propensity"]
    most = np.minimum(weight, clip)
    mean = _Means(codes, units, bool((reward >= 0).all()))
    dr = switch = None
    if model is not None:
        gap = reward - values["model.shown"]
        dr = mean.interval(values["model.candidate"] + weight * gap)
        switch = mean.interval(values["model.candidate"] + np.where(weight > clip, 0.0, weight) * gap)
    weights = mean.interval(weight)
    by_unit = np.bincount(codes, weights=weight, minlength=units)
    total, squares = float(weight.sum()), float((weight**2).sum())
    effective = total**2 / squares if squares else 0.0
    largest_share = float(by_unit.max()) / total if total else 0.0
    return PolicyValue(
        ipw=mean.interval(weight * reward),
        snipw=mean.ratio(weight * reward, weight),
        clipped=mean.interval(most * reward),
        dr=dr,
        switch_dr=switch,
        logged=mean.interval(reward),
        rows=len(reward),
        units=units,
        clip=clip,
        effective_rows=effective,
        mean_weight=weights,
        largest_weight=float(weight.max()),
        clipped_share=1.0 - float(most.sum()) / total if total else 0.0,
        alarms=_alarms(
            len(reward),
            effective,
            weights,
            largest_share,
            float(weight.max()),
            units,
            int(np.count_nonzero(reward * weight)),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Means:
    """Means of rows that depend on each other within a unit."""

    codes: Indices
    units: int
    positive: bool
    """Whether what is estimated cannot be negative."""

    def interval(self, values: Float64s) -> Interval:
        """Of the mean of values [N]."""
        return self.ratio(values, np.ones(len(values)))

    def ratio(self, over: Float64s, under: Float64s) -> Interval:
        """Of the mean of one array [N] over that of another, by the linear part of its error."""
        total = float(under.sum())
        if not total:
            return Interval(float("nan"), -np.inf, np.inf)
        value = float(over.sum()) / total
        errors = np.bincount(self.codes, weights=over - value * under, minlength=self.units) / total
        if self.units < MIN_CLUSTERS:
            return Interval(value, -np.inf, np.inf)
        error = float(np.sqrt(np.sum(errors**2) * self.units / (self.units - 1)))
        # Few units decide where weights are uneven.
        margin = float(special.stdtrit(max(_freedom(errors), 1.0), 0.975)) * error
        if self.positive and value > 0 and (over >= 0).all():
            factor = float(np.exp(margin / value))
            return Interval(value, value / factor, value * factor)
        return Interval(value, value - margin, value + margin)


def _freedom(errors: Float64s) -> float:
    """Degrees of freedom of the sum of squares of ``errors`` [K], by their kurtosis (Satterthwaite 1946)."""
    squares = float(np.sum(errors**2))
    return squares**2 / float(np.sum(errors**4)) if squares else float(len(errors))


def _alarms(
    rows: int, effective: float, weights: Interval, largest_share: float, largest: float, units: int, rewarded: int
) -> tuple[str, ...]:
    found = []
    if effective < max(LEAST_ROWS, LEAST_SHARE * rows):
        found.append(
            f"{effective:.0f} effective rows of {rows}: expected at least {LEAST_ROWS}, and {LEAST_SHARE:.0%} of the rows. The "
            "candidate differs too much from what was shown."
        )
    if rewarded < LEAST_REWARDED:
        found.append(
            f"{rewarded} rows with a reward are such as the candidate shows: expected at least {LEAST_REWARDED}. Intervals of so few "
            "say little."
        )
    if largest_share > max(LARGEST_SHARE, 3.0 / units):
        found.append(
            f"one unit has {largest_share:.0%} of the sum of weights (largest weight {largest:g}): the estimates that are not "
            "clipped are about its reward. Look at its propensities."
        )
    if not weights.low <= 1 <= weights.high:
        found.append(
            f"the mean weight is {weights.value:.3f} [{weights.low:.3f}, {weights.high:.3f}], not 1: propensities are wrong, or the "
            "candidate shows what was never shown."
        )
    return tuple(found)


def _checked(name: str, array: Reals, rows: int) -> Float64s:
    if array.shape != (rows,):
        raise EvaluationError(f"{name}: expected shape ({rows},), one number for each row; found {array.shape}")
    values = np.asarray(array, dtype=np.float64)
    _refuse(name, values, np.isfinite(values), "a finite number")
    return values


def _refuse(name: str, values: Float64s, fine: NDArray[np.bool_], expected: str) -> None:
    wrong = np.flatnonzero(~fine)
    if len(wrong):
        raise EvaluationError(
            f"{name}: row {wrong[0]}: found {values[wrong[0]]:g}; expected {expected} ({len(wrong)} rows are not)"
        )
