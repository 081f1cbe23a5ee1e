"""The gap between a predicted and a measured effect: parts add up, and each part planted alone on the simulator's laws is found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.evaluation.metrics import EvaluationError, Interval
from ctr_pipeline.experiments.gap import (
    MATURITY,
    PARTS,
    POPULATION,
    POSITION,
    SKEW,
    Gap,
    ReplayedRows,
    offline_online_gap,
    population_factors,
)
from ctr_pipeline.simulator.auction import Contest, Sessions
from ctr_pipeline.simulator.laws import CANDIDATES, SLOTS
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.simulator.policies import PolicyLog, policy_log
from ctr_pipeline.simulator.world import Floats, World
from ctr_pipeline.spec.simulator import SimulatorSettings

SETTINGS = SimulatorSettings.model_validate(
    {"days": 4, "sessions_per_day": 500, "users": 6000, "queries": 500, "advertisers": 60, "ads": 600}
)
PAGES, EXPLORED = 60_000, 0.2

POSITIVE = st.floats(0.01, 5)


@given(st.lists(st.tuples(*[POSITIVE] * 6), min_size=1, max_size=20), st.floats(-1, 1))
def test_the_predicted_effect_all_parts_and_the_rest_add_up(rows: list[tuple[float, ...]], measured: float) -> None:
    reward, weight, then, population, served, position = (np.array(column) for column in zip(*rows, strict=True))
    found = offline_online_gap(
        ReplayedRows(
            reward=reward,
            weight=weight,
            reward_then=then,
            population=population,
            weight_served=served,
            position=position,
        ),
        Interval(measured, measured - 0.1, measured + 0.1),
    )
    total = found.predicted.value + sum(part.value for part in found.parts.values()) + found.unexplained.value
    assert total == pytest.approx(measured, abs=1e-9)
    plain = np.average(then, weights=weight) / then.mean() - 1
    assert found.predicted.value == pytest.approx(plain)
    last = np.average(reward, weights=population * served * position) / np.average(reward, weights=population) - 1
    assert found.corrected.value == pytest.approx(last)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS, 11)


def good(world: World, sessions: Sessions, contest: Contest) -> Floats:
    return contest.logit


def broken(world: World, sessions: Sessions, contest: Contest) -> Floats:
    """What is served where a feature is lost: noise beside the logit."""
    return contest.logit + 3 * np.sin(contest.ad * 12.9898).astype(np.float32)


def mobile_only_bad(world: World, sessions: Sessions, contest: Contest) -> Floats:
    """A ranking that is good on desktops and the reverse of good on mobiles."""
    mobile = world.users.device[sessions.user] == 0
    return np.where(mobile[:, None], -contest.logit, contest.logit)


def weight(log: PolicyLog) -> np.ndarray:
    return log.candidate / log.propensity


def measured(log: PolicyLog, rows: np.ndarray | None = None) -> Interval:
    """The relative effect of a test of the policy against random orders: the truth of other pages, with a test's error."""
    own = np.ones(len(log.truth), dtype=bool) if rows is None else rows
    effect = float(log.truth[own].mean() / log.random_truth[own].mean()) - 1
    return Interval(effect, effect - 0.05, effect + 0.05)


def explained_by(found: Gap, part: str) -> None:
    """The part is there, the others are not, and nothing is left."""
    assert not found.parts[part].low <= 0 <= found.parts[part].high, found
    for other in PARTS:
        if other != part:
            assert found.parts[other].value == pytest.approx(0, abs=1e-9)
    assert found.is_explained, found
    before = found.measured.value - found.predicted.value
    assert abs(found.unexplained.value) < abs(before)


def test_nothing_is_found_where_nothing_differs(world: World) -> None:
    log, later = policy_log(world, 1, PAGES, good, EXPLORED), policy_log(world, 1, PAGES, good, EXPLORED, number=1)
    found = offline_online_gap(ReplayedRows(reward=log.clicked, weight=weight(log), units=log.user), measured(later))
    assert all(part.value == 0 for part in found.parts.values())
    assert found.is_explained
    assert found.predicted.low <= found.measured.value <= found.predicted.high


