"""One page after another: who asks what, which ads compete, which are shown where, and how likely each is clicked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.simulator.laws import CANDIDATES, CATEGORIES, EXAMINATION, LAWS, SLOTS
from ctr_pipeline.simulator.world import INTERESTS, Floats, Integers, World, stream
from ctr_pipeline.spec.fields import DAY_US, MICROSECONDS

HOUR_WEIGHTS = 1.0 + 0.6 * np.sin(2 * np.pi * (np.arange(24) - 10.0) / 24)
"""Relative traffic by hour of the day, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """The ads of one day. Ads of category c are ``shelf[first[c] : first[c] + size[c]]``.

    ``appeal`` [devices, ads] is the part of the click logit that device, ad and day determine; ``interests``
    [users, latent] are those of the day, and ``interest_weight`` says how much they matter.
    """

    shelf: Integers
    first: Integers
    size: Integers
    appeal: Floats
    interests: Floats
    interest_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Pages [n] in time order: ``start`` in microseconds since midnight."""

    start: NDArray[np.int64]
    user: Integers
    query: Integers
    random: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What pages showed, each [n, slots]: ads, click logit, examination, tendency to go on after a click, similarity."""

    ad: Integers
    logit: Floats
    examination: Floats
    step_logit: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """Who competes on pages, each [n, candidates]: ads, and the logit of a click on them."""

    ad: Integers
    logit: Floats


def open_market(world: World, day: int) -> Market:
    """The ads that compete on day number ``day``.

    A category with fewer ads than a page has candidates draws on all active ads; a market with fewer active ads, on all
    ads that have started.
    """
    ads = world.ads
    alive = np.flatnonzero((ads.start <= day) & (day < ads.end)).astype(np.int32)
    if len(alive) < CANDIDATES:
        alive = np.flatnonzero(ads.start <= day).astype(np.int32)
    ordered = alive[np.argsort(ads.category[alive], kind="stable")]
    size = np.bincount(ads.category[ordered], minlength=CATEGORIES).astype(np.int32)
    first = (np.cumsum(size) - size).astype(np.int32)
    thin = size < CANDIDATES
    first[thin], size[thin] = 0, len(ordered)
    by_category = world.device_category + world.drift[day]
    appeal = by_category[:, ads.category] + ads.bias + world.advertisers.bias[ads.advertiser]
    drift = world.settings.user_drift
    return Market(
        shelf=ordered,
        first=first,
        size=size,
        appeal=appeal.astype(np.float32),
        interests=interests_of_day(world, day),
        interest_weight=LAWS.appeal.user_ad if drift is None else drift.weight,
    )


def interests_of_day(world: World, day: int) -> Floats:
    """Interests [users, latent] on day number ``day``: a stationary path of each user, or always the same without drift.

    Each day keeps √(1 - renewed) of the day before, and adds √renewed of standard normal news.
    """
    drift, interests = world.settings.user_drift, world.users.latent
    if drift is None:
        return interests
    kept, new = np.float32(np.sqrt(1 - drift.renewed)), np.float32(np.sqrt(drift.renewed))
    for number in range(1, day + 1):
        news = stream(world.seed, INTERESTS, number).standard_normal(interests.shape, dtype=np.float32)
        interests = kept * interests + new * news
    return interests


