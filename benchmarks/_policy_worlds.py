"""Worlds with known truth for what the intervals of propensities, of off-policy values and of online tests should hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.evaluation import Interval
from ctr_pipeline.experiments import RewardModel, UserTotals, policy_value, read_test
from ctr_pipeline.propensity import position_propensity
from ctr_pipeline.spec.weighting import Propensity

Found = Iterator[tuple[str, Interval | tuple[float, float, float]]]
POSITIONS = 5
SEQUENCE = "confidence sequence"
"""Begins the names of what should hold at all looks together: coverage may be larger, and not smaller, than 95 %."""

BIASED = "with weights above the clip"
"""Ends the names of what nothing is promised of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropensityWorld:
    """Pages of five places: in production the better ads stand above, in random pages anywhere.

    Attributes:
        name: What it is called.
        pages: Pages of one draw.
        random: Share of the pages in random order.
        base: Logit of a click at the first place.
        smoothing: Pseudo-impressions, by default those of a spec that does not say.
    """

    name: str
    pages: int
    random: float
    base: float
    smoothing: float = Propensity().smoothing

    def _draw(self, pages: int, generator: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether each page is random, and the chances of clicks [pages, places]."""
        random = generator.random(pages) < self.random
        quality = generator.normal(0, 0.8, (pages, POSITIONS))
        quality = np.where(random[:, None], quality, -np.sort(-quality, axis=1))
        looks = 0.7 ** np.arange(POSITIONS)
        person = generator.normal(0, 0.7, (pages, 1))
        return random, looks * special.expit(self.base + quality + person)

    def truth(self, seed: int) -> Mapping[str, float]:
        """Ratios of expected rates."""
        random, chance = self._draw(2_000_000, np.random.default_rng([seed, 0]))
        own, other = chance[random].mean(axis=0), chance[~random].mean(axis=0)
        return {
            **{f"exposure ratio at {k + 1}": float(own[k] / other[k]) for k in range(POSITIONS)},
            **{f"examination at {k + 1}": float(own[k] / own[0]) for k in range(1, POSITIONS)},
        }

    def intervals(self, seed: int) -> Found:
        """Those of one draw."""
        generator = np.random.default_rng([seed, 1])
        random, chance = self._draw(self.pages, generator)
        rows = pl.DataFrame(
            {
                "day": np.zeros(chance.size, dtype=np.int32),
                "position": np.tile(np.arange(1, POSITIONS + 1), self.pages),
                "traffic": np.repeat(np.where(random, "random", "production"), POSITIONS),
                "session": np.repeat([f"s{page}" for page in range(self.pages)], POSITIONS),
                "y_click": (generator.random(chance.shape) < chance).ravel().astype(np.int8),
            }
        )
        table = position_propensity(
            rows, ["click"], {"click": None}, smoothing=self.smoothing, clip=(0.1, 10.0), seed=seed
        )
        for entry in table.positions:
            value = entry.exposure_ratio
            yield f"exposure ratio at {entry.position}", Interval(value, entry.exposure_low, entry.exposure_high)
            if entry.position > 1:
                value = entry.examination
                yield (
                    f"examination at {entry.position}",
                    Interval(value, entry.examination_low, entry.examination_high),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWorld:
    """Users who are shown one of four things, some of them seldom.

    Attributes:
        name: What it is called.
        users: Users of one draw, with some five rows each.
        base: Logit of a reward.
        apart: How far the candidate is from the policy in service.
    """

    name: str
    users: int
    base: float
    apart: float

    def _draw(
        self, users: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """User of each row; what both policies show, and the chances of a reward, [N, 4] each."""
        user = np.repeat(np.arange(users), 1 + generator.poisson(4, users))
        context = generator.normal(0, 1, (len(user), 4))
        logging = special.softmax(context, axis=1)
        candidate = special.softmax((1 - self.apart) * context + self.apart * context[:, ::-1], axis=1)
        effect = generator.normal(0, 0.7, users)[user]
        return user, logging, candidate, special.expit(self.base + 0.7 * context + effect[:, None])

    def truth(self, seed: int) -> Mapping[str, float]:
        """Expected rewards of both policies."""
        _, logging, candidate, chance = self._draw(400_000, np.random.default_rng([seed, 0]))
        value = float((candidate * chance).sum(axis=1).mean())
        return {
            **dict.fromkeys(("IPW", "SNIPW", "clipped", "DR", "switch-DR"), value),
            **dict.fromkeys((f"clipped {BIASED}", f"switch-DR {BIASED}"), value),
            "logged": float((logging * chance).sum(axis=1).mean()),
            "mean weight": 1.0,
        }

    def intervals(self, seed: int) -> Found:
        """Those of one draw."""
        generator = np.random.default_rng([seed, 1])
        user, logging, candidate, chance = self._draw(self.users, generator)
        rows = np.arange(len(user))
        shown = (generator.random((len(user), 1)) > np.cumsum(logging, axis=1)).sum(axis=1).clip(max=3)
        reward = (generator.random(len(user)) < chance[rows, shown]).astype(np.float64)
        # A model that does not know the users.
        predicted = special.expit(self.base + 0.1 + 0.6 * np.log(logging / logging.mean(axis=1, keepdims=True)))
        model = RewardModel(predicted[rows, shown], (candidate * predicted).sum(axis=1))
        found = policy_value(reward, logging[rows, shown], candidate[rows, shown], user, model=model)
        # Both are biased, by construction, where weights are above the clip.
        biased = f" {BIASED}" if found.clipped_share > 0 else ""
        for name, value in (
            ("IPW", found.ipw),
            ("SNIPW", found.snipw),
            (f"clipped{biased}", found.clipped),
            ("DR", found.dr),
            (f"switch-DR{biased}", found.switch_dr),
            ("logged", found.logged),
            ("mean weight", found.mean_weight),
        ):
            if value is not None:
                yield name, value


@dataclass(frozen=True, slots=True, kw_only=True)
class TestWorld:
    """An online test of users with a habit, which grows by as many users each day and is read daily.

    Attributes:
        name: What it is called.
        users: Users of both arms on each of the days.
        days: Days.
        base: Logit of an outcome of a row.
        effect: What the treatment adds to it.
    """

    name: str
    users: int
    days: int
    base: float
    effect: float

    def _rates(self, habit: NDArray[np.float64], treated: NDArray[np.bool_] | bool) -> NDArray[np.float64]:
        return np.asarray(special.expit(self.base + habit + self.effect * treated), dtype=np.float64)

    def truth(self, seed: int) -> Mapping[str, float]:
        """The difference of the rates, absolute and relative."""
        habit = np.random.default_rng([seed, 0]).normal(0, 1, 4_000_000)
        own, other = float(self._rates(habit, True).mean()), float(self._rates(habit, False).mean())
        return {"difference": own - other, "relative difference": own / other - 1}

    def intervals(self, seed: int) -> Found:
        """Those of one test, and whether all of its looks together hold the truth."""
        generator, total = np.random.default_rng([seed, 1]), self.users * self.days
        habit, treated = generator.normal(0, 1, total), generator.random(total) < 0.5
        trials = 1 + generator.poisson(5, total)
        before = generator.binomial(12, self._rates(habit, False)) / 12
        outcomes = generator.binomial(trials, self._rates(habit, treated))
        truth = self._difference
        missed = None
        for end in range(self.users, total + 1, self.users):
            arms = [
                UserTotals.of(outcomes[:end][of], trials[:end][of], before[:end][of])
                for of in (treated[:end], ~treated[:end])
            ]
            reading = read_test(arms[0], arms[1], planned=total)
            always = reading.always
            if missed is None and not always.low <= truth <= always.high:
                missed = always
        yield f"{SEQUENCE} at {self.days} looks", ((missed or always).low, (missed or always).high, truth)
        yield "difference", reading.difference
        yield "relative difference", reading.relative

    @property
    def _difference(self) -> float:
        """By quadrature over the habits."""
        places, weights = np.polynomial.hermite_e.hermegauss(60)
        own, other = (self._rates(places, treated) for treated in (True, False))
        return float(weights @ (own - other) / weights.sum())


def policy_cases() -> list[PropensityWorld | PolicyWorld | TestWorld]:
    """Propensities, off-policy values and online tests, of small and of medium size."""
    return [
        PropensityWorld(name="propensity, small", pages=3_000, random=0.2, base=-2.2),
        PropensityWorld(name="propensity, medium", pages=15_000, random=0.1, base=-2.6),
        PolicyWorld(name="policy, small", users=400, base=-2.5, apart=0.5),
        PolicyWorld(name="policy, rare", users=3_000, base=-4.6, apart=0.5),
        PolicyWorld(name="policy, medium", users=4_000, base=-2.5, apart=0.8),
        TestWorld(name="test, small", users=100, days=14, base=-2.5, effect=0.1),
        TestWorld(name="test, rare", users=800, days=14, base=-5.0, effect=0.2),
        TestWorld(name="test, medium", users=1_000, days=28, base=-2.5, effect=0.0),
    ]
