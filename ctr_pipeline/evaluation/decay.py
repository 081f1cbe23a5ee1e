"""Whether a model in service is still as good as at its promotion, looked at every day for as long as it serves.

Each day x_t = log NE_t - log NE_0 says how much worse the model's log score is, relative to the base rate's, than it was on the
test days of its own promotion. The mean of x over the days from s to t is tested by a confidence sequence (the normal
mixture of Robbins 1970; for differences of scores: Choe & Ramdas 2021): its bound holds at all t together, so that it may be
looked at daily. A decay may begin on any day, so there is a sequence for each s; the chance of a false alarm is shared out evenly
over the days of a year, which leaves it at ``alpha`` a year.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from ctr_pipeline.calibration.labelled import Float64s

YEAR = 365
"""Days over which the chance of a false alarm is shared out."""

NARROWEST_AT = 7
"""Days after which the sequence that begins on a day is narrowest."""

FEWEST_DAYS = 2
"""Days of the promotion's test below which nothing can be said of how days differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyScore:
    """A model's normalised entropy on one day.

    Attributes:
        day: YYYY-MM-DD.
        ne: Normalised entropy.
        error: Standard error of its logarithm, between users.
    """

    day: str
    ne: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """What the days since a promotion show.

    Attributes:
        days: Days that were looked at.
        reference: NE on the test days of the promotion.
        since: First day of the decay; None where none is shown now.
        rise: Mean relative rise in NE from ``since`` on, or over all days.
        low: Lower bound of that rise, valid at all looks; None where none is shown.
        alarmed: Day on which a decay was shown for the first time; None where none ever was.
        overdispersion: How many times larger the variance between days is than the errors of the days explain; at least 1.
    """

    days: int
    reference: float
    since: str | None
    rise: float
    low: float | None
    alarmed: str | None
    overdispersion: float

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def decay_of(
    reference: Sequence[DailyScore], served: Sequence[DailyScore], *, tolerance: float, alpha: float = 0.05
) -> Decay | None:
    """Whether NE has surely risen, and by more than ``tolerance``, relatively, on the days ``served`` since the promotion.

    Args:
        reference: Test days of the promotion.
        served: Later days, in their order; days may be absent.
        tolerance: Relative rise that is none yet, however sure it is.
        alpha: Chance of a false alarm a year.

    Returns:
        None with fewer than :data:`FEWEST_DAYS` days of reference, or no later day.
    """
    if len(reference) < FEWEST_DAYS or not served:
        return None
    own, weights = _logs(reference), _precision(reference)
    centre = float(own @ weights / weights.sum())
    values, errors = _logs(served) - centre, np.array([day.error for day in served])
    alarmed: str | None = None
    for end in range(1, len(served) + 1):
        spread = _overdispersion(reference, served[:end])
        # Half of alpha for the reference, once and for all; half for the sequences.
        below = float(special.ndtri(1 - alpha / 2)) * math.sqrt(spread / weights.sum())
        means, bounds = lower_bounds(values[:end], errors[:end] * math.sqrt(spread), alpha / 2 / YEAR)
        # A rise that is smaller than the tolerance is none, however sure it is.
        bounds = np.where(means > math.log1p(tolerance), bounds, -np.inf)
        best = int(np.argmax(bounds))
        shown = bool(bounds[best] > below)
        alarmed = alarmed or (served[end - 1].day if shown else None)
    return Decay(
        days=len(served),
        reference=math.exp(centre),
        since=served[best].day if shown else None,
        rise=math.expm1(means[best if shown else 0]),
        low=math.expm1(bounds[best] - below) if shown else None,
        alarmed=alarmed,
        overdispersion=spread,
    )


def lower_bounds(values: Float64s, errors: Float64s, alpha: float) -> tuple[Float64s, Float64s]:
    """Mean of ``values`` [D] from each day s to the last, and a lower bound of its expectation: two arrays [D].

    For each s the bound holds with chance 1 - ``alpha`` on all days together that could be the last, where values are about
    normal with standard ``errors`` [D] (Robbins 1970: for a sum S of variance V, S < sqrt((V + ρ) log((V + ρ) / (ρ α²))) at
    all times, one-sided with α in place of 2α).
    """
    sums, variances = np.cumsum(values[::-1])[::-1], np.cumsum(errors[::-1] ** 2)[::-1]
    days = np.arange(len(values), 0, -1)
    # ρ that makes the bound narrowest once as much variance has gathered: V / (2 log(1/α) + log(2 log(1/α)) + 1).
    typical = NARROWEST_AT * errors**2
    rho = typical / (2 * math.log(1 / alpha) + math.log(2 * math.log(1 / alpha)) + 1)
    margins = np.sqrt((variances + rho) * np.log((variances + rho) / (rho * alpha**2)))
    return sums / days, (sums - margins) / days


def _overdispersion(reference: Sequence[DailyScore], served: Sequence[DailyScore]) -> float:
    """How many times more the days vary than their errors say (Birge 1932), from neighbouring days; at least 1.

    Differences of neighbours, so that a decay does not count as such a variation.
    """
    total = count = 0.0
    for days in (reference, served):
        if len(days) > 1:
            values, errors = _logs(days), np.array([day.error for day in days])
            total += float(np.sum(np.diff(values) ** 2 / (errors[1:] ** 2 + errors[:-1] ** 2)))
            count += len(days) - 1
    return max(1.0, total / count) if count else 1.0


def _logs(days: Sequence[DailyScore]) -> Float64s:
    found: Float64s = np.log([day.ne for day in days])
    return found


def _precision(days: Sequence[DailyScore]) -> Float64s:
    return np.array([1.0 / day.error**2 for day in days])