def session_starts(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Sorted starts [count] in microseconds since midnight, more of them in the afternoon than at night."""
    edges = np.concatenate([[0.0], np.cumsum(HOUR_WEIGHTS / HOUR_WEIGHTS.sum())])
    hours = np.interp(random.random(count), edges, np.arange(25.0))
    starts: NDArray[np.int64] = np.sort((hours * MICROSECONDS["h"]).astype(np.int64))
    return np.minimum(starts, DAY_US - 1)


def draw_sessions(
    world: World,
    count: int,
    random_share: float,
    random: np.random.Generator,
    start: NDArray[np.int64] | None = None,
) -> Sessions:
    """``count`` pages; starts are drawn when not given."""
    users, queries = world.users, world.queries
    if start is None:
        start = session_starts(count, random)
    user_rank = np.minimum(np.searchsorted(users.cumulative, random.random(count)), len(users.by_rank) - 1)
    query = np.minimum(np.searchsorted(queries.cumulative, random.random(count)), len(queries.category) - 1)
    return Sessions(
        start=start,
        user=users.by_rank[user_rank],
        query=query.astype(np.int32),
        random=random.random(count) < random_share,
    )


def hold_contest(world: World, market: Market, sessions: Sessions, random: np.random.Generator) -> Contest:
    """Twelve candidates of each page's query category, and how likely the user clicks each that is looked at."""
    users, queries, ads, appeal = world.users, world.queries, world.ads, LAWS.appeal
    category, device = queries.category[sessions.query], users.device[sessions.user]
    candidates = _candidates(market, category, random)

    base = users.bias[sessions.user] + np.float32(appeal.hour) * np.sin(
        sessions.start * (2 * np.pi / DAY_US), dtype=np.float64
    ).astype(np.float32)
    base += np.float32(appeal.navigational) * queries.navigational[sessions.query]
    base += np.float32(world.intercept)
    taste = (
        np.float32(market.interest_weight) * market.interests[sessions.user]
        + np.float32(appeal.query_ad) * queries.latent[sessions.query]
    )
    flat_appeal = market.appeal.ravel()
    logit = (
        flat_appeal[candidates + device[:, None].astype(np.int32) * np.int32(market.appeal.shape[1])] + base[:, None]
    )
    for k in range(taste.shape[1]):
        logit += taste[:, k, None] * np.ascontiguousarray(ads.latent[:, k])[candidates]
    return Contest(ad=candidates, logit=logit)


def hold_auction(world: World, market: Market, sessions: Sessions, random: np.random.Generator) -> Shown:
    """Twelve candidates of the query's category compete; the five with the highest score are shown in that order."""
    users, ads, rank = world.users, world.ads, LAWS.auction
    contest = hold_contest(world, market, sessions, random)
    candidates, logit, device = contest.ad, contest.logit, users.device[sessions.user]

    score = np.float32(rank.noise) * random.standard_normal(candidates.shape, dtype=np.float32)
    shuffled = np.flatnonzero(sessions.random)
    score += np.float32(rank.logit_weight) * logit + np.float32(rank.bid_weight) * ads.log_bid[candidates]
    score[shuffled] = random.random((len(shuffled), candidates.shape[1]), dtype=np.float32)
    top = np.argsort(-score, axis=1, kind="stable")[:, :SLOTS]

    ad = np.take_along_axis(candidates, top, axis=1)
    step_logit = np.float32(LAWS.funnel.intent) * users.intent[sessions.user][:, None]
    return Shown(
        ad=ad,
        logit=np.take_along_axis(logit, top, axis=1),
        examination=np.asarray(EXAMINATION, np.float32)[device],
        step_logit=step_logit - np.float32(LAWS.funnel.price) * ads.price_z[ad],
    )


def _candidates(market: Market, category: NDArray[np.int8], random: np.random.Generator) -> Integers:
    """Distinct ads [n, candidates] from each page's shelf: one from each of twelve equal intervals, randomly turned."""
    count = len(category)
    size, first = market.size[category], market.first[category]
    turn = (random.random(count, dtype=np.float32) * size).astype(np.int32)
    interval = np.maximum(size // CANDIDATES, 1)
    within = (random.random((count, CANDIDATES), dtype=np.float32) * interval[:, None]).astype(np.int32)
    place = turn[:, None] + interval[:, None] * np.arange(CANDIDATES, dtype=np.int32) + within
    candidates: Integers = market.shelf[first[:, None] + place % size[:, None]]
    return candidates