def test_outcomes_that_came_late_are_the_label_maturity(world: World) -> None:
    log, later = policy_log(world, 1, PAGES, good, EXPLORED), policy_log(world, 1, PAGES, good, EXPLORED, number=1)
    # The clicks on what the candidate prefers were known later: two thirds of them were missing.
    missing = (np.random.default_rng(0).random(PAGES * SLOTS) < 0.67) & (log.score > np.quantile(log.score, 0.8))
    found = offline_online_gap(
        ReplayedRows(reward=log.clicked, weight=weight(log), reward_then=log.clicked & ~missing, units=log.user),
        measured(later),
    )
    assert found.parts[MATURITY].value > 0
    explained_by(found, MATURITY)


def test_other_devices_are_the_population(world: World) -> None:
    log = policy_log(world, 1, PAGES, mobile_only_bad, EXPLORED)
    later = policy_log(world, 1, PAGES, mobile_only_bad, EXPLORED, number=1)
    # The test ran on mobiles nearly alone.
    kept = (later.device == 0) | (np.random.default_rng(1).random(PAGES * SLOTS) < 0.05)
    shares = {str(code): float(np.sum(later.device[kept] == code)) for code in range(3)}
    factors = population_factors(log.device, shares)
    found = offline_online_gap(
        ReplayedRows(reward=log.clicked, weight=weight(log), population=factors, units=log.user), measured(later, kept)
    )
    assert found.parts[POPULATION].value < 0
    explained_by(found, POPULATION)


def test_scores_that_were_served_otherwise_are_the_skew(world: World) -> None:
    log, served = policy_log(world, 1, PAGES, good, EXPLORED), policy_log(world, 1, PAGES, broken, EXPLORED)
    later = policy_log(world, 1, PAGES, broken, EXPLORED, number=1)
    assert np.array_equal(log.clicked, served.clicked)
    found = offline_online_gap(
        ReplayedRows(reward=log.clicked, weight=weight(log), weight_served=weight(served), units=log.user),
        measured(later),
    )
    assert found.parts[SKEW].value < 0
    explained_by(found, SKEW)


def test_ads_that_were_replayed_without_their_slots_are_the_position(world: World) -> None:
    log, later = policy_log(world, 1, PAGES, good, EXPLORED), policy_log(world, 1, PAGES, good, EXPLORED, number=1)
    # Whether the candidate shows the ad at all, over how often it is shown at random; the clicks are those of the logged slot.
    chosen = log.choice.reshape(-1, SLOTS)
    is_chosen = (log.ad.reshape(-1, SLOTS)[:, :, None] == chosen[:, None, :]).any(axis=2).ravel()
    shown = EXPLORED + (1 - EXPLORED) * is_chosen * CANDIDATES / SLOTS
    found = offline_online_gap(
        ReplayedRows(reward=log.clicked, weight=shown, position=weight(log) / shown, units=log.user), measured(later)
    )
    assert found.parts[POSITION].value > 0
    explained_by(found, POSITION)


def test_what_no_part_explains_is_named(world: World) -> None:
    log = policy_log(world, 1, PAGES, good, EXPLORED)
    none = Interval(0.0, -0.05, 0.05)
    found = offline_online_gap(ReplayedRows(reward=log.clicked, weight=weight(log), units=log.user), none)
    assert not found.is_explained
    assert found.unexplained.high < 0
    assert found.to_json()["is_explained"] is False


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ReplayedRows(reward=np.zeros(0), weight=np.zeros(0)), "there is no replayed row"),
        (ReplayedRows(reward=np.zeros(3), weight=np.ones(3)), "there is no predicted effect"),
        (ReplayedRows(reward=np.ones(3), weight=np.ones(2)), r"weight: expected shape \(3,\)"),
        (
            ReplayedRows(reward=np.ones(2), weight=np.array([1.0, -1.0])),
            "weight: row 1: found -1; expected a finite number",
        ),
    ],
)
def test_what_is_no_replay_is_refused(rows: ReplayedRows, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        offline_online_gap(rows, Interval(0.1, 0.0, 0.2))


def test_factors_make_the_rows_those_of_the_test_and_unknown_kinds_are_refused() -> None:
    kinds = np.array(["a", "a", "a", "b"])
    factors = population_factors(kinds, {"a": 1.0, "b": 3.0})
    assert factors.mean() == pytest.approx(1)
    assert np.average(kinds == "b", weights=factors) == pytest.approx(0.75)
    with pytest.raises(EvaluationError, match="the test has rows of c, of which none was replayed; replayed were a, b"):
        population_factors(kinds, {"c": 1.0})
