"""Robots that pose as some users are named as values that are rare else; ordinary visitors, who ask for several pages, are not."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from ctr_pipeline.features.bursts import WINDOW, burst_shares
from ctr_pipeline.features.input_profile import InputProfile, profile_inputs
from ctr_pipeline.features.layout import IdColumn, Layout
from ctr_pipeline.online.input_distribution import find_shifts
from ctr_pipeline.online.shift_windows import DistributionShift, ServedInputs
from ctr_pipeline.spec.fields import DAY_US

USERS, SIZE = 20_000, 5
LAYOUT = Layout(numeric=(), ids=(IdColumn("user", "categorical", USERS + 2, 4),), tasks=("click",), parents=(-1,))
_SHARES = np.arange(1, USERS + 1) ** -0.8
SHARES = _SHARES / _SHARES.sum()


def pages(first: int, days: int, count: int, seed: int, visits: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The user of each page, in visits of up to so many pages, and its time."""
    rng = np.random.default_rng([seed, first])
    user = np.repeat(rng.choice(USERS, count, p=SHARES), rng.integers(1, visits + 1, count))[:count] + 2
    # Pages of a visit are near, not next to each other.
    order = np.argsort(np.arange(count) + rng.uniform(0, 40, count))
    return user[order], np.sort(rng.integers(first * DAY_US, (first + days) * DAY_US, count))


@cache
def profile(first: int, days: int, count: int, visits: int) -> InputProfile:
    user, ts = pages(first, days, count, 1, visits)
    ids = np.repeat(user, SIZE)[:, None].astype(np.int32)
    return profile_inputs(LAYOUT, np.zeros((len(ids), 0), np.float32), ids, np.repeat(ts, SIZE), {})


def shifts(user: NDArray[np.int64], ts: NDArray[np.int64], visits: int) -> list[DistributionShift]:
    ids = np.repeat(user, SIZE)[:, None].astype(np.int32)
    served = ServedInputs(
        numeric=np.zeros((len(ids), 0), np.float32),
        ids=ids,
        ts=np.repeat(ts, SIZE),
        requests=np.repeat(np.arange(len(user)), SIZE),
    )
    return find_shifts(served, profile(0, 14, 28_000, visits), profile(20, 7, 14_000, visits), LAYOUT, {})


@pytest.mark.parametrize("visits", [1, 2, 4])
def test_people_who_ask_for_several_pages_are_not_named(visits: int) -> None:
    for seed in range(2, 6):
        assert shifts(*pages(27, 1, 2100, seed, visits), visits) == []


def test_a_few_users_who_ask_for_many_pages_are_named() -> None:
    for seed in range(2, 6):
        user, ts = pages(27, 1, 2000, seed)
        rng = np.random.default_rng(seed)
        robots = 2 + rng.choice(np.arange(USERS // 2, USERS), 20, replace=False)
        hit = rng.random(2000) < 0.05
        user[hit] = rng.choice(robots, hit.sum())
        [found] = shifts(user, ts, 1)
        assert (found.feature, found.kind.name) == ("user", "other mix")


def test_the_share_of_a_window_is_that_of_the_runs_of_grown_values() -> None:
    usual = np.array([0, 0, 0.5, 0.499, 0.001])
    rows = np.repeat(np.tile([2, 3], WINDOW // 2 + 10), 3)
    assert list(burst_shares(rows, usual, 2)) == [(slice(0, 3 * WINDOW), 0.0), (slice(60, 3 * WINDOW + 60), 0.0)]
    rows[: 3 * 60 : 6], rows[1 : 3 * 60 : 6], rows[2 : 3 * 60 : 6] = 4, 4, 4
    assert next(burst_shares(rows, usual, 2)) == (slice(0, 3 * WINDOW), 0.02)
    # Unknown values are no value.
    rows[rows == 4] = 1
    assert next(burst_shares(rows, usual, 2)) == (slice(0, 3 * WINDOW), 0.0)
    assert list(burst_shares(rows[:0], usual, 2)) == []
