"""Who takes part in the marketplace: users, queries, advertisers and ads with their latent traits."""

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from ctr_pipeline.errors import UserError
from ctr_pipeline.simulator.laws import CATEGORIES, DEVICE_SHARES, DEVICES, LATENT, LAWS
from ctr_pipeline.spec.simulator import SimulatorSettings

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Bytes = NDArray[np.bytes_]

NOISE_KINDS = ("none", "inflate", "drop", "late")
"""How an advertiser reports its outcomes; the index is the code in :attr:`Advertisers.noise`."""

SYSTEMS = ("android", "ios", "windows", "macos", "linux", "other")
DEVICE_SYSTEMS = ((0, 1, 5), (2, 3, 4), (1, 0, 5))
"""Operating systems of each device, the most common first."""

GEO = tuple(f"r{number:02d}" for number in range(40))


class SimulatorError(UserError):
    """A request that the simulated marketplace cannot meet."""


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one purpose: a generator that depends on ``seed`` and ``key`` alone."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, *key])))


# First element of the key of each stream.
USERS, QUERIES, ADVERTISERS, ADS, EFFECTS, PILOT, DAY, INCIDENT, INTERESTS, POLICY = range(1, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """Users by index. ``cumulative`` [U] is the distribution of traffic by popularity rank, ``by_rank`` [U] the users."""

    ids: Bytes
    cumulative: NDArray[np.float64]
    by_rank: Integers
    latent: Floats
    bias: Floats
    intent: Floats
    device: NDArray[np.int8]
    system: NDArray[np.int8]
    geo: NDArray[np.int8]
    tenure: Integers
    sessions_30d: Integers
    logged_in: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Queries by index, the most popular first."""

    ids: Bytes
    cumulative: NDArray[np.float64]
    latent: Floats
    category: NDArray[np.int8]
    navigational: NDArray[np.bool_]
    length: NDArray[np.int16]
    results: Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisers:
    """Advertisers by index."""

    ids: Bytes
    bias: Floats
    rating: Floats
    noise: NDArray[np.int8]
    inflation: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Ads:
    """Ads by index. ``start`` and ``end`` are days since the first day, alive while start <= day < end."""

    ids: Bytes
    advertiser: Integers
    category: NDArray[np.int8]
    latent: Floats
    bias: Floats
    price_z: Floats
    log_bid: Floats
    start: Integers
    end: Integers
    price: Floats
    discount: Floats
    rating: Floats
    reviews: Integers
    stock: Floats
    title_length: NDArray[np.int16]
    image_quality: Floats
    delivery_days: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything about the marketplace that no single day changes.

    ``drift`` [days, categories] is the AR(1) path of the category effects, ``device_category`` [devices, categories],
    ``centres`` [categories, latent], ``delay_scale`` [categories] the log of the third step's delay scale relative to
    its law, ``price_centre`` the mean price trait of ads where the third step happens. ``intercept`` and ``step_intercepts`` are solved so that the click rate and funnel rates come out.
    """

    settings: SimulatorSettings
    seed: int
    users: Users
    queries: Queries
    advertisers: Advertisers
    ads: Ads
    centres: Floats
    device_category: Floats
    drift: Floats
    delay_scale: Floats
    intercept: float = 0.0
    step_intercepts: tuple[float, ...] = (0.0, 0.0, 0.0)
    price_centre: float = 0.0

    def day_index(self, day: date) -> int:
        """Days since the first simulated day.

        Raises:
            SimulatorError: ``day`` is outside the simulated period.
        """
        index = (day - self.settings.first_day).days
        if not 0 <= index < self.settings.days:
            raise SimulatorError(
                f"day {day} is not simulated: the period is {self.settings.days} days from {self.settings.first_day}. "
                "Ask for a day of it, or raise `source.simulator.days` in the spec."
            )
        return index


def draw_world(settings: SimulatorSettings, seed: int) -> World:
    """The marketplace that ``settings`` and ``seed`` determine, its intercepts still 0."""
    effects = stream(seed, EFFECTS)
    appeal = LAWS.appeal
    centres = effects.standard_normal((CATEGORIES, LATENT), dtype=np.float32) / np.float32(np.sqrt(LATENT))
    device_category = np.float32(appeal.device_category) * effects.standard_normal(
        (len(DEVICES), CATEGORIES), dtype=np.float32
    )
    delay_scale = np.float32(LAWS.delays.third_category_sd) * effects.standard_normal(CATEGORIES, dtype=np.float32)
    return World(
        settings=settings,
        seed=seed,
        users=_users(settings, seed),
        queries=_queries(settings, seed),
        advertisers=_advertisers(settings, seed),
        ads=_ads(settings, seed, centres),
        centres=centres,
        device_category=device_category,
        drift=_drift(settings.days, effects),
        delay_scale=delay_scale,
    )


def _drift(days: int, random: np.random.Generator) -> Floats:
    """Stationary AR(1) paths [days, categories]; a longer period continues the same paths."""
    memory, step = LAWS.appeal.drift_memory, LAWS.appeal.drift_step
    path = np.empty((days, CATEGORIES))
    level = random.standard_normal(CATEGORIES) * step / np.sqrt(1 - memory**2)
    for day in range(days):
        path[day] = level
        level = memory * level + step * random.standard_normal(CATEGORIES)
    return path.astype(np.float32)


def zipf_shares(count: int, exponent: float) -> NDArray[np.float64]:
    """Shares [count] of a Zipf law, the largest first; they sum to 1."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def entity_ids(prefix: str, count: int, width: int) -> Bytes:
    """Ids such as ``u0000012`` as fixed-width bytes [count]."""
    width = max(width, len(str(count - 1)))
    return np.char.add(prefix, np.char.zfill(np.arange(count).astype(f"U{width}"), width)).astype("S")


def _blend(parts: list[tuple[float, Floats]], random: np.random.Generator) -> Floats:
    """A standard normal trait that is the weighted sum of standard normal parts and of a rest that nothing shows."""
    rest = np.sqrt(1 - sum(weight**2 for weight, _ in parts))
    total = np.float32(rest) * random.standard_normal(len(parts[0][1]), dtype=np.float32)
    for weight, part in parts:
        total += np.float32(weight) * part
    return total


def _users(settings: SimulatorSettings, seed: int) -> Users:
    random, count = stream(seed, USERS), settings.users
    shares = zipf_shares(count, LAWS.popularity.users)
    by_rank = random.permutation(count).astype(np.int32)
    rank = np.empty(count, np.int32)
    rank[by_rank] = np.arange(count, dtype=np.int32)
    tenure_z = random.standard_normal(count, dtype=np.float32)
    geo_shares = zipf_shares(len(GEO), LAWS.popularity.geo)
    geo = random.choice(len(GEO), size=count, p=geo_shares).astype(np.int8)
    geo_effect = random.standard_normal(len(GEO))
    geo_effect -= geo_shares @ geo_effect
    geo_effect /= np.sqrt(geo_shares @ geo_effect**2)
    device = random.choice(len(DEVICES), size=count, p=DEVICE_SHARES).astype(np.int8)
    monthly = shares[rank] * settings.sessions_per_day * 30
    return Users(
        ids=entity_ids("u", count, 7),
        cumulative=np.cumsum(shares),
        by_rank=by_rank,
        latent=random.standard_normal((count, LATENT), dtype=np.float32),
        bias=np.float32(LAWS.appeal.user)
        * _blend([(0.5, tenure_z), (0.3, geo_effect[geo].astype(np.float32))], random),
        intent=_blend([(0.6, tenure_z)], random),
        device=device,
        system=np.array(DEVICE_SYSTEMS, np.int8)[device, random.choice(3, size=count, p=(0.6, 0.35, 0.05))],
        geo=geo,
        tenure=np.clip(np.exp(5.5 + 1.5 * tenure_z), 0, 5_000).astype(np.int32),
        sessions_30d=random.poisson(monthly * np.exp(0.3 * random.standard_normal(count))).astype(np.int32),
        logged_in=random.random(count) < 1 / (1 + np.exp(-0.5 - tenure_z)),
    )


def _queries(settings: SimulatorSettings, seed: int) -> Queries:
    random, count = stream(seed, QUERIES), settings.queries
    shares = zipf_shares(count, LAWS.popularity.queries)
    navigational = _navigational(shares, random)
    # Brands are asked for in one or two words and have few results; some other queries look like that too.
    length = 1 + random.poisson(np.where(navigational, 0.4, 2.2))
    few = navigational | (random.random(count) < 0.03)
    results = np.where(few, 1 + random.poisson(3.0, count), 10 + 40 * random.pareto(1.5, count))
    return Queries(
        ids=entity_ids("q", count, 6),
        cumulative=np.cumsum(shares),
        latent=random.standard_normal((count, LATENT), dtype=np.float32),
        category=random.integers(0, CATEGORIES, count).astype(np.int8),
        navigational=navigational,
        length=length.astype(np.int16),
        results=np.minimum(results, 1e6).astype(np.int32),
    )


def _navigational(shares: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.bool_]:
    """Queries outside the head, drawn until they have the navigational share of the traffic."""
    wanted = LAWS.appeal.navigational_share
    fits = np.flatnonzero(shares <= wanted / 3)
    drawn = random.permutation(fits)
    taken = drawn[np.cumsum(shares[drawn]) <= wanted]
    mask = np.zeros(len(shares), np.bool_)
    mask[taken] = True
    # One query of the remaining size brings the share closer to the law.
    rest = wanted - shares[taken].sum()
    others = np.flatnonzero(~mask)
    best = others[np.argmin(np.abs(shares[others] - rest))]
    if abs(shares[best] - rest) < rest:
        mask[best] = True
    return mask


def _advertisers(settings: SimulatorSettings, seed: int) -> Advertisers:
    random, count, noise = stream(seed, ADVERTISERS), settings.advertisers, LAWS.noise
    trait = random.standard_normal(count, dtype=np.float32)
    kinds = np.zeros(count, np.int8)
    order = random.permutation(count)
    first = 0
    for code, share in ((1, noise.inflate_share), (2, noise.drop_share), (3, noise.late_share)):
        last = first + round(share * count)
        kinds[order[first:last]] = code
        first = last
    rating = 3.7 + 0.5 * (trait + 0.5 * random.standard_normal(count))
    return Advertisers(
        ids=entity_ids("v", count, 4),
        bias=np.float32(LAWS.appeal.advertiser) * trait,
        rating=np.clip(np.round(rating, 1), 1, 5).astype(np.float32),
        noise=kinds,
        inflation=random.uniform(noise.inflate_low, noise.inflate_high, count).astype(np.float32),
    )


def _ads(settings: SimulatorSettings, seed: int, centres: Floats) -> Ads:
    random, count, life = stream(seed, ADS), settings.ads, LAWS.lifetimes
    shares = zipf_shares(settings.advertisers, LAWS.popularity.advertisers)
    category = random.integers(0, CATEGORIES, count).astype(np.int8)
    shared = LAWS.appeal.category_share
    own = random.standard_normal((count, LATENT), dtype=np.float32) / np.float32(np.sqrt(LATENT))
    price_z, discount_z, rating_z, image_z, delivery_z = random.standard_normal((5, count), dtype=np.float32)
    later = random.random(count) < life.mid_period
    mid = random.integers(1, max(settings.days, 2), count)
    age = np.floor(random.exponential(life.mean_days, count))
    start = np.where(later, mid, -age)
    lasts = np.ceil(random.exponential(life.mean_days, count) + life.minimum_days)
    return Ads(
        ids=entity_ids("a", count, 6),
        advertiser=random.choice(settings.advertisers, size=count, p=shares).astype(np.int32),
        category=category,
        latent=np.float32(np.sqrt(shared)) * centres[category] + np.float32(np.sqrt(1 - shared)) * own,
        bias=np.float32(LAWS.appeal.ad)
        * _blend([(-0.35, price_z), (0.25, discount_z), (0.4, rating_z), (0.4, image_z), (-0.25, delivery_z)], random),
        price_z=price_z,
        log_bid=np.float32(LAWS.auction.bid_sd) * random.standard_normal(count, dtype=np.float32),
        start=start.astype(np.int32),
        end=(np.where(later, mid, 0) + lasts).astype(np.int32),
        price=np.exp(3.4 + 1.5 * price_z).round(2).astype(np.float32),
        discount=np.clip(np.round(18 * discount_z), 0, 90).astype(np.float32),
        rating=np.clip(np.round(4.0 + 0.4 * (rating_z + 0.5 * random.standard_normal(count)), 1), 1, 5).astype(
            np.float32
        ),
        reviews=np.clip(20 * random.pareto(1.5, count), 0, 1e6).astype(np.int32),
        stock=np.exp(3.0 + 2.0 * random.standard_normal(count)).astype(np.float32),
        title_length=np.clip(60 + 18 * random.standard_normal(count), 8, 150).astype(np.int16),
        image_quality=np.clip(0.6 + 0.15 * (image_z + 0.4 * random.standard_normal(count)), 0, 1).astype(np.float32),
        # The quantile of the trait turned into a Pareto(1.5) tail: slow deliveries are rare and very slow.
        delivery_days=(ndtr(-delivery_z.astype(np.float64)) ** (-1 / 1.5)).clip(1, 500).round(1).astype(np.float32),
    )
