"""How often the intervals of `ctr experiment value` hold the true value of a policy, on the laws of the simulated marketplace.

Each seed is a world of its own with a log of pages whose twelve candidates were shown in random order. The candidate policy ranks
by logit and bid, and explores with the chance 0.2. Its true value in that world is that of many other pages.

Run from the checkout::

    python benchmarks/policy_value.py [--seeds 200] [--pages 8000] [--day 3]

Prints for each estimate the share of the seeds whose 95 % interval holds the truth with its Wilson interval, the mean error
relative to the truth, and the mean width relative to it.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
from _machine import machine
from experiments import wilson

from ctr_pipeline.experiments.off_policy import PolicyValue, RewardModel, policy_value
from ctr_pipeline.experiments.reward_model import model_of_cells
from ctr_pipeline.simulator.auction import Contest, Sessions
from ctr_pipeline.simulator.laws import SLOTS
from ctr_pipeline.simulator.pilot import make_world
from ctr_pipeline.simulator.policies import PolicyLog, policy_log
from ctr_pipeline.simulator.world import Floats, World
from ctr_pipeline.spec.simulator import SimulatorSettings

SETTINGS = SimulatorSettings(days=6, sessions_per_day=2000, users=20_000, queries=2000, advertisers=100, ads=1000)
EXPLORED, CELLS = 0.2, 20
ESTIMATES = ("ipw", "snipw", "clipped", "dr", "switch_dr")


def ranking(world: World, _: Sessions, contest: Contest) -> Floats:
    """The candidate's score."""
    return contest.logit + np.float32(0.5) * world.ads.log_bid[contest.ad]


def reward_model(log: PolicyLog) -> RewardModel:
    """Rates by twentieth of the score and slot, of the other half of the users."""
    edges = np.unique(np.quantile(log.score, np.linspace(0, 1, CELLS + 1)[1:-1]))
    cells, choice = np.searchsorted(edges, log.score), np.searchsorted(edges, log.choice_score)
    at_random = np.bincount(cells, minlength=CELLS) / len(cells)
    every = np.tile(np.arange(CELLS), (len(cells), 1))
    weights = np.concatenate(
        [np.full((len(cells), 1), 1 - EXPLORED), np.tile(EXPLORED * at_random, (len(cells), 1))], axis=1
    )
    return model_of_cells(
        log.clicked, cells, log.slot, np.concatenate([choice[:, None], every], axis=1), weights, log.user
    )


def one_seed(seed: int, day: int, pages: int) -> tuple[PolicyValue, float]:
    """The estimates of a log of a world, and the policy's true value there."""
    world = make_world(SETTINGS, seed)
    truth = policy_log(world, day, 20 * pages, ranking, EXPLORED, number=1).truth.mean(dtype=np.float64)
    log = policy_log(world, day, pages, ranking, EXPLORED)
    assert len(log.clicked) == SLOTS * pages
    found = policy_value(log.clicked.astype(float), log.propensity, log.candidate, log.user, model=reward_model(log))
    return found, float(truth)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Prints the table, and returns the share of each estimate's intervals that hold the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--pages", type=int, default=8000)
    parser.add_argument("--day", type=int, default=3, help="day of the worlds, from 0 to 5")
    options = parser.parse_args(arguments)
    start, found = time.perf_counter(), []
    for seed in range(options.seeds):
        found.append(one_seed(seed, options.day, options.pages))
    print(machine())
    print(f"{options.seeds} worlds of {options.pages} pages, {time.perf_counter() - start:.0f} s")
    shares = {}
    for name in ESTIMATES:
        pairs = [(getattr(value, name), truth) for value, truth in found]
        held = sum(one.low <= truth <= one.high for one, truth in pairs)
        shares[name] = held / len(pairs)
        low, high = wilson(held, len(pairs))
        error = np.mean([one.value / truth - 1 for one, truth in pairs])
        width = np.mean([(one.high - one.low) / truth for one, truth in pairs])
        print(
            f"  {name:10} holds the truth {shares[name]:.3f} [{low:.3f}, {high:.3f}]; error {error:+.3f}, width {width:.2f}"
        )
    return shares


if __name__ == "__main__":
    main()
