"""Values of policies: formulas row by row, coverage where the truth is known, alarms, and a real log of two policies."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.off_policy import PolicyValue, RewardModel, policy_value

ROW = st.tuples(
    st.floats(-2, 2), st.floats(0.01, 1), st.floats(0, 1), st.floats(-1, 1), st.floats(-1, 1), st.integers(-1, 5)
)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=30), st.floats(0.5, 20))
def test_the_estimates_are_their_formulas(rows: list[tuple[float, ...]], clip: float) -> None:
    r, p, c, shown, value, unit = (np.array(column) for column in zip(*rows, strict=True))
    found = policy_value(r, p, c, unit, model=RewardModel(shown, value), clip=clip)
    n, weights = len(rows), [target / logged for _, logged, target, *_ in rows]
    sums = {"ipw": 0.0, "clipped": 0.0, "dr": 0.0, "switch": 0.0, "weight": 0.0, "square": 0.0}
    for (reward, _, _, predicted, of_candidate, _), weight in zip(rows, weights, strict=True):
        sums["ipw"] += weight * reward
        sums["clipped"] += min(weight, clip) * reward
        sums["dr"] += of_candidate + weight * (reward - predicted)
        sums["switch"] += of_candidate + (weight * (reward - predicted) if weight <= clip else 0)
        sums["weight"] += weight
        sums["square"] += weight**2
    assert found.ipw.value == pytest.approx(sums["ipw"] / n, abs=1e-9)
    assert found.clipped.value == pytest.approx(sums["clipped"] / n, abs=1e-9)
    assert found.dr is not None
    assert found.switch_dr is not None
    assert found.dr.value == pytest.approx(sums["dr"] / n, abs=1e-9)
    assert found.switch_dr.value == pytest.approx(sums["switch"] / n, abs=1e-9)
    if sums["weight"] > 1e-6:
        assert found.snipw.value == pytest.approx(sums["ipw"] / sums["weight"], abs=1e-6, rel=1e-6)
        assert found.effective_rows == pytest.approx(sums["weight"] ** 2 / sums["square"], rel=1e-6)
    assert found.logged.value == pytest.approx(r.mean(), abs=1e-9)


class World:
    """Eight actions whose rewards depend on the kind of row; users of four rows each."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rates = rng.uniform(0.02, 0.3, (3, 8))
        self.service = rng.dirichlet(np.ones(8), 3) * 0.8 + 0.025
        self.candidate = np.full((3, 8), 0.02) + 0.84 * np.eye(8)[self.rates.argmax(axis=1)]
        self.value = float((self.candidate * self.rates).sum(axis=1).mean())

    def drawn(self, rng: np.random.Generator, users: int, flawed: float = 0.0) -> PolicyValue:
        """The value from a log, with a reward model that is off by ``flawed``."""
        kind = np.repeat(rng.integers(0, 3, users), 4)
        shown = (rng.random(len(kind))[:, None] > self.service.cumsum(axis=1)[kind]).sum(axis=1).clip(max=7)
        rewards = (rng.random(len(kind)) < self.rates[kind, shown]).astype(float)
        model = self.rates + flawed
        return policy_value(
            rewards,
            self.service[kind, shown],
            self.candidate[kind, shown],
            np.repeat(np.arange(users), 4),
            model=RewardModel(model[kind, shown], (self.candidate * model).sum(axis=1)[kind]),
        )


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    names = ("ipw", "snipw", "dr")
    held, worlds = dict.fromkeys((*names, "mean_weight"), 0), 500
    rng = np.random.default_rng(0)
    for seed in range(worlds):
        world = World(seed)
        found = world.drawn(rng, 500, flawed=0.05)
        for name in held:
            one, truth = getattr(found, name), 1.0 if name == "mean_weight" else world.value
            held[name] += one.low <= truth <= one.high
    assert all(0.92 <= count / worlds <= 0.98 for count in held.values()), held


def test_the_model_takes_spread_away_and_a_wrong_one_moves_nothing() -> None:
    world, rng = World(1), np.random.default_rng(1)
    right, wrong = world.drawn(rng, 20_000), world.drawn(rng, 20_000, flawed=0.1)
    assert right.dr is not None
    assert wrong.dr is not None
    assert right.dr.high - right.dr.low < right.ipw.high - right.ipw.low
    for one in (right.dr, wrong.dr, right.snipw):
        assert one.value == pytest.approx(world.value, abs=0.02)
    assert right.alarms == wrong.alarms == ()


