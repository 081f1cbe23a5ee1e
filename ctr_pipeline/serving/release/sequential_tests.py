"""Evidence that may be looked at after every observation.

Each function gives the logarithm of a mixture of likelihood ratios, each of which is a supermartingale wherever the
hypothesis holds. So by Ville's inequality the chance that it ever exceeds log(1 / a) is at most a, however often one looks
(Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021, arXiv:1810.08240; Ramdas and others 2023, arXiv:2210.01948).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log

import numpy as np

_STEPS = 10
"""Alternatives of a mixture; each is half as far from the limit as the one before."""


def rate_evidence(hits: int, trials: int, limit: float) -> float:
    """Evidence against: each trial hits with a probability of at most ``limit``, given those before it.

    Args:
        hits: Trials that hit.
        trials: All trials.
        limit: Between 0 and 1.
    """
    misses = trials - hits
    rates = [limit + (1 - limit) * part for part in (0.999, *(2.0**-step for step in range(1, _STEPS)))]
    return _mixture([hits * log(rate / limit) + misses * log((1 - rate) / (1 - limit)) for rate in rates])


def odds_evidence(first: int, second: int, odds: float) -> float:
    """Evidence against: of two paired events the odds of the first are at most ``odds`` times those of the second.

    Of the pairs in which exactly one of them happened it is the first with a probability of at most odds / (1 + odds),
    whatever they have in common, such as a busy machine (McNemar 1947).

    Args:
        first: Pairs in which the first alone happened.
        second: Pairs in which the second alone happened.
        odds: At least 1.
    """
    return rate_evidence(first, first + second, odds / (1 + odds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Outcomes of an arm's impressions: how many came, and the sum of their predicted probabilities."""

    observed: int
    expected: float

    @property
    def ratio(self) -> float:
        """Observed over expected; NaN where nothing was expected."""
        return self.observed / self.expected if self.expected else float("nan")


def excess_evidence(found: Outcomes, limit: float) -> float:
    """Evidence against: each impression has its outcome with at most ``limit`` times the predicted probability.

    The ratios are those of Poisson counts, which bound those of single impressions from above.
    """
    return _mixture([_poisson(found, limit, limit * (1 + rise)) for rise in _rises()])


def shortfall_evidence(found: Outcomes, limit: float) -> float:
    """Evidence against: each impression has its outcome with at least ``limit`` times the predicted probability."""
    return _mixture([_poisson(found, limit, limit / (1 + rise)) for rise in _rises()])


def relative_excess_evidence(batches: Sequence[tuple[Outcomes, Outcomes]], limit: float) -> float:
    """Evidence against: observed over expected of the first arm is at most ``limit`` times that of the second.

    Of the outcomes of a batch those of the first arm are a draw whose rate follows from what both arms expected, whatever
    the season did to both. Batches may differ in that; within one it is nearly constant.

    Args:
        batches: First and second arm, such as of a day.
        limit: Above 0.
    """
    numbers = [
        (first.observed, first.expected, second.observed, second.expected)
        for first, second in batches
        if first.expected and second.expected
    ]
    own, expected, others, expected_others = np.array(numbers, dtype=float).reshape(-1, 4).T
    under = limit * expected / (limit * expected + expected_others)
    ratios = limit * (1 + np.array(_rises())[:, None])
    instead = ratios * expected / (ratios * expected + expected_others)
    logs = own * np.log(instead / under) + others * np.log((1 - instead) / (1 - under))
    return _mixture(logs.sum(axis=1).tolist())


def _rises() -> list[float]:
    return [4.0 * 2.0**-step for step in range(_STEPS)]


def _poisson(found: Outcomes, limit: float, rate: float) -> float:
    return found.observed * log(rate / limit) - (rate - limit) * found.expected


def _mixture(logs: Sequence[float]) -> float:
    largest = max(logs)
    return largest if largest == -inf else largest + log(sum(exp(one - largest) for one in logs)) - log(len(logs))
