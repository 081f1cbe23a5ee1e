"""Honest changes of the traffic are no skew: new ads, campaigns, weekends, holidays, growth. The same day with a skew names it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctr_pipeline.features.input_profile import InputProfile, profile_inputs
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.online.input_distribution import find_shifts
from ctr_pipeline.online.shift_windows import DistributionShift, ServedInputs
from ctr_pipeline.spec.fields import DAY_US

ADS, SHOPS = 300, 30
NUMBERS = ("price", "rating", "shows_7d")
LAYOUT = Layout(
    numeric=tuple(NumericColumn(name, "dense", "none", 0.0, False, 3.0, 1.0) for name in NUMBERS),
    ids=(
        IdColumn("ad", "categorical", ADS + 2, 4),
        IdColumn("shop", "categorical", SHOPS + 2, 4),
        IdColumn("device", "categorical", 5, 4),
        IdColumn("is_holiday", "contextual", 4, 4),
    ),
    tasks=("click",),
    parents=(-1,),
)
_WORLD = np.random.default_rng(0)
PRICES, RATINGS = np.round(_WORLD.lognormal(3, 1, 2 * ADS), 2), np.round(_WORLD.uniform(1, 5, 2 * ADS), 1)
SHOWS = 50 * _WORLD.zipf(1.5, 2 * ADS).clip(max=400)


@dataclass
class Day:
    """The rows of some days: ads from number ADS on are new, without a rating or a past, and unknown to the model."""

    ad: NDArray[np.int64]
    device: NDArray[np.int64]
    holiday: NDArray[np.int64]

    def inputs(self) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        new = self.ad >= ADS
        numeric = np.stack(
            [PRICES[self.ad], np.where(new, np.nan, RATINGS[self.ad]), np.where(new, 0, SHOWS[self.ad])], axis=1
        )
        ids = [np.where(new, 1, 2 + self.ad), np.where(new, 1, 2 + self.ad % SHOPS), 2 + self.device, 2 + self.holiday]
        return numeric.astype(np.float32), np.stack(ids, axis=1).astype(np.int32)


def rows_of(rng: np.random.Generator, rows: int) -> Day:
    shown = SHOWS[:ADS] / SHOWS[:ADS].sum()
    ad = rng.choice(ADS, rows, p=shown)
    ad[rng.random(rows) < 0.06] += ADS
    return Day(ad, rng.choice(3, rows, p=[0.6, 0.3, 0.1]), np.zeros(rows, np.int64))


def times(rng: np.random.Generator, first: int, days: int, rows: int) -> NDArray[np.int64]:
    return np.sort(rng.integers(first * DAY_US, (first + days) * DAY_US, rows))


def profile(first: int, days: int, rows: int) -> InputProfile:
    rng = np.random.default_rng(first)
    return profile_inputs(LAYOUT, *rows_of(rng, rows).inputs(), times(rng, first, days, rows), {})


TRAINING, RECENT = profile(0, 14, 30_000), profile(20, 7, 15_000)

CHANGES: dict[str, Callable[[np.random.Generator, Day], None]] = {
    "nothing": lambda rng, day: rng.shuffle(day.device),
    "a new advertiser": lambda rng, day: day.ad.__setitem__(rng.random(len(day.ad)) < 0.12, ADS + 7),
    "new ads": lambda rng, day: day.ad.__setitem__(
        hit := rng.random(len(day.ad)) < 0.2, ADS + rng.integers(0, ADS, hit.sum())
    ),
    "a campaign": lambda rng, day: day.ad.__setitem__(rng.random(len(day.ad)) < 0.35, 11),
    "a campaign of a shop": lambda rng, day: day.ad.__setitem__(
        hit := rng.random(len(day.ad)) < 0.4, rng.choice([5, 35, 65], hit.sum())
    ),
    "a popular ad ends": lambda _, day: day.ad.__setitem__(day.ad == int(SHOWS[:ADS].argmax()), 11),
    "a popular ad is followed by one of another shop": lambda _, day: day.ad.__setitem__(
        np.isin(day.ad, np.argsort(-SHOWS[:ADS])[:3]), ADS + 4
    ),
    "a weekend on phones": lambda rng, day: day.device.__setitem__(rng.random(len(day.device)) < 0.5, 0),
    "a holiday": lambda rng, day: day.holiday.__setitem__(rng.random(len(day.ad)) < 2, 1),
}


def shifts(
    change: str, seed: int, rows: int, skew: Callable[[NDArray[np.float32]], None] | None = None
) -> list[DistributionShift]:
    rng = np.random.default_rng([seed, 5])
    day = rows_of(rng, rows)
    CHANGES[change](rng, day)
    numeric, ids = day.inputs()
    if skew is not None:
        skew(numeric)
    served = ServedInputs(numeric=numeric, ids=ids, ts=times(rng, 27, 1, rows), requests=np.arange(rows) // 5)
    return find_shifts(served, TRAINING, RECENT, LAYOUT, {})


@given(seed=st.integers(0, 9999), change=st.sampled_from(sorted(CHANGES)), rows=st.sampled_from([300, 1500, 10_000]))
def test_what_is_named_of_an_honest_day_is_the_traffic(seed: int, change: str, rows: int) -> None:
    found = {one.feature: one.kind.name for one in shifts(change, seed, rows)}
    assert set(found) & set(NUMBERS) == set()
    assert set(found.values()) <= {"other mix", "new values"}
    if change == "nothing":
        assert found == {}


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize(
    ("column", "skew", "kind"),
    [
        (0, lambda x: x * 100, "unit"),
        (0, lambda x: x / 60, "unit"),
        (0, np.log1p, "transform left out"),
        (1, lambda x: np.where(np.arange(len(x)) % 3 == 0, 0, x), "default"),
        (1, lambda x: np.where(np.arange(len(x)) % 3 == 0, np.nan, x), "missing"),
        (1, lambda x: np.where(np.isnan(x), 0, x), "zero for missing"),
        (1, lambda x: np.where(np.isnan(x), 2.5, x), "default for missing"),
        (2, lambda x: np.where(np.arange(len(x)) % 3 == 0, 0, x), "default"),
        (2, lambda x: np.full_like(x, 3), "constant"),
    ],
)
def test_a_skew_on_such_a_day_is_named(
    change: str, column: int, skew: Callable[[NDArray[np.float32]], NDArray[np.float32]], kind: str
) -> None:
    def plant(numeric: NDArray[np.float32]) -> None:
        numeric[:, column] = skew(numeric[:, column])

    found = {one.feature: one.kind.name for one in shifts(change, 1, 10_000, plant)}
    assert {name: of for name, of in found.items() if name in NUMBERS} == {NUMBERS[column]: kind}
