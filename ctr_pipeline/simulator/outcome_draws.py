"""What happens after an impression: clicks, later steps, their delays, and which of them the log receives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ctr_pipeline.simulator.auction import Shown
from ctr_pipeline.simulator.experiment import Effects
from ctr_pipeline.simulator.laws import LAWS, SLOTS
from ctr_pipeline.simulator.world import Floats, World

STEPS = {
    "checkout": ("click", "add_to_cart", "checkout"),
    "credit": ("click", "application", "conversion", "approval"),
}
"""Outcomes of each funnel, in order."""

SECOND = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """True and logged outcomes of the M rows of a chunk, of which C were clicked.

    ``relevance`` and ``examination`` [M]; their product is the probability of a click. ``row`` [C] are the clicked rows.
    ``happened``, ``time``, ``logged`` and ``ingest`` [steps, C]: whether and when (microseconds) each step truly
    happened, whether it entered the log and when the log received it. A fired step has a time but did not happen.
    ``step_probability`` [steps - 1, M] is the chance of each later step given the one before.
    """

    relevance: Floats
    examination: Floats
    row: NDArray[np.int64]
    happened: NDArray[np.bool_]
    time: NDArray[np.int64]
    logged: NDArray[np.bool_]
    ingest: NDArray[np.int64]
    step_probability: Floats


def draw_outcomes(
    world: World,
    shown: Shown,
    ts: NDArray[np.int64],
    bots: Floats,
    random: np.random.Generator,
    effects: Effects | None = None,
) -> Outcomes:
    """Clicks and later steps of the rows of ``shown``, whose impressions were at ``ts`` [M] (microseconds).

    ``bots`` [n] is the probability with which a bot clicks, 0 for pages that people see. Bots look at every slot, and
    never go on after a click. ``effects`` are those of an experiment on people; no probability is raised above 1.
    """
    relevance, examination = expit(shown.logit.ravel()), shown.examination.ravel()
    steps = len(STEPS[world.settings.funnel])
    intercepts = np.array(world.step_intercepts, np.float32)[: steps - 1, None]
    step_probability = expit(shown.step_logit.ravel() + intercepts)
    if effects is not None:
        relevance = np.minimum(relevance * np.repeat(effects.click, SLOTS), np.float32(1))
        step_probability[0] = np.minimum(step_probability[0] * np.repeat(effects.next_step, SLOTS), np.float32(1))
    if bots.any():
        robot = np.flatnonzero(np.repeat(bots, SLOTS))
        relevance[robot] = np.repeat(bots, SLOTS)[robot]
        examination[robot] = 1.0
        step_probability[:, robot] = 0.0
    row = np.flatnonzero(random.random(len(relevance), dtype=np.float32) < examination * relevance)
    ad, probability = shown.ad.ravel()[row], step_probability[:, row].astype(np.float64)
    happened = np.ones((steps, len(row)), np.bool_)
    happened[1:] = np.logical_and.accumulate(random.random(probability.shape) < probability, axis=0)
    delay = _delays(world, ad, steps, random)
    time = ts[row] + np.cumsum((delay * SECOND).astype(np.int64), axis=0)
    logged, lateness = _reporting(world, ad, happened, probability, random)
    lag = ingest_lag(time.shape, random) + lateness
    return Outcomes(
        relevance=relevance,
        examination=examination,
        row=row,
        happened=happened,
        time=time,
        logged=logged,
        ingest=time + (lag * SECOND).astype(np.int64),
        step_probability=step_probability,
    )


def _delays(world: World, ad: NDArray[np.int32], steps: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Seconds [steps, C] from each step to the next; a third step takes longer for expensive things."""
    law, count = LAWS.delays, len(ad)
    click = log_normal(law.click_median, law.click_sigma, count, random)
    late = random.random(count) < law.click_late_share
    click[late] = law.click_late_scale * random.weibull(law.click_late_shape, int(late.sum()))
    dear = world.ads.price_z[ad] - world.price_centre
    scale = np.exp(law.third_price_slope * dear + world.delay_scale[world.ads.category[ad]])
    delays = [
        click,
        log_normal(law.second_median, law.second_sigma, count, random),
        law.third_scale * scale * random.weibull(law.third_shape, count),
    ]
    if steps == 4:
        delays.append(log_normal(law.fourth_median, law.fourth_sigma, count, random))
    return np.stack(delays)


def _reporting(
    world: World,
    ad: NDArray[np.int32],
    happened: NDArray[np.bool_],
    probability: NDArray[np.float64],
    random: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which steps enter the log, and extra seconds until they do, given how each advertiser reports.

    ``inflate`` fires third steps (and the second before it) on clicks that had none, so that m times as many are
    logged, at most all; ``drop`` loses the third step and what follows; ``late`` reports these days later.
    """
    law, advertiser = LAWS.noise, world.ads.advertiser[ad]
    kind = world.advertisers.noise[advertiser]
    chance = probability[0] * probability[1]
    wanted = np.minimum(chance * world.advertisers.inflation[advertiser], 1.0)
    fired = (kind == 1) & ~happened[2] & (random.random(len(ad)) < (wanted - chance) / np.maximum(1 - chance, 1e-9))
    dropped = (kind == 2) & (random.random(len(ad)) < law.drop_probability)
    logged = happened.copy()
    logged[1:3] |= fired
    logged[2:] &= ~dropped
    lateness = np.zeros(happened.shape)
    lateness[2:] = np.where(kind == 3, random.uniform(law.late_low_days, law.late_high_days, len(ad)) * 86_400, 0.0)
    return logged, lateness


def log_normal(median: float, sigma: float, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Log-normal draws [count] with this median."""
    return median * np.exp(sigma * random.standard_normal(count))


def ingest_lag(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """Seconds between an event and its arrival in the log; a few arrive a day or more later."""
    law = LAWS.delays
    lag = law.ingest_median * np.exp(law.ingest_sigma * random.standard_normal(shape))
    tail = law.ingest_late_start + law.ingest_late_mean * random.standard_exponential(shape)
    return np.where(random.random(shape) < law.ingest_late_share, tail, lag)
