"""Makes the marketplace and solves the intercepts of its logits, so that click and funnel rates hold whatever its size."""

import functools
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
PILOT_SESSIONS = 8_000
"""Size of the sample on which intercepts are solved: this many days, this many pages each."""


@functools.lru_cache(maxsize=2)
def make_world(settings: SimulatorSettings, seed: int) -> World:
    """The marketplace of ``settings`` and ``seed``. The last two are kept, since days are simulated one by one."""
    world = draw_world(settings, seed)
    intercept, steps, price_centre = solve_intercepts(world)
    return replace(world, intercept=intercept, step_intercepts=steps, price_centre=price_centre)


def solve_intercepts(world: World) -> tuple[float, tuple[float, ...], float]:
    """What is solved on a fixed sample spread over the whole period.

    Returns:
        The intercept of the click logit, those of the three later steps, and the mean price trait at the third step.
    """
    days = np.unique(np.linspace(0, world.settings.days - 1, PILOT_DAYS).astype(int))
    logits, seen, steps, prices = [], [], [], []
    for day in days:
        random = stream(world.seed, PILOT, int(day))
        market = open_market(world, int(day))
        sessions = draw_sessions(world, PILOT_SESSIONS, world.settings.random_share, random)
        shown = hold_auction(world, market, sessions, random)
        logits.append(shown.logit.ravel())
        seen.append(shown.examination.ravel())
        steps.append(shown.step_logit.ravel())
        prices.append(world.ads.price_z[shown.ad.ravel()])
    logit, examination = np.concatenate(logits).astype(float), np.concatenate(seen).astype(float)
    tendency, price = np.concatenate(steps).astype(float), np.concatenate(prices)
    intercept = _solve(logit, CLICK_RATE, examination)
    reached: NDArray[np.float64] = examination * expit(intercept + logit)
    found, centre = [], 0.0
    for number, rate in enumerate(LAWS.funnel.rates):
        step = _solve(tendency, rate, reached / reached.mean())
        found.append(step)
        reached = reached * expit(step + tendency)
        if number == 1:
            centre = float(np.average(price, weights=reached))
    return intercept, tuple(found), centre


def _solve(logit: NDArray[np.float64], rate: float, weights: NDArray[np.float64]) -> float:
    """The intercept b for which the mean of weights · sigmoid(b + logit) is ``rate``."""
    return float(brentq(lambda b: np.mean(weights * expit(b + logit)) - rate, -40.0, 40.0, xtol=1e-6))
