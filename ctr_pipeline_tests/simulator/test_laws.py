"""The declared laws, recovered from the logs.

Every comparison allows 3 standard errors, so with a fresh seed it fails by chance with probability .0027. A test that
makes n comparisons fails with probability below .0027 n, which each docstring states; all of them together, one time in
five. Seeds are fixed, so that a failure here means that a law has changed.
"""

import math

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

from ctr_pipeline.simulator.laws import CATEGORIES, CLICK_RATE, DEVICES, EXAMINATION, LAWS
from ctr_pipeline.simulator.world import draw_world, zipf_shares
from ctr_pipeline.spec.simulator import SimulatorSettings
from ctr_pipeline_tests.simulator.conftest import Log

DELAYS, NOISE = LAWS.delays, LAWS.noise


def assert_share(mask: NDArray[np.bool_], share: float) -> None:
    error = math.sqrt(share * (1 - share) / len(mask))
    assert abs(mask.mean() - share) <= 3 * error, (
        f"share {mask.mean():.5f} of {len(mask)}, law {share:.5f} ± {error:.5f}"
    )


def indices(ids: pl.Series) -> NDArray[np.int64]:
    return ids.str.slice(1).cast(pl.Int64).to_numpy()


def clicks(log: Log) -> pl.DataFrame:
    """Logged events as a row an impression: time and arrival of each step, with the impression's columns."""
    wide = log.events.pivot("event_type", index="impression_id", values=["event_ts", "ingest_ts"])
    truth = log.truth.select("impression_id", "advertiser_noise", "fired", "lost")
    return wide.join(log.impressions, on="impression_id").join(truth, on="impression_id")


def seconds(frame: pl.DataFrame, later: str, earlier: str) -> NDArray[np.float64]:
    both = frame.filter(pl.col(later).is_not_null() & pl.col(earlier).is_not_null())
    return both.select((pl.col(later) - pl.col(earlier)).dt.total_microseconds()).to_series().to_numpy() / 1e6


def test_position_effects_show_in_random_sessions(log: Log) -> None:
    """12 comparisons; chance of a false failure below 3.3 %."""
    clicked = log.events.filter(pl.col("event_type") == "click").select("impression_id", click=True)
    table = (
        log.impressions.filter(pl.col("traffic") == "random")
        .join(clicked, on="impression_id")
        .group_by("device_type", "position")
        .len()
    )
    count = {(device, position): n for device, position, n in table.iter_rows()}
    for device, law in zip(DEVICES, EXAMINATION, strict=True):
        for position in range(2, 6):
            here, first = count[device, position], count[device, 1]
            ratio, error = here / first, here / first * math.sqrt(1 / here + 1 / first)
            assert abs(ratio - law[position - 1]) <= 3 * error, (device, position, ratio, error)


def test_random_sessions_have_their_share_and_no_order(log: Log) -> None:
    """6 comparisons; chance of a false failure below 1.7 %. Production sessions do rank: their first slot is best."""
    pages = log.impressions.unique("session_id")
    assert_share((pages["traffic"] == "random").to_numpy(), 0.25)
    relevance = log.truth.with_columns(logit=(pl.col("relevance") / (1 - pl.col("relevance"))).log())
    by_position = relevance.group_by("traffic", "position").agg(
        pl.col("logit").mean(), sd=pl.col("logit").std(), n=pl.len()
    )
    random = by_position.filter(pl.col("traffic") == "random").sort("position")
    errors = (random["sd"] / random["n"].sqrt()).to_numpy()
    assert (np.abs(random["logit"].to_numpy() - random["logit"].mean()) <= 3 * errors).all()
    production = by_position.filter(pl.col("traffic") == "production").sort("position")["logit"].to_numpy()
    assert (np.diff(production) < 0).all()


def test_clicks_follow_their_probabilities(log: Log) -> None:
    """15 comparisons; chance of a false failure below 4.1 %. And p is examination times relevance, everywhere."""
    happened = log.truth.with_columns(p=pl.col("click_probability").cast(pl.Float64))
    cells = happened.group_by("position", "device_type").agg(
        clicks=pl.col("click_ts").is_not_null().sum(),
        expected=pl.col("p").sum(),
        variance=(pl.col("p") * (1 - pl.col("p"))).sum(),
    )
    assert len(cells) == 15
    assert ((cells["clicks"] - cells["expected"]).abs() <= 3 * cells["variance"].sqrt()).all()
    product = log.truth["examination"].to_numpy() * log.truth["relevance"].to_numpy()
    np.testing.assert_allclose(log.truth["click_probability"].to_numpy(), product, rtol=1e-6)
    for device, law in zip(DEVICES, EXAMINATION, strict=True):
        of_device = log.truth.filter(pl.col("device_type") == device).select("position", "examination").unique()
        np.testing.assert_allclose(of_device.sort("position")["examination"].to_numpy(), law, rtol=1e-6)


