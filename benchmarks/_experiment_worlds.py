"""Users whose clicks are known by day, before and in an experiment: made up, or by the laws of the simulated marketplace."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.experiments.design import TREATMENT, Design
from ctr_pipeline.simulator import day_files, truth_file, write_days
from ctr_pipeline.spec.simulator import SimulatorSettings

Counts = NDArray[np.float64]
DAYS_BEFORE, DAYS_PLANNED = 14, 14
"""Days before those that a test is planned with, and those."""


@dataclass(frozen=True)
class Traffic:
    """By user and day of the impression, each [users, days]: rows, their outcomes, and those that came on the same day.

    ``treated`` [users].
    """

    rows: Counts
    outcomes: Counts
    early: Counts
    treated: NDArray[np.bool_]

    @cached_property
    def _cumulative(self) -> tuple[Counts, Counts]:
        return tuple(np.pad(part.cumsum(axis=1), ((0, 0), (1, 0))).T.copy() for part in (self.rows, self.outcomes))

    def rows_within(self, first: int, last: int) -> Counts:
        """[users] rows of the days [first, last)."""
        return self._cumulative[0][last] - self._cumulative[0][first]

    def outcomes_within(self, first: int, last: int) -> Counts:
        """[users] outcomes of the days [first, last)."""
        return self._cumulative[1][last] - self._cumulative[1][first]


Draw = Callable[[np.random.Generator, int, float, str], Traffic]
"""Traffic of a number of days, whose treated users click 1 + effect times as often after the days before; and a name."""


def begin() -> int:
    """The day on which the experiment begins."""
    return DAYS_BEFORE + DAYS_PLANNED


def made_up(seed: int, users: int = 3000, slower: float = 0.0) -> Draw:
    """Users with a pace and a rate of their own, both of which vary much.

    Of the outcomes 30 % come a day later or more, and of the treatment's a share of ``slower`` more.
    """
    rng = np.random.default_rng(seed)
    pace, rate = rng.lognormal(-0.5, 1, users), rng.beta(1.2, 25, users)

    def draw(random: np.random.Generator, days: int, effect: float, _: str) -> Traffic:
        treated = random.random(users) < 0.5
        rows = random.poisson(pace[:, None], (users, days)).astype(float)
        chance = np.repeat(rate[:, None], days, axis=1)
        chance[treated, begin() :] *= 1 + effect
        outcomes = random.binomial(rows.astype(int), np.minimum(chance, 1))
        early = random.binomial(outcomes, np.where(treated, 0.7 - slower, 0.7)[:, None])
        return Traffic(rows, outcomes.astype(float), early.astype(float), treated)

    return draw


def marketplace(seed: int, days: int, settings: SimulatorSettings) -> Draw:
    """The pages and click probabilities of the simulated marketplace; arms by the hash of the user, clicks drawn anew."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        wanted = [settings.first_day + timedelta(days=number) for number in range(days)]
        write_days(settings, seed, wanted, root)
        parts = [
            pl.read_parquet(day_files(root, day)[0], columns=["user_id"]).with_columns(
                pl.read_parquet(truth_file(root, day), columns=["click_probability"])["click_probability"],
                day=pl.lit(number, pl.Int64),
            )
            for number, day in enumerate(wanted)
        ]
    log = pl.concat(parts)
    ids = log["user_id"].unique().sort()
    user = log.join(pl.DataFrame({"user_id": ids, "code": np.arange(len(ids))}), on="user_id", maintain_order="left")
    code, day = user["code"].to_numpy(), log["day"].to_numpy()
    probability, users = log["click_probability"].to_numpy().astype(float), len(ids)
    place = code * days + day

    def draw(random: np.random.Generator, wanted_days: int, effect: float, name: str) -> Traffic:
        assert wanted_days <= days
        design = Design(name=name)
        treated = np.array([design.arm_of(one) == TREATMENT for one in ids])
        chance = probability * np.where(treated[code] & (day >= begin()), 1 + effect, 1.0)
        clicked = random.random(len(chance)) < chance
        rows, outcomes = (
            np.bincount(place, weights=weights, minlength=users * days).reshape(users, days)[:, :wanted_days]
            for weights in (None, clicked.astype(float))
        )
        return Traffic(rows.astype(float), outcomes, outcomes, treated)

    return draw


def worlds(kind: str, count: int, days: int) -> Iterator[Draw]:
    """``count`` worlds of a kind: made_up, slower or marketplace."""
    settings = SimulatorSettings(days=days, sessions_per_day=2000, users=8000, queries=2000, advertisers=100, ads=1000)
    for seed in range(count):
        if kind == "marketplace":
            yield marketplace(seed, days, settings)
        else:
            yield made_up(seed, slower=0.3 if kind == "slower" else 0.0)