def test_one_weight_of_twenty_thousand_raises_the_alarm_and_does_not_move_the_clipped_estimate() -> None:
    rng = np.random.default_rng(2)
    rewards = (rng.random(10_000) < 0.05).astype(float)
    propensity, candidate = np.full(10_000, 0.1), np.full(10_000, 0.1)
    before = policy_value(rewards, propensity, candidate)
    assert before.alarms == ()
    propensity[7], candidate[7], rewards[7] = 5e-5, 1.0, 1.0
    after = policy_value(rewards, propensity, candidate)
    assert after.largest_weight == pytest.approx(20_000)
    assert any("one unit has 67% of the sum of weights (largest weight 20000)" in alarm for alarm in after.alarms)
    assert any("effective rows" in alarm for alarm in after.alarms)
    assert after.ipw.value > 10 * before.ipw.value
    assert abs(after.clipped.value - before.clipped.value) < (before.clipped.high - before.clipped.low) / 4


def test_few_rewards_are_told() -> None:
    rewards = np.zeros(5000)
    rewards[:9] = 1
    found = policy_value(rewards, np.full(5000, 0.5), np.full(5000, 0.5))
    assert [alarm.startswith("9 rows with a reward are such as the candidate shows") for alarm in found.alarms] == [
        True
    ]


def test_wrong_propensities_are_told() -> None:
    rng = np.random.default_rng(3)
    rewards = (rng.random(5000) < 0.05).astype(float)
    found = policy_value(rewards, np.full(5000, 0.5), np.full(5000, 0.25))
    assert [alarm.startswith("the mean weight is 0.500") for alarm in found.alarms] == [True]
    nothing = policy_value(rewards, np.full(5000, 0.5), np.zeros(5000))
    assert math.isnan(nothing.snipw.value)
    assert nothing.alarms


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": np.array([0.5, 0.0])}, r"propensity: row 1: found 0; expected above 0, and at most 1 \(1 rows are not\)"),
        ({"propensity": np.array([0.5, 1.5])}, "propensity: row 1: found 1.5; expected a probability"),
        ({"candidate": np.array([-0.1, 0.5])}, "candidate: row 0: found -0.1; expected a probability"),
        ({"rewards": np.array([0.0, math.nan])}, "rewards: row 1: found nan; expected a finite number"),
        ({"candidate": np.array([0.5])}, r"candidate: expected shape \(2,\), one number for each row; found \(1,\)"),
        ({"clip": 0.0}, "clip: expected a weight above 0; found 0"),
        ({"model": RewardModel(np.zeros(2), np.zeros(3))}, "model.candidate: expected shape"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_refused(change: dict[str, object], message: str) -> None:
    fine: dict[str, object] = {
        "rewards": np.zeros(2), "propensity": np.full(2, 0.5), "candidate": np.full(2, 0.5),
    }  # fmt: skip
    with pytest.raises(EvaluationError, match=message):
        policy_value(**(fine | change))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="there is no row"):
        policy_value(np.zeros(0), np.zeros(0), np.zeros(0))


def test_the_uniform_policy_of_a_real_log(shared_data: Path) -> None:
    """Of the men's campaign both policies were logged on the same days: what one says of the other can be looked up."""
    log = pl.read_parquet(shared_data / "open_bandit.parquet").filter(pl.col("campaign") == "men")
    random, learned = (log.filter(pl.col("policy") == name) for name in ("random", "bts"))
    rate, items = float(random["clicked"].mean()), random["item_id"].n_unique()  # type: ignore[arg-type]
    # The rate of an item from the other half of the rows, leaning on that of its position.
    half = np.arange(learned.height) % 2
    shown, value = np.zeros(learned.height), np.zeros(learned.height)
    for own in (0, 1):
        other = learned.filter(pl.Series(half != own))
        lean = dict(other.group_by("position").agg(pl.col("clicked").mean()).iter_rows())
        found = {
            (item, position): (clicks + 500 * lean[position]) / (rows + 500)
            for item, position, clicks, rows in other.group_by("item_id", "position")
            .agg(pl.col("clicked").sum(), pl.len())
            .iter_rows()
        }
        every = log["item_id"].unique().to_list()
        of_position = {p: np.mean([found.get((item, p), lean[p]) for item in every]) for p in lean}
        at = np.flatnonzero(half == own)
        part = learned[at.tolist()]
        shown[at] = [found.get(key, lean[key[1]]) for key in part.select("item_id", "position").iter_rows()]
        value[at] = [of_position[position] for position in part["position"]]
    result = policy_value(
        learned["clicked"].cast(pl.Float64).to_numpy(),
        learned["propensity"].to_numpy(),
        np.full(learned.height, 1 / items),
        model=RewardModel(shown, value),
    )
    assert result.dr is not None
    for one in (result.snipw, result.dr):
        assert one.low <= rate <= one.high
    assert result.ipw.value == pytest.approx(0.0030, abs=0.00005)
    assert result.effective_rows == pytest.approx(656, abs=1)
    # The log itself says that its propensities are those of what was shown.
    assert result.mean_weight.low <= 1 <= result.mean_weight.high