def test_click_and_funnel_rates_are_those_declared(log: Log) -> None:
    """Rates are solved on a pilot sample, whose own error is the tolerance: 4 % for clicks, .01 for each later step."""
    p = log.truth["click_probability"].to_numpy().astype(float)
    assert p.mean() == pytest.approx(CLICK_RATE, rel=0.04)
    weights = p
    for step, rate in zip(("application", "conversion", "approval"), LAWS.funnel.rates, strict=True):
        probability = log.truth[f"{step}_probability"].to_numpy().astype(float)
        assert np.average(probability, weights=weights) == pytest.approx(rate, abs=0.01)
        weights = weights * probability


def test_click_delays(log: Log) -> None:
    """6 comparisons; chance of a false failure below 1.7 %."""
    delay = seconds(clicks(log), "event_ts_click", "ts")
    for at in (1.0, 8.0, 60.0, 3_600.0, 43_200.0, 86_400.0):
        soon = ndtr(math.log(at / DELAYS.click_median) / DELAYS.click_sigma)
        late = -math.expm1(-((at / DELAYS.click_late_scale) ** DELAYS.click_late_shape))
        assert_share(delay <= at, (1 - DELAYS.click_late_share) * soon + DELAYS.click_late_share * late)
    assert (delay <= 86_400).mean() == pytest.approx(0.994, abs=0.002)


def test_second_and_fourth_step_delays(log: Log) -> None:
    """8 comparisons; chance of a false failure below 2.2 %."""
    wide = clicks(log)
    for later, earlier, median, sigma in (
        ("application", "click", DELAYS.second_median, DELAYS.second_sigma),
        ("approval", "conversion", DELAYS.fourth_median, DELAYS.fourth_sigma),
    ):
        delay = seconds(wide, f"event_ts_{later}", f"event_ts_{earlier}")
        assert len(delay) > 1_000
        for z in (-1.3, 0.0, 1.0, 2.0):
            assert_share(delay <= median * math.exp(sigma * z), float(ndtr(z)))


def test_third_step_delays(log: Log) -> None:
    """4 comparisons; chance of a false failure below 1.1 %. The scale depends on category and price as declared."""
    wide = clicks(log).filter(pl.col("event_ts_conversion").is_not_null())
    ad = indices(wide["ad_id"])
    ads = log.world.ads
    dear = ads.price_z[ad] - log.world.price_centre
    scale = np.exp(DELAYS.third_price_slope * dear + log.world.delay_scale[ads.category[ad]])
    delay = seconds(wide, "event_ts_conversion", "event_ts_application") / (DELAYS.third_scale * scale)
    for survival in (0.9, 0.5, 0.2, 0.05):
        assert_share(delay > (-math.log(survival)) ** (1 / DELAYS.third_shape), survival)
    out = seconds(wide, "event_ts_conversion", "event_ts_click") >= 14 * 86_400
    assert 0.03 < out.mean() < 0.08


def test_ingest_lags_and_their_late_tail(log: Log) -> None:
    """5 comparisons; chance of a false failure below 1.4 %."""
    wide = clicks(log)
    lags = np.concatenate([seconds(wide, f"ingest_ts_{step}", f"event_ts_{step}") for step in ("click", "application")])
    law = DELAYS
    for z in (-1.0, 0.0, 1.5, 3.0):
        at = law.ingest_median * math.exp(law.ingest_sigma * z)
        assert_share(lags <= at, (1 - law.ingest_late_share) * float(ndtr(z)))
    assert_share(lags > law.ingest_late_start, law.ingest_late_share)


def test_missing_values(log: Log) -> None:
    """2 comparisons; chance of a false failure below .6 %."""
    pages = log.impressions.unique("session_id")
    assert_share(pages["geo"].is_null().to_numpy(), NOISE.missing_geo)
    unknown = pl.col("rating").is_null()
    new = log.impressions.filter(pl.col("ad_age_days") < NOISE.new_ad_days)
    assert_share(new["rating"].is_null().to_numpy(), NOISE.missing_new_ad)
    old = log.impressions.filter(pl.col("ad_age_days") >= NOISE.new_ad_days)
    assert old.filter(unknown).is_empty()
    assert log.impressions.filter(unknown != pl.col("review_count").is_null()).is_empty()
    rest = log.impressions.drop("geo", "rating", "review_count")
    assert rest.null_count().sum_horizontal().item() == 0


