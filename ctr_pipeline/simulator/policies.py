"""Another ranking in the simulated marketplace: what a log of random orders says of it, and what it would truly bring."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ctr_pipeline.simulator.auction import Contest, Sessions, draw_sessions, hold_contest, open_market
from ctr_pipeline.simulator.laws import CANDIDATES, EXAMINATION, SLOTS
from ctr_pipeline.simulator.world import POLICY, Floats, Integers, World, stream

Scores = Callable[[World, Sessions, Contest], Floats]
"""The score [n, candidates] by which a policy ranks the candidates of pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLog:
    """A log of pages whose candidates were shown in random order, and what a candidate policy would have done there.

    The policy ranks by a score, or with the chance ``explored`` at random. Arrays are [N], a row for each slot of each page.

    Attributes:
        clicked: Whether what was shown was clicked.
        relevance: Chance of a click on it where it is looked at.
        propensity: Chance with which it was shown in its slot.
        candidate: Chance with which the policy would have shown it there.
        slot: From 0.
        user: Index of the user.
        device: Code of the device.
        ad: Index of the ad.
        score: Of the ad by the policy's score.
        choice: Index of the ad that the policy shows there where it does not rank at random.
        choice_score: Its score.
        truth: Chance of a click in this slot under the policy.
        random_truth: Chance of a click in this slot in random order.
    """

    clicked: NDArray[np.bool_]
    relevance: Floats
    propensity: Floats
    candidate: Floats
    slot: NDArray[np.int64]
    user: NDArray[np.int64]
    device: NDArray[np.int64]
    ad: NDArray[np.int64]
    score: Floats
    choice: NDArray[np.int64]
    choice_score: Floats
    truth: Floats
    random_truth: Floats


def policy_log(world: World, day: int, pages: int, scores: Scores, explored: float, number: int = 0) -> PolicyLog:
    """A random log of ``pages`` pages of day number ``day``, beside a policy.

    Clicks in the slots of a page do not depend on each other, so a slot's value depends on the ad there alone.

    Args:
        world: The marketplace.
        day: Days since its first one.
        pages: Pages.
        scores: By what the policy ranks.
        explored: Chance that it ranks a page at random.
        number: Another number gives other pages.
    """
    random = stream(world.seed, POLICY, day, number)
    sessions = draw_sessions(world, pages, 1.0, random)
    contest = hold_contest(world, open_market(world, day), sessions, random)
    device = world.users.device[sessions.user]
    examination = np.asarray(EXAMINATION, np.float32)[device]
    relevance = expit(contest.logit)
    score = scores(world, sessions, contest)
    order = np.argsort(random.random(contest.ad.shape), axis=1)[:, :SLOTS]
    chosen = np.argsort(-score, axis=1, kind="stable")[:, :SLOTS]

    def taken(values: Floats | Integers, places: NDArray[np.int64]) -> Floats:
        return np.take_along_axis(values, places, axis=1).ravel().astype(np.float32)

    shown = taken(relevance, order)
    seen = examination.ravel()
    mean = np.repeat(relevance.mean(axis=1), SLOTS)
    own = (order == chosen).ravel()
    return PolicyLog(
        clicked=random.random(len(shown)) < seen * shown,
        relevance=shown,
        propensity=np.full(len(shown), 1 / CANDIDATES, np.float32),
        candidate=((1 - explored) * own + explored / CANDIDATES).astype(np.float32),
        slot=np.tile(np.arange(SLOTS), pages),
        user=np.repeat(sessions.user.astype(np.int64), SLOTS),
        device=np.repeat(device.astype(np.int64), SLOTS),
        ad=taken(contest.ad, order).astype(np.int64),
        score=taken(score, order),
        choice=taken(contest.ad, chosen).astype(np.int64),
        choice_score=taken(score, chosen),
        random_truth=(seen * mean).astype(np.float32),
        truth=(seen * ((1 - explored) * taken(relevance, chosen) + explored * mean)).astype(np.float32),
    )
