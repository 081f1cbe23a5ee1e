"""A canary that is judged by what is reported soon, while most windows are open."""

from dataclasses import replace

import numpy as np
import pytest

from ctr_pipeline.serving.release import GuardrailRules, Outcomes, TaskOutcomes, early_reasons

RULES = GuardrailRules()
SECONDS = 20
"""Of a batch."""


def outcomes(observed: float, expected: float) -> Outcomes:
    return Outcomes(observed=round(observed), expected=expected)


def reasons(*batches: tuple[Outcomes, Outcomes], rules: GuardrailRules = RULES) -> list[str]:
    return early_reasons([TaskOutcomes(task="click", batches=batches)], rules)


def test_the_arms_are_held_against_each_other_and_what_is_missing_of_both_is_no_reason() -> None:
    # A third of the clicks has come so far, of both arms.
    [reason] = reasons((outcomes(75, 540), outcomes(1350, 4000)))
    assert "reported soon, click: 75 outcomes where 540.0 were predicted" in reason
    assert "the champion's is 0.338" in reason
    assert reasons((outcomes(180, 540), outcomes(1350, 4000))) == []
    # Nothing comes any more.
    assert reasons((outcomes(0, 5000), outcomes(0, 80_000))) == []
    # Clicks of the challenger are far more than it predicts, which no missing event explains.
    assert reasons((outcomes(130, 48), outcomes(800, 800)))
    # Until then it may be the champion that predicts too much.
    assert reasons((outcomes(48, 48), outcomes(400, 800))) == []
    # The challenger is right, and the champion is not.
    assert reasons((outcomes(400, 400), outcomes(16_000, 8000))) == []
    assert reasons((outcomes(75, 540), outcomes(1350, 4000)), rules=replace(RULES, early_ratio=None)) == []
    assert reasons((outcomes(75, 540), outcomes(1350, 4000)), rules=replace(RULES, early_ratio=4.0)) == []


def ended_after(
    rng: np.random.Generator, *, factor: float, rate: float = 0.02, delay: float = 600, reported: float = 1.0,
    stops: float = np.inf, every: int = 300, until: int = 3600,
) -> float | None:  # fmt: skip
    """Seconds until a canary of 5 % at 100 requests/s is ended; None where it is not.

    Args:
        rng: Draws everything.
        factor: Predicted over true probability in the challenger's arm.
        rate: True click-through rate.
        delay: Mean seconds from impression to click.
        reported: Share of the clicks that are reported.
        stops: Seconds after which no event arrives.
        every: Seconds between two looks.
        until: Seconds.
    """
    count = until // SECONDS
    arms = []
    for per_second, own in ((5, factor), (50, 1.0)):
        season = 1 + 0.2 * np.sin(np.arange(count) / 30)
        # Users differ by more than the models know.
        expected = rng.gamma(per_second * SECONDS * rate * 3, 1 / 3, count)
        clicks = rng.poisson(expected * season * rng.lognormal(-0.045, 0.3, count) * reported)
        batch = np.repeat(np.arange(count), clicks)
        arrived = (batch + rng.random(len(batch))) * SECONDS + rng.exponential(delay, len(batch))
        arms.append((expected * own, batch, arrived))
    for now in range(every, until + 1, every):
        over = now // SECONDS
        sides = []
        for expected, batch, arrived in arms:
            found = np.bincount(batch[arrived < min(now, stops)], minlength=count)
            sides.append([outcomes(int(found[at]), float(expected[at])) for at in range(over)])
        if reasons(*zip(*sides, strict=True)):
            return now
    return None


HEALTHY = {
    "at once": {"delay": 5.0},
    "delayed": {"delay": 1800.0},
    "30 % lost": {"delay": 300.0, "reported": 0.7},
    "stopping": {"delay": 300.0, "stops": 1200.0},
}


def test_healthy_challengers_stay_whatever_becomes_of_the_clicks() -> None:
    rng, kinds = np.random.default_rng(21), list(HEALTHY.values())
    ended = [ended_after(rng, factor=1.0, **kinds[at % len(kinds)]) for at in range(300)]
    assert sum(seconds is not None for seconds in ended) <= 1


@pytest.mark.nightly
@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_challengers_within_the_limits_stay_whatever_becomes_of_the_clicks(kind: str, factor: float) -> None:
    rng = np.random.default_rng(22)
    ended = [ended_after(rng, factor=factor, every=120, **HEALTHY[kind]) for _ in range(300)]
    assert sum(seconds is not None for seconds in ended) <= 1


@pytest.mark.parametrize("kind", ["at once", "30 % lost", "delayed"])
def test_logit_plus_one_is_found_within_minutes(kind: str) -> None:
    rng = np.random.default_rng(23)
    # The odds are e times too high.
    took = [ended_after(rng, factor=2.66, every=60, **HEALTHY[kind]) for _ in range(20)]
    found = sorted(seconds or np.inf for seconds in took)
    print(
        f"{kind}: logit + 1 ended after {np.median(found):.0f} s in half of {len(found)} canaries, {found[-1]:.0f} s at most"
    )
    assert all(seconds is not None for seconds in took)
    assert np.median(found) <= (1800 if kind == "delayed" else 1000)
