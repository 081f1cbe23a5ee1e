"""Users whose interests change: a stationary path that does not depend on what is asked for, and none by default."""

import numpy as np

from ctr_pipeline.simulator.auction import interests_of_day, open_market
from ctr_pipeline.simulator.laws import LAWS
from ctr_pipeline.simulator.world import draw_world
from ctr_pipeline.spec.simulator import SimulatorSettings, UserDrift

SIZE = {"days": 30, "sessions_per_day": 300, "users": 4000, "queries": 200, "advertisers": 30, "ads": 300}
PLAIN = SimulatorSettings.model_validate(SIZE)
DRIFTING = SimulatorSettings.model_validate({**SIZE, "user_drift": UserDrift(renewed=0.1, weight=1.5)})


def test_without_drift_interests_are_those_of_the_users() -> None:
    world = draw_world(PLAIN, 5)
    market = open_market(world, 20)
    assert market.interests is world.users.latent
    assert market.interest_weight == LAWS.appeal.user_ad
    assert "user_drift" not in PLAIN.model_dump()


def test_drift_changes_interests_and_nothing_else_of_the_world() -> None:
    plain, drifting = draw_world(PLAIN, 5), draw_world(DRIFTING, 5)
    for name in ("latent", "bias", "device"):
        assert np.array_equal(getattr(plain.users, name), getattr(drifting.users, name))
    one, other = open_market(plain, 20), open_market(drifting, 20)
    assert np.array_equal(one.appeal, other.appeal)
    assert other.interest_weight == 1.5
    assert not np.array_equal(one.interests, other.interests)


def test_interests_keep_their_spread_and_forget_by_the_day() -> None:
    world = draw_world(DRIFTING, 5)
    first = interests_of_day(world, 0)
    assert np.array_equal(first, world.users.latent)
    for day in (1, 7, 29):
        later = interests_of_day(world, day)
        # 24,000 numbers: the spread and a correlation are known to about 0.006.
        assert abs(later.std() - 1) < 0.02
        expected = 0.9 ** (day / 2)
        assert abs(np.corrcoef(first.ravel(), later.ravel())[0, 1] - expected) < 0.02


def test_a_day_is_the_same_in_a_longer_period_and_another_seed_has_other_news() -> None:
    longer = draw_world(DRIFTING.model_copy(update={"days": 60}), 5)
    assert np.array_equal(interests_of_day(longer, 12), interests_of_day(draw_world(DRIFTING, 5), 12))
    assert not np.array_equal(interests_of_day(longer, 12), interests_of_day(draw_world(DRIFTING, 6), 12))