@pytest.mark.parametrize("entity", ["users", "queries", "advertisers"])
def test_zipf_exponents(log: Log, entity: str) -> None:
    """1 comparison each, by maximum likelihood on true ranks; chance of a false failure .3 % each."""
    pages = log.impressions.unique("session_id")
    if entity == "users":
        rank = np.empty(log.world.settings.users)
        rank[log.world.users.by_rank] = np.arange(1, len(rank) + 1)
        seen, exponent = rank[indices(pages["user_id"])], LAWS.popularity.users
    elif entity == "queries":
        seen, exponent = indices(pages["query_id"]) + 1.0, LAWS.popularity.queries
    else:
        seen, exponent = log.world.ads.advertiser + 1.0, LAWS.popularity.advertisers
    logs = np.log(np.arange(1, getattr(log.world.settings, entity) + 1))
    guess = exponent
    for _ in range(20):  # Newton: the mean log rank of the sample equals that of the law
        shares = zipf_shares(len(logs), guess)
        mean = shares @ logs
        information = shares @ logs**2 - mean**2
        guess += (mean - np.log(seen).mean()) / information
    assert abs(guess - exponent) <= 3 / math.sqrt(len(seen) * information)


def test_category_effects_drift_as_an_autoregression() -> None:
    """2 comparisons; chance of a false failure below .6 %. A longer period continues the same path."""
    small = SimulatorSettings(days=365, sessions_per_day=10, users=10, queries=10, advertisers=2, ads=20)
    path = draw_world(small, 3).drift.astype(float)
    before, after = path[:-1].ravel(), path[1:].ravel()
    memory = before @ after / (before @ before)
    step = after - memory * before
    law = LAWS.appeal
    assert abs(memory - law.drift_memory) <= 3 * math.sqrt((1 - law.drift_memory**2) / len(before))
    assert abs(step.std() - law.drift_step) <= 3 * law.drift_step / math.sqrt(2 * len(step))
    shorter = draw_world(small.model_copy(update={"days": 40}), 3).drift
    np.testing.assert_array_equal(shorter, path[:40].astype(np.float32))


def test_the_drift_moves_the_click_logits_of_each_day(log: Log) -> None:
    """1 comparison; chance of a false failure .3 %. Slope 1 of mean logits on the drift, ads held fixed."""
    frame = log.truth.select("impression_id", "relevance", "ts").join(
        log.impressions.select("impression_id", "ad_id", "device_type"), on="impression_id"
    )
    days = (frame["ts"].dt.date() - log.first).dt.total_days().to_numpy()
    ad = indices(frame["ad_id"])
    drift = log.world.drift[days, log.world.ads.category[ad]]
    relevance = frame["relevance"].to_numpy().astype(float)
    cells = pl.DataFrame({"ad": ad, "y": np.log(relevance / (1 - relevance)), "x": drift.astype(float)}).with_columns(
        pl.col("y", "x") - pl.col("y", "x").mean().over("ad")
    )
    x, y = cells["x"].to_numpy(), cells["y"].to_numpy()
    slope = x @ y / (x @ x)
    # Rows of a page share user and query, so errors are clustered by page: five times the variance bounds them.
    error = math.sqrt(5 * (y - slope * x).var() / (x @ x))
    assert abs(slope - 1) <= 3 * error
    assert error < 0.1


def test_navigational_queries_are_the_heavy_tail(log: Log) -> None:
    """1 comparison; chance of a false failure .3 %. A small share of the traffic gives a quarter of the clicks."""
    pages = log.impressions.unique("session_id")
    law = LAWS.appeal.navigational_share
    drawn = log.world.queries.navigational[indices(pages["query_id"])]
    share = np.diff(log.world.queries.cumulative, prepend=0.0)[log.world.queries.navigational].sum()
    assert share == pytest.approx(law, rel=0.1)
    assert_share(drawn, share)
    navigational = log.world.queries.navigational[indices(log.impressions["query_id"])]
    p = log.truth["click_probability"].to_numpy()
    assert 0.35 < p[navigational].mean() < 0.5
    assert 0.2 < p[navigational].sum() / p.sum() < 0.33


def test_ads_come_and_go() -> None:
    """2 comparisons; chance of a false failure below .6 %."""
    settings = SimulatorSettings(days=50, ads=20_000, users=10, queries=10)
    ads = draw_world(settings, 2).ads
    law = LAWS.lifetimes
    assert_share(ads.start > 0, law.mid_period)
    lives = (ads.end - np.maximum(ads.start, 0)).astype(float)
    # A life is 3 days plus an exponential number of days, rounded up: geometric, mean and deviation below.
    end = math.exp(-1 / law.mean_days)
    mean, deviation = law.minimum_days + 1 / (1 - end), math.sqrt(end) / (1 - end)
    assert abs(lives.mean() - mean) <= 3 * deviation / math.sqrt(len(lives))
    assert lives.min() > law.minimum_days


def test_only_living_ads_are_shown(log: Log) -> None:
    day = (log.impressions["ts"].dt.date() - log.first).dt.total_days().to_numpy()
    ad = indices(log.impressions["ad_id"])
    ads = log.world.ads
    assert ((ads.start[ad] <= day) & (day < ads.end[ad])).all()
    np.testing.assert_array_equal(log.impressions["ad_age_days"].to_numpy(), day - ads.start[ad])


