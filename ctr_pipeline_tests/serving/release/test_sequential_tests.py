"""Evidence that is looked at after every observation: false alarms are rare, and what is wrong is found."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.serving.release.sequential_tests import (
    Outcomes,
    excess_evidence,
    odds_evidence,
    rate_evidence,
    relative_excess_evidence,
    shortfall_evidence,
)

ALARM = 0.05


def mean_ratio(evidence: list[float], weights: list[float]) -> float:
    """Mean of the likelihood ratio, whose logarithm the evidence is."""
    return sum(math.exp(one) * weight for one, weight in zip(evidence, weights, strict=True))


@given(trials=st.integers(1, 40), rate=st.floats(0, 1), limit=st.floats(0.001, 0.95))
def test_a_rate_within_the_limit_gives_no_evidence_on_average(trials: int, rate: float, limit: float) -> None:
    rate *= limit
    hits = range(trials + 1)
    chances = [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in hits]
    assert mean_ratio([rate_evidence(k, trials, limit) for k in hits], chances) <= 1 + 1e-9


@given(expected=st.floats(0.1, 8), part=st.floats(0, 1), limit=st.floats(0.5, 2))
def test_outcomes_within_the_limit_give_no_evidence_on_average(expected: float, part: float, limit: float) -> None:
    def mean(evidence: object, ratio: float) -> float:
        mean_count, counts = ratio * expected, range(150)
        chances = [math.exp(k * math.log(mean_count) - mean_count - math.lgamma(k + 1)) for k in counts]
        return mean_ratio([evidence(Outcomes(observed=k, expected=expected), limit) for k in counts], chances)  # type: ignore[operator]

    assert mean(excess_evidence, limit * max(part, 0.01)) <= 1 + 1e-6
    assert mean(shortfall_evidence, limit * (1 + 3 * part)) <= 1 + 1e-6


@given(first=st.floats(0.1, 5), second=st.floats(0.1, 5), season=st.floats(0.2, 5), limit=st.floats(1, 2))
def test_a_season_of_both_arms_gives_no_evidence(first: float, second: float, season: float, limit: float) -> None:
    counts = range(60)

    def chance(mean: float, count: int) -> float:
        return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))

    means = season * limit * first, season * second
    if max(means) > 30:
        return
    pairs = [(a, b) for a in counts for b in counts]
    evidence = [
        relative_excess_evidence([(Outcomes(observed=a, expected=first), Outcomes(observed=b, expected=second))], limit)
        for a, b in pairs
    ]
    assert mean_ratio(evidence, [chance(means[0], a) * chance(means[1], b) for a, b in pairs]) <= 1 + 1e-6


def test_a_batch_split_in_two_keeps_its_evidence_where_the_arms_share_alike() -> None:
    whole = [(Outcomes(observed=30, expected=12), Outcomes(observed=100, expected=98))]
    halves = [(Outcomes(observed=n, expected=6), Outcomes(observed=50, expected=49)) for n in (13, 17)]
    assert relative_excess_evidence(halves, 1.05) == pytest.approx(relative_excess_evidence(whole, 1.05))


def test_alarms_over_a_day_of_continuous_looking_are_as_rare_as_declared() -> None:
    rng, needed, days = np.random.default_rng(5), math.log(1 / ALARM), 400
    alarms = {"rate": 0, "odds": 0, "excess": 0, "shortfall": 0}
    for _ in range(days):
        hits = np.cumsum(rng.random(4000) < 0.01)
        seen = [rate_evidence(int(k), n, 0.01) for n, k in enumerate(hits, 1) if n % 7 == 0]
        alarms["rate"] += max(seen) > needed
        first = np.cumsum(rng.random(1000) < 2 / 3)
        alarms["odds"] += max(odds_evidence(int(k), n - int(k), 2) for n, k in enumerate(first, 1)) > needed
        clicks = np.cumsum(rng.poisson(1.1, 2000))
        found = [Outcomes(observed=int(k), expected=float(n)) for n, k in enumerate(clicks, 1) if n % 5 == 0]
        alarms["excess"] += max(excess_evidence(one, 1.1) for one in found) > needed
        alarms["shortfall"] += max(shortfall_evidence(one, 1.1) for one in found) > needed
    # At the very limits. Above days * ALARM + 3 standard deviations the chance is a thousandth.
    most = days * ALARM + 3 * math.sqrt(days * ALARM * (1 - ALARM))
    assert max(alarms.values()) <= most, alarms
    # The mixture is not so cautious that it could alarm never.
    assert min(alarms.values()) >= 1, alarms


def test_what_is_wrong_is_found_soon() -> None:
    needed = math.log(1 / 0.001)
    assert rate_evidence(3, 3, 0.001) > needed
    assert rate_evidence(5, 250, 0.001) > needed
    assert odds_evidence(30, 0, 2) > needed
    assert odds_evidence(20, 10, 2) < 0
    # Probabilities that are e times too large, as after logit + 1 of a rare outcome.
    assert shortfall_evidence(Outcomes(observed=20, expected=54.4), 0.9) > needed
    assert excess_evidence(Outcomes(observed=110, expected=40.4), 1.1) > needed
