"""A random log beside a policy whose value is known: propensities, and the estimates on the simulator's laws."""

import numpy as np
import pytest

from ctr_pipeline.experiments.off_policy import policy_value
from ctr_pipeline.simulator.auction import Contest, Sessions
from ctr_pipeline.simulator.laws import CANDIDATES, SLOTS
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.simulator.policies import policy_log
from ctr_pipeline.simulator.world import Floats, World
from ctr_pipeline.spec.simulator import SimulatorSettings

SETTINGS = SimulatorSettings.model_validate(
    {"days": 4, "sessions_per_day": 500, "users": 3000, "queries": 300, "advertisers": 30, "ads": 400}
)


def by_logit(world: World, sessions: Sessions, contest: Contest) -> Floats:
    return contest.logit


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SETTINGS, 3)


def test_the_log_is_random_and_the_policy_is_what_it_says(world: World) -> None:
    log = policy_log(world, 1, 4000, by_logit, 0.2)
    assert sorted(np.unique(log.candidate)) == pytest.approx([0.2 / CANDIDATES, 0.8 + 0.2 / CANDIDATES])
    # Of twelve candidates each stands in a slot with the chance 1/12.
    shown = np.mean((log.ad == log.choice).reshape(-1, SLOTS), axis=0)
    assert shown == pytest.approx(np.full(SLOTS, 1 / CANDIDATES), abs=4 * np.sqrt(1 / CANDIDATES / 4000))
    choice = log.choice_score.reshape(-1, SLOTS)
    assert (np.diff(choice, axis=1) <= 0).all()
    assert log.truth.mean() > 1.3 * log.clicked.mean()


def test_the_estimates_are_near_the_truth(world: World) -> None:
    truth = policy_log(world, 1, 60_000, by_logit, 0.2, number=1).truth.mean()
    log = policy_log(world, 1, 60_000, by_logit, 0.2)
    found = policy_value(log.clicked.astype(float), log.propensity, log.candidate, log.user)
    for one in (found.ipw, found.snipw, found.clipped):
        assert one.low <= truth <= one.high
        assert one.high / one.low < 1.6
    assert found.mean_weight.low <= 1 <= found.mean_weight.high
    assert found.alarms == ()