def test_advertisers_misreport_as_declared(log: Log) -> None:
    """4 comparisons; chance of a false failure below 1.1 %."""
    kinds = np.bincount(log.world.advertisers.noise, minlength=4)
    assert kinds.tolist() == [184, 6, 6, 4]
    clicked = log.truth.filter(pl.col("click_ts").is_not_null())
    logged = log.events.filter(pl.col("event_type") == "conversion").select("impression_id", "ingest_ts", "event_ts")
    clicked = clicked.join(logged, on="impression_id", how="left").with_columns(
        happened=pl.col("conversion_ts").is_not_null(), logged=pl.col("event_ts").is_not_null()
    )
    honest = clicked.filter(pl.col("advertiser_noise").is_in(["none", "late"]))
    assert honest.filter(pl.col("happened") != pl.col("logged")).is_empty()
    assert honest.filter(pl.col("fired") | pl.col("lost")).is_empty()

    dropped = clicked.filter((pl.col("advertiser_noise") == "drop") & pl.col("happened"))
    assert_share((~dropped["logged"]).to_numpy(), NOISE.drop_probability)
    assert (dropped["lost"] == ~dropped["logged"]).all()

    inflated = clicked.filter(pl.col("advertiser_noise") == "inflate")
    chance = (inflated["application_probability"] * inflated["conversion_probability"]).to_numpy().astype(float)
    advertiser = indices(
        inflated.join(log.impressions, on="impression_id", how="left", maintain_order="left")["advertiser_id"]
    )
    factor = log.world.advertisers.inflation[advertiser]
    assert factor.min() >= NOISE.inflate_low
    assert factor.max() <= NOISE.inflate_high
    wanted = np.minimum(factor * chance, 1)
    reported = inflated["logged"].to_numpy()
    assert abs(reported.sum() - wanted.sum()) <= 3 * math.sqrt((wanted * (1 - wanted)).sum()) + 1e-9
    assert (inflated["fired"] == (inflated["logged"] & ~inflated["happened"])).all()

    late = clicked.filter((pl.col("advertiser_noise") == "late") & pl.col("logged"))
    lag = seconds(late, "ingest_ts", "event_ts") / 86_400
    low, high = NOISE.late_low_days, NOISE.late_high_days
    assert lag.min() > low
    deviation = (high - low) / math.sqrt(12)
    assert abs(np.minimum(lag, high).mean() - (low + high) / 2) <= 3 * deviation / math.sqrt(len(lag)) + 0.01


def test_heavy_tails(log: Log) -> None:
    """3 comparisons; chance of a false failure below .9 %. Log-normal prices, Pareto(1.5) deliveries and reviews."""
    ads = log.world.ads
    logs = np.log(ads.price)
    assert abs(logs.std() - 1.5) <= 3 * 1.5 / math.sqrt(2 * len(logs))
    for values, scale in ((ads.delivery_days.astype(float), 1.0), (ads.reviews + 20.0, 20.0)):
        excess = np.log(values / scale)[values > 3 * scale] - math.log(3)  # exponential with rate 1.5 beyond any level
        assert abs(excess.mean() - 1 / 1.5) <= 3 / 1.5 / math.sqrt(len(excess)) + 0.03  # .03: rounded values


def test_devices_and_categories_all_occur(log: Log) -> None:
    assert set(log.impressions["device_type"].unique()) == set(DEVICES)
    assert log.impressions["category_id"].n_unique() == CATEGORIES


def test_brand_queries_are_short_and_have_few_results_but_are_not_alone_in_it(log: Log) -> None:
    brand, queries = log.world.queries.navigational, log.world.queries
    alike = (queries.length <= 2) & (queries.results <= 8)
    assert alike[brand].mean() > 0.8
    assert 0.003 < alike[~brand].mean() < 0.05


def test_features_carry_signal(log: Log) -> None:
    """What the latents decide shows in the columns: rank correlations with the true logit have the declared signs."""
    frame = log.impressions.with_columns(relevance=log.truth["relevance"]).sample(200_000, seed=1)
    for column, low, high in (
        ("query_ad_similarity", 0.25, 0.8),
        ("user_category_affinity", 0.2, 0.7),
        ("image_quality", 0.05, 0.3),
        ("rating", 0.05, 0.3),
        ("advertiser_rating", 0.05, 0.3),
        ("user_tenure_days", 0.05, 0.3),
        ("price", -0.3, -0.03),
    ):
        pairs = frame.select(column, "relevance").drop_nulls()
        correlation = pairs.select(pl.corr(column, "relevance", method="spearman")).item()
        assert low < correlation < high, (column, correlation)
