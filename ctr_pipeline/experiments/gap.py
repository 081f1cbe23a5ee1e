"""Why an online test measured another effect than was predicted offline: parts that add up to the difference."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Reals
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import Z95, EvaluationError, Interval

MATURITY, POPULATION, SKEW, POSITION = "label maturity", "population", "skew", "position"
PARTS = (MATURITY, POPULATION, SKEW, POSITION)
"""What can make the two differ: outcomes that were not known yet when it was predicted, other users or traffic in the test, scores
that were served and are not those that were replayed, and positions that the prediction did not account for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedRows:
    """Logged rows with which an effect was predicted, each array [N]; what is None was the same.

    Attributes:
        reward: What came of the row, settled.
        weight: How likelier the candidate shows what was shown, as it was replayed.
        reward_then: The reward as it was known when the effect was predicted.
        population: How frequent rows of this kind are in the test, over how frequent they are here; see :func:`population_factors`.
        weight_served: As ``weight``, by the scores that were served.
        position: What the weight has to be multiplied with where positions are accounted for.
        units: Unit of each row, such as its user, -1 for none.
    """

    reward: Reals
    weight: Reals
    reward_then: Reals | None = None
    population: Reals | None = None
    weight_served: Reals | None = None
    position: Reals | None = None
    units: Integers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A predicted and a measured relative effect.

    Attributes:
        predicted: As it was predicted: the candidate's value over that of what was in service, less 1.
        measured: By the test.
        parts: By name of :data:`PARTS`, by how much each moves the prediction towards what the test sees. Each is averaged over the
            orders in which the parts may be corrected (Shapley 1953).
        corrected: The prediction with all parts.
        unexplained: ``measured`` less ``corrected``. The predicted effect, all parts and this add up to the measured one.
    """

    predicted: Interval
    measured: Interval
    parts: dict[str, Interval]
    corrected: Interval
    unexplained: Interval

    @property
    def is_explained(self) -> bool:
        """Whether what is left may be chance."""
        return self.unexplained.low <= 0 <= self.unexplained.high

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with each interval as an object."""
        names = ("predicted", "measured", "corrected", "unexplained")
        return {
            **{name: getattr(self, name).to_json() for name in names},
            "parts": {name: part.to_json() for name, part in self.parts.items()},
            "is_explained": self.is_explained,
        }


def offline_online_gap(rows: ReplayedRows, measured: Interval) -> Gap:
    """Takes the difference of a predicted and a measured effect apart.

    The predicted effect is self-normalised: Σ weight · reward / Σ weight over the mean reward, less 1. Intervals are normal, by
    the linear part of the errors, between units; those of the rows and of the test are independent.

    Args:
        rows: With which the effect was predicted.
        measured: Relative effect of the test with its 95 % interval.

    Raises:
        EvaluationError: there is no row, an array has another length or a value that is none, or nothing was rewarded.
    """
    columns = _columns(rows)
    codes, units = cluster_codes(rows.units, len(rows.reward))
    effects = {
        chosen: _effect(columns, chosen, codes, units)
        for size in range(len(PARTS) + 1)
        for chosen in map(frozenset, itertools.combinations(PARTS, size))
    }
    none, every = effects[frozenset()], effects[frozenset(PARTS)]
    parts = {}
    for part in PARTS:
        value, errors = 0.0, np.zeros(units, dtype=np.float64)
        for chosen, (effect, own) in effects.items():
            if part in chosen:
                continue
            with_it = effects[chosen | {part}]
            share = (
                math.factorial(len(chosen)) * math.factorial(len(PARTS) - len(chosen) - 1) / math.factorial(len(PARTS))
            )
            value += share * (with_it[0] - effect)
            errors += share * (with_it[1] - own)
        parts[part] = _interval(value, errors)
    corrected = _interval(*every)
    error = math.hypot(corrected.high - corrected.value, (measured.high - measured.low) / 2)
    left = measured.value - corrected.value
    return Gap(
        predicted=_interval(*none),
        measured=measured,
        parts=parts,
        corrected=corrected,
        unexplained=Interval(left, left - error, left + error),
    )


def population_factors(kinds: NDArray[Any], shares: dict[str, float]) -> Float64s:
    """[N] how frequent rows of each kind are in a test, over how frequent they are among ``kinds`` [N].

    Args:
        kinds: Kind of each row, such as its device.
        shares: Rows of the test by kind, in any unit.

    Raises:
        EvaluationError: the test has a kind that is not among the rows: nothing is known of it.
    """
    names, codes, counts = np.unique(kinds.astype(str), return_inverse=True, return_counts=True)
    found = dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))
    total = sum(shares.values())
    absent = [name for name, share in shares.items() if share > 0 and name not in found]
    if absent or not total:
        raise EvaluationError(
            f"population: the test has rows of {absent[0] if absent else 'no kind'}, of which none was replayed; replayed were "
            f"{', '.join(found)}"
        )
    factors = np.array([shares.get(name, 0.0) / total / found[name] for name in names.tolist()])
    return np.asarray(factors[codes], dtype=np.float64)


def _columns(rows: ReplayedRows) -> dict[str, Float64s]:
    ones = np.ones(len(rows.reward))
    given = {
        "reward": rows.reward,
        "weight": rows.weight,
        "reward_then": rows.reward if rows.reward_then is None else rows.reward_then,
        "population": ones if rows.population is None else rows.population,
        "weight_served": rows.weight if rows.weight_served is None else rows.weight_served,
        "position": ones if rows.position is None else rows.position,
    }
    if not len(rows.reward):
        raise EvaluationError("offline-online gap: there is no replayed row")
    found = {}
    for name, values in given.items():
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (len(rows.reward),):
            raise EvaluationError(f"{name}: expected shape ({len(rows.reward)},), a number a row; found {array.shape}")
        wrong = ~np.isfinite(array) | (array < 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise EvaluationError(f"{name}: row {row}: found {array[row]:g}; expected a finite number of at least 0")
        found[name] = array
    return found


def _effect(columns: dict[str, Float64s], chosen: frozenset[str], codes: Indices, units: int) -> tuple[float, Float64s]:
    """The predicted effect with some parts corrected, and the linear part of its error by unit."""
    reward = columns["reward" if MATURITY in chosen else "reward_then"]
    population = columns["population"] if POPULATION in chosen else np.ones(len(reward))
    weight = columns["weight_served" if SKEW in chosen else "weight"]
    weight = population * (weight * columns["position"] if POSITION in chosen else weight)
    sums = [float(values.sum()) for values in (weight * reward, weight, population * reward, population)]
    if min(sums) <= 0:
        raise EvaluationError(
            "offline-online gap: no replayed row with a reward is such as the candidate shows, or none has a reward: there is no "
            "predicted effect"
        )
    ratio = sums[0] * sums[3] / (sums[1] * sums[2])
    error = weight * reward / sums[0] - weight / sums[1] - population * reward / sums[2] + population / sums[3]
    by_unit: Float64s = np.bincount(codes, weights=error, minlength=units).astype(np.float64)
    return ratio - 1.0, ratio * by_unit


def _interval(value: float, errors: Float64s) -> Interval:
    units = len(errors)
    if units < MIN_CLUSTERS:
        return Interval(value, -np.inf, np.inf)
    margin = Z95 * float(np.sqrt(np.sum(errors**2) * units / (units - 1)))
    return Interval(value, value - margin, value + margin)
