"""A champion that stays as good raises no alarm however often one looks; one that decays does, with the day."""

from datetime import date, timedelta

import numpy as np
import pytest

from ctr_pipeline.evaluation.decay import DailyScore, decay_of, lower_bounds

FIRST = date(2026, 1, 1)


def days(
    seed: int, count: int, *, rise: float = 0.0, at: int = 0, error: float = 0.01, uneven: float = 0.0
) -> list[DailyScore]:
    """Days with a rise in NE from the day ``at`` on, and a spread ``uneven`` between days that their errors do not have."""
    draws = np.random.default_rng(seed)
    logs = np.log(0.8) + draws.normal(0, error, count) + draws.normal(0, uneven, count)
    logs[at:] += np.log1p(rise)
    return [
        DailyScore(day=str(FIRST + timedelta(days=number)), ne=float(np.exp(value)), error=error)
        for number, value in enumerate(logs)
    ]


def test_a_decay_of_three_percent_is_found_with_its_day() -> None:
    every = days(1, 80, rise=0.03, at=47)
    found = decay_of(every[:7], every[7:], tolerance=0.01)
    assert found is not None
    assert found.since is not None
    assert found.alarmed is not None
    assert abs((date.fromisoformat(found.since) - FIRST).days - 47) <= 3
    assert 47 < (date.fromisoformat(found.alarmed) - FIRST).days <= 47 + 15
    assert 0.02 < found.rise < 0.04
    assert found.low is not None
    assert 0 < found.low < 0.03
    before = decay_of(every[:7], every[7:47], tolerance=0.01)
    assert before is not None
    assert before.since is before.alarmed is before.low is None


def test_a_sure_rise_within_the_tolerance_is_none() -> None:
    every = days(2, 60, rise=0.005, at=7, error=0.0005)
    assert decay_of(every[:7], every[7:], tolerance=0.01).since is None  # type: ignore[union-attr]
    assert decay_of(every[:7], every[7:], tolerance=0.001).since is not None  # type: ignore[union-attr]


def test_a_better_champion_raises_no_alarm_and_a_recovered_one_none_any_more() -> None:
    every = days(3, 60, rise=-0.05, at=7)
    found = decay_of(every[:7], every[7:], tolerance=0.0)
    assert found is not None
    assert found.since is None
    assert found.rise < -0.04
    every = [*days(4, 40, rise=0.05, at=20)[:30], *days(4, 400)[30:]]
    found = decay_of(every[:7], every[7:], tolerance=0.01)
    assert found is not None
    assert found.alarmed is not None
    assert found.since is None


def test_without_two_days_of_the_promotion_or_a_later_one_nothing_is_said() -> None:
    every = days(5, 10)
    assert decay_of(every[:1], every[1:], tolerance=0.01) is None
    assert decay_of(every, [], tolerance=0.01) is None


def test_a_bound_of_one_day_is_wider_than_that_of_a_single_look() -> None:
    [mean], [low] = lower_bounds(np.array([0.5]), np.array([0.1]), 0.025)
    assert mean == 0.5
    assert 0.5 - 0.1 * 4 < low < 0.5 - 0.1 * 1.96


def test_a_bound_holds_at_all_looks() -> None:
    missed = 0
    for seed in range(400):
        values = np.random.default_rng(seed).normal(0, 1, 60)
        missed += any(lower_bounds(values[:end], np.ones(end), 0.1)[1][0] > 0 for end in range(1, 61))
    assert missed <= 0.1 * 400


@pytest.mark.nightly
@pytest.mark.parametrize(("error", "uneven"), [(0.01, 0.0), (0.005, 0.01), (0.003, 0.0)])
def test_of_200_stable_years_at_most_one_in_twenty_has_an_alarm(error: float, uneven: float) -> None:
    years = [days(seed, 7 + 365, error=error, uneven=uneven) for seed in range(200)]
    found = [decay_of(year[:7], year[7:], tolerance=0.0) for year in years]
    assert sum(of is not None and of.alarmed is not None for of in found) <= 10
