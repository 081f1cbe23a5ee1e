"""When a canary ends by itself."""

import numpy as np
import pytest

from ctr_pipeline.serving.release import (
    Arm,
    CanaryGuard,
    GuardrailRules,
    Outcomes,
    TaskOutcomes,
    outcome_reasons,
)

RULES = GuardrailRules()


def outcomes(observed: float, expected: float) -> Outcomes:
    return Outcomes(observed=round(observed), expected=expected)


def test_failures_end_a_canary_after_a_few() -> None:
    guard = CanaryGuard(RULES, 1)
    for _ in range(4):
        guard.failed()
    assert "failed to score" in (guard.reason or "")
    rare = CanaryGuard(RULES, 1)
    for at in range(20_000):
        if at % 1000 == 500:
            rare.failed()
        rare.scored(Arm.CHALLENGER, 0.001)
    assert rare.reason is None


def test_a_slow_challenger_ends_and_a_busy_machine_does_not() -> None:
    rng = np.random.default_rng(1)

    def reason(own: float, other: float, busy: bool = False) -> str | None:
        guard = CanaryGuard(RULES, 2)
        for at in range(20_000):
            slow = busy and at // 500 % 2 == 0
            guard.scored(Arm.CHAMPION, 0.02 if slow or rng.random() < other else 0.001)
            if rng.random() < 0.05:
                guard.scored(Arm.CHALLENGER, 0.02 if slow or rng.random() < own else 0.001)
        return guard.reason

    assert "more than 8 ms" in (reason(0.1, 0.001) or "")
    assert "more than 8 ms" in (reason(0.5, 0.05) or "")
    assert reason(0.01, 0.01) is None
    assert reason(0.001, 0.001, busy=True) is None
    assert reason(0.0, 0.5) is None


def test_without_a_limit_nothing_is_slow() -> None:
    guard = CanaryGuard(GuardrailRules(slow_ms=None), 1)
    for _ in range(200):
        guard.scored(Arm.CHALLENGER, 9.0)
        guard.scored(Arm.CHAMPION, 0.001)
    assert guard.reason is None


def test_logit_plus_one_is_refused_and_both_being_off_is_not() -> None:
    def reasons(*batches: tuple[Outcomes, Outcomes]) -> list[str]:
        return outcome_reasons([TaskOutcomes(task="click", batches=batches)], RULES)

    [reason] = reasons((outcomes(40, 108), outcomes(800, 800)))
    assert "observed/expected 0.370" in reason
    assert "click" in reason
    assert reasons((outcomes(130, 48), outcomes(800, 800)))
    # A holiday: both arms get half of what is expected.
    assert reasons((outcomes(400, 800), outcomes(4000, 8000))) == []
    # The challenger is right where the champion is not.
    assert reasons((outcomes(800, 800), outcomes(4000, 8000))) == []
    # Off, but within the limits.
    assert reasons((outcomes(9500, 10_000), outcomes(90_000, 90_000))) == []
    assert reasons((outcomes(2, 5), outcomes(80, 80))) == []
    assert outcome_reasons([], RULES) == []


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_healthy_challengers_stay_over_two_weeks_of_looking(spread: float) -> None:
    """Users differ by more than the model knows, and days by what it cannot know."""
    rng, ended, trials = np.random.default_rng(11), 0, 300
    for _ in range(trials):
        batches: list[tuple[Outcomes, Outcomes]] = []
        for _ in range(14):
            season = rng.lognormal(0, 0.1)
            sides = []
            for users in (200, 3800):
                expected = rng.gamma(2, 0.15, users)
                found = rng.poisson(expected * season * rng.lognormal(-(spread**2) / 2, spread, users))
                sides.append(Outcomes(observed=int(found.sum()), expected=float(expected.sum())))
            batches.append((sides[0], sides[1]))
            if outcome_reasons([TaskOutcomes(task="click", batches=batches)], RULES):
                ended += 1
                break
    assert ended <= 2


def test_broken_challengers_are_found_within_two_days_of_their_clicks() -> None:
    rng, days = np.random.default_rng(12), []
    for _ in range(50):
        batches: list[tuple[Outcomes, Outcomes]] = []
        for day in range(1, 15):
            # Five per cent of 4,000 users with .3 clicks each; the challenger's odds are e times too high.
            batches.append((outcomes(rng.poisson(60), 60 * 2.6), outcomes(rng.poisson(1140), 1140)))
            if outcome_reasons([TaskOutcomes(task="click", batches=batches)], RULES):
                days.append(day)
                break
    assert len(days) == 50
    assert max(days) <= 2
