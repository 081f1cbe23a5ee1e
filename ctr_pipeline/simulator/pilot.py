"""Makes the world and solves the intercepts of its logits, so that the click and funnel rates hold whatever the size of the world."""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from ctr_pipeline.simulator.auction import draw_sessions, hold_auction, open_market
from ctr_pipeline.simulator.laws import CLICK_RATE, LAWS
from ctr_pipeline.simulator.world import PILOT, World, draw_world, stream
from ctr_pipeline.spec.simulator import SimulatorSettings

PILOT_DAYS = 26
PILOT_SESSIONS = 4_000
"""Size of the sample on which intercepts are solved: this many days, this many pages each."""


@functools.lru_cache(maxsize=2)
def make_world(settings: SimulatorSettings, seed: int) -> World:
    """The marketplace of ``settings`` and ``seed``. The last two are kept, since days are simulated one by one."""
    world = draw_world(settings, seed)
    intercept, steps = solve_intercepts(world)
    return replace(world, intercept=intercept, step_intercepts=steps)


def solve_intercepts(world: World) -> tuple[float, tuple[float, ...]]:
    """Intercepts of the click logit and of the three later steps, on a fixed sample spread over the whole period."""
    days = np.unique(np.linspace(0, world.settings.days - 1, PILOT_DAYS).astype(int))
    logits, seen, steps = [], [], []
    for day in days:
        random = stream(world.seed, PILOT, int(day))
        market = open_market(world, int(day))
        sessions = draw_sessions(world, PILOT_SESSIONS, world.settings.random_share, random)
        shown = hold_auction(world, market, sessions, random)
        logits.append(shown.logit.ravel())
        seen.append(shown.examination.ravel())
        steps.append(shown.step_logit.ravel())
    logit, examination = np.concatenate(logits).astype(float), np.concatenate(seen).astype(float)
    tendency = np.concatenate(steps).astype(float)
    intercept = _solve(lambda b: float(np.mean(examination * expit(b + logit))), CLICK_RATE)
    weights: NDArray[np.float64] = examination * expit(intercept + logit)
    found = []
    for rate in LAWS.funnel.rates:
        step = _solve(lambda b, w=weights: float(np.average(expit(b + tendency), weights=w)), rate)  # type: ignore[misc]
        found.append(step)
        weights = weights * expit(step + tendency)
    return intercept, tuple(found)


def _solve(rate_at: Callable[[float], float], wanted: float) -> float:
    """Where the increasing function ``rate_at`` is ``wanted``."""
    return float(brentq(lambda b: rate_at(b) - wanted, -40.0, 40.0, xtol=1e-6))
