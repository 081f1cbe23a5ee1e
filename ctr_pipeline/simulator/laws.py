"""The laws of the simulated marketplace: every constant of it, each in its unit."""

from dataclasses import dataclass

CANDIDATES = 12
"""Ads that compete for the slots of one page."""

SLOTS = 5
"""Ads that a page shows."""

CATEGORIES = 30
"""Product categories that ads, queries and drift belong to."""

LATENT = 6
"""Dimension of the latent vectors of users, queries and ads."""

DEVICES = ("mobile", "desktop", "tablet")
DEVICE_SHARES = (0.60, 0.32, 0.08)

EXAMINATION = ((1.0, 0.62, 0.44, 0.33, 0.26), (1.0, 0.74, 0.59, 0.49, 0.42), (1.0, 0.68, 0.51, 0.40, 0.33))
"""Probability that a user looks at a slot: rows are :data:`DEVICES`, columns are positions 1 to 5."""

CLICK_RATE = 0.011
"""Clicks per impression over the whole period; the intercept of the logit is solved for it."""


@dataclass(frozen=True, slots=True)
class Popularity:
    """Zipf exponents: the r-th most popular entity has a share proportional to r to the power of minus this."""

    users: float = 0.8
    queries: float = 1.0
    advertisers: float = 0.7
    geo: float = 1.0


@dataclass(frozen=True, slots=True)
class Appeal:
    """Standard deviations and coefficients of the click logit.

    Navigational queries are the heavy tail without which no AUC near .8 goes with an average precision near .2 at this
    click rate: .6 % of the impressions, more than a third of them clicked, give a fifth of all clicks.
    """

    user: float = 0.45
    ad: float = 0.45
    advertiser: float = 0.25
    user_ad: float = 0.60
    query_ad: float = 0.65
    device_category: float = 0.40
    drift_memory: float = 0.9
    drift_step: float = 0.12
    hour: float = 0.2
    navigational: float = 5.7
    navigational_share: float = 0.0062
    category_share: float = 0.5
    """Share of the variance of an ad's latent vector that its category explains."""


@dataclass(frozen=True, slots=True)
class Auction:
    """The production ranker's score: logit_weight · logit + bid_weight · ln(bid) + N(0, noise)."""

    logit_weight: float = 0.7
    bid_weight: float = 0.5
    bid_sd: float = 0.6
    noise: float = 0.8


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """When ads are active."""

    mid_period: float = 0.4
    mean_days: float = 25.0
    minimum_days: float = 3.0


@dataclass(frozen=True, slots=True)
class Delays:
    """Delay laws in seconds. LN(m, s) is log-normal with median m; Weibull(k, λ) has survival exp(-(t/λ)^k)."""

    click_median: float = 8.0
    click_sigma: float = 1.6
    click_late_share: float = 0.03
    click_late_scale: float = 43_200.0
    click_late_shape: float = 0.7
    second_median: float = 1_740.0
    second_sigma: float = 2.2
    third_scale: float = 172_800.0
    third_shape: float = 0.65
    third_price_slope: float = 0.5
    third_category_sd: float = 0.4
    fourth_median: float = 129_600.0
    fourth_sigma: float = 0.7
    ingest_median: float = 30.0
    ingest_sigma: float = 1.5
    ingest_late_share: float = 0.001
    ingest_late_start: float = 86_400.0
    ingest_late_mean: float = 43_200.0


@dataclass(frozen=True, slots=True)
class Funnel:
    """Click-weighted mean probability of each step given the one before, and what moves it."""

    rates: tuple[float, float, float] = (0.45, 0.50, 0.45)
    intent: float = 0.5
    price: float = 0.35


@dataclass(frozen=True, slots=True)
class Noise:
    """What advertisers and collectors do to the log."""

    inflate_share: float = 0.03
    inflate_low: float = 5.0
    inflate_high: float = 10.0
    drop_share: float = 0.03
    drop_probability: float = 0.8
    late_share: float = 0.02
    late_low_days: float = 2.0
    late_high_days: float = 10.0
    missing_geo: float = 0.02
    missing_new_ad: float = 0.08
    new_ad_days: int = 7


@dataclass(frozen=True, slots=True)
class Laws:
    """All laws together."""

    popularity: Popularity = Popularity()
    appeal: Appeal = Appeal()
    auction: Auction = Auction()
    lifetimes: Lifetimes = Lifetimes()
    delays: Delays = Delays()
    funnel: Funnel = Funnel()
    noise: Noise = Noise()


LAWS = Laws()
"""The world that `ctr run` simulates."""
