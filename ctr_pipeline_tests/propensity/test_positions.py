import math
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.propensity import (
    PositionPropensity,
    PropensityError,
    PropensityTable,
    ess_share,
    position_propensity,
    smoothed_rates,
)
from ctr_pipeline.propensity.rates import shrunk

DAY = date(2026, 1, 1)
CLICK = ("click",)
NO_PARENTS: dict[str, str | None] = {"click": None}
SCHEMA = {"day": pl.Date, "position": pl.Int32, "traffic": pl.String, "session": pl.String, "y_click": pl.Int8}


def counted(cells: Sequence[tuple[str | None, int | None, int, int]], day: date = DAY) -> pl.DataFrame:
    """Rows of (traffic, position, rows, positives)."""
    rows = [
        (day, position, traffic, None, int(number < positives))
        for traffic, position, size, positives in cells
        for number in range(size)
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def estimate(
    rows: pl.DataFrame, smoothing: float = 0.0, clip: tuple[float, float] = (0.1, 10.0), replicates: int = 50
) -> PropensityTable:
    return position_propensity(rows, CLICK, NO_PARENTS, smoothing=smoothing, clip=clip, seed=1, replicates=replicates)


TWO_BY_TWO = (
    ("random", 1, 1000, 100),
    ("random", 2, 1000, 50),
    ("production", 1, 4000, 800),
    ("production", 2, 2000, 50),
)


def test_ratios_by_hand() -> None:
    first, second = estimate(counted(TWO_BY_TWO)).positions
    assert (first.position, first.random_rows, first.random_positives) == (1, 1000, 100)
    assert (first.production_rows, first.production_positives) == (4000, 800)
    assert first.exposure_ratio == pytest.approx(0.1 / 0.2)
    assert second.exposure_ratio == pytest.approx(0.05 / 0.025)
    assert (first.examination, second.examination) == (1.0, pytest.approx(0.5))
    assert (first.examination_low, first.examination_high) == (1.0, 1.0)


def test_interval_is_at_least_that_of_the_formula() -> None:
    first = estimate(counted(TWO_BY_TWO)).positions[0]
    half = 1.959964 * math.sqrt((1 - 0.1) / 100 + (1 - 0.2) / 800)
    assert first.exposure_low <= 0.5 * math.exp(-half) * (1 + 1e-6)
    assert first.exposure_high >= 0.5 * math.exp(half) * (1 - 1e-6)
    # Rows are independent here, so the bootstrap widens it little.
    assert first.exposure_high < 0.5 * math.exp(1.5 * half)


def test_smoothing_by_hand() -> None:
    smooth = estimate(counted(TWO_BY_TWO), smoothing=500).positions[0]
    random, production = 150.5 / 2001, 850.5 / 6001
    assert smooth.random_rate == pytest.approx((100 + 500 * random) / 1500)
    assert smooth.production_rate == pytest.approx((800 + 500 * production) / 4500)
    assert smooth.exposure_ratio == pytest.approx(smooth.random_rate / smooth.production_rate)


def test_smoothing_moves_the_estimate_and_not_what_the_counts_tell() -> None:
    plain, smooth = (estimate(counted(TWO_BY_TWO), smoothing=amount).positions[1] for amount in (0.0, 5000.0))
    assert plain.examination == pytest.approx(0.5)
    assert smooth.examination > 0.85 > plain.examination_high
    assert smooth.examination_low == pytest.approx(plain.examination_low)
    # Only as far as the estimate itself.
    assert smooth.examination_high == smooth.examination
    assert smooth.exposure_high == pytest.approx(plain.exposure_high)


@pytest.mark.parametrize("smoothing", [0.0, 300.0])
def test_positions_without_positives_or_rows_stay_finite(smoothing: float) -> None:
    cells = [("random", 1, 50, 3), ("random", 2, 50, 0), ("production", 1, 50, 4), ("production", 3, 50, 1)]
    table = estimate(counted(cells), smoothing)
    assert [entry.position for entry in table.positions] == [1, 2, 3]
    for entry in table.positions:
        numbers = [v for v in (getattr(entry, name) for name in PositionPropensity.__slots__) if isinstance(v, float)]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert entry.exposure_low < entry.exposure_ratio < entry.exposure_high
        assert 0.1 <= entry.weight <= 10
    assert (smoothed_rates(np.zeros((2, 3)), np.zeros((2, 3)), smoothing) > 0).all()


def test_weights_apply_to_production_rows_of_known_positions() -> None:
    table = estimate(counted(TWO_BY_TWO))
    weights = table.raw_weights("click", np.array([1, 2, 2, 0, 9]), np.array([True, True, False, True, True]))
    # Ratios of 0.5 and 2.0 with log variances of 0.9 / 100 + 0.8 / 800 and about 0.08, which are shrunk a little.
    log_ratios, variances = np.log([0.5, 2.0]), np.array([entry_variance(entry) for entry in table.positions])
    between = np.mean(log_ratios**2 - variances)
    assert weights == pytest.approx([*np.exp(log_ratios * between / (between + variances)), 1.0, 1.0, 1.0])
    assert weights[:2] == pytest.approx([0.5, 2.0], rel=0.06)
    assert table.raw_weights("other", np.array([1]), np.array([True])).tolist() == [1.0]


def entry_variance(entry: PositionPropensity) -> float:
    """Variance of the log ratio, from its interval."""
    return float((math.log(entry.exposure_high / entry.exposure_low) / (2 * 1.959963984540054)) ** 2)


def test_ratios_that_vary_as_their_errors_do_weigh_nothing() -> None:
    draw = np.random.default_rng(3)
    variances = draw.uniform(0.05, 0.2, 2000)
    noise = draw.normal(0, np.sqrt(variances))
    assert np.abs(shrunk(noise, variances)).max() < 0.25 * np.abs(noise).max()
    assert shrunk(np.array([0.1, -0.2]), np.array([0.5, 0.4])).tolist() == [0.0, 0.0]
    assert shrunk(np.array([]), np.array([])).tolist() == []
    # Posterior means of values that do vary have less error than the estimates, and keep their size on average.
    true = draw.normal(0, 0.5, 2000)
    found = shrunk(true + noise, variances)
    assert np.mean((found - true) ** 2) < 0.8 * np.mean(noise**2)
    assert np.polyfit(found, true, 1)[0] == pytest.approx(1.0, abs=0.06)


def test_clipping_and_summary_by_hand() -> None:
    table = estimate(counted([*TWO_BY_TWO, (None, 1, 500, 10)]), clip=(0.8, 1.5))
    assert [entry.weight for entry in table.positions] == [0.8, 1.5]
    (click,) = table.responses
    # All production rows are clipped; the 2000 random and 500 other rows weigh 1.
    assert (click.rows, click.positives, click.clipped_share) == (8500, 1010, 1.0)
    assert click.mean_weight == pytest.approx((4000 * 0.8 + 2000 * 1.5 + 2500) / 8500)
    squares = 4000 * 0.8**2 + 2000 * 1.5**2 + 2500
    assert click.ess_rows == pytest.approx((4000 * 0.8 + 2000 * 1.5 + 2500) ** 2 / squares / 8500)
    squares = 800 * 0.8**2 + 50 * 1.5**2 + 160
    assert click.ess_positives == pytest.approx((800 * 0.8 + 50 * 1.5 + 160) ** 2 / squares / 1010)


def test_ess_by_hand() -> None:
    assert ess_share(np.array([1.0, 1.0, 1.0, 1.0])) == 1.0
    assert ess_share(np.array([1.0, 0.0, 0.0, 0.0])) == 0.25
    assert ess_share(np.array([])) == 1.0


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([("production", 1, 100, 5)], "Randomise a share"),
        ([("random", 1, 100, 5)], "Randomise a share"),
        ([("random", None, 100, 5), ("production", 1, 100, 5)], "Randomise a share"),
        ([("random", 1, 100, 0), ("production", 1, 100, 0)], "no positive"),
        ([], "Randomise a share"),
    ],
)
def test_without_comparable_traffic_all_weights_are_1(
    cells: list[tuple[str | None, int | None, int, int]], reason: str
) -> None:
    table = estimate(counted(cells))
    (click,) = table.responses
    assert not click.usable
    assert reason in click.reason
    assert (click.mean_weight, click.ess_rows) == (1.0, 1.0)
    assert table.positions == ()
    assert table.raw_weights("click", np.array([1, 2]), np.array([True, True])).tolist() == [1.0, 1.0]


def test_only_days_with_both_kinds_of_traffic_are_compared() -> None:
    other_day = counted([("production", 1, 1000, 900)], date(2026, 1, 2))
    both = estimate(pl.concat([counted(TWO_BY_TWO), other_day]))
    assert both.positions == estimate(counted(TWO_BY_TWO)).positions
    assert both.responses[0].rows == 9000


def test_unsettled_rows_are_left_out() -> None:
    unsettled = counted([("random", 1, 500, 0)]).with_columns(y_click=pl.lit(None, dtype=pl.Int8))
    assert estimate(pl.concat([counted(TWO_BY_TWO), unsettled])) == estimate(counted(TWO_BY_TWO))


def test_a_sparse_child_leans_on_its_parent() -> None:
    every = pl.when(pl.col("traffic") == "random").then(3).otherwise(7)
    bought = (pl.col("y_click") == 1) & (pl.int_range(pl.len()) % every == 0)
    rows = counted(TWO_BY_TWO).with_columns(y_buy=bought.cast(pl.Int8))
    table = position_propensity(
        rows, ["buy", "click"], {"click": None, "buy": "click"}, smoothing=0, clip=(0.1, 10), seed=1, replicates=50
    )
    click = {e.position: e for e in table.positions if e.response == "click"}
    assert [r.response for r in table.responses] == ["buy", "click"]
    for buy in (e for e in table.positions if e.response == "buy"):
        low, high = sorted((buy.exposure_ratio, click[buy.position].exposure_ratio))
        assert low < buy.weight_ratio < high
        # The parent has far more positives, so it decides.
        assert abs(math.log(buy.weight_ratio / click[buy.position].exposure_ratio)) < 0.5 * math.log(high / low)
        assert click[buy.position].weight_ratio == pytest.approx(click[buy.position].exposure_ratio, rel=0.06)


def test_json_round_trip_is_exact() -> None:
    table = estimate(counted(TWO_BY_TWO), smoothing=7)
    assert PropensityTable.from_json(table.to_json()) == table
    assert table.frame().height == 2


def test_missing_columns_are_named() -> None:
    with pytest.raises(PropensityError, match="y_click"):
        estimate(counted(TWO_BY_TWO).drop("y_click"))


THETA = np.array([1.0, 0.6, 0.4])
RELEVANCE_RANDOM, RELEVANCE_PRODUCTION = 0.10, np.array([0.20, 0.12, 0.06])


def a_log(
    seed: int, theta: np.ndarray, production: np.ndarray, sessions: int = 4000, clustered: float = 0.0
) -> pl.DataFrame:
    """A position-based world: a click needs examination (theta) and relevance. Half of the sessions are random."""
    draw = np.random.default_rng(seed)
    random = np.arange(sessions) % 2 == 0
    relevance = np.where(random[:, None], RELEVANCE_RANDOM, production[None, :])
    mood = draw.choice([1 - clustered, 1 + clustered], size=(sessions, 1))
    clicks = draw.random((sessions, 3)) < theta * relevance * mood
    return pl.DataFrame(
        {
            "position": np.tile(np.arange(1, 4, dtype=np.int32), sessions),
            "session": np.repeat(np.arange(sessions), 3).astype(str),
            "y_click": clicks.ravel().astype(np.int8),
            "traffic": np.repeat(np.where(random, "random", "production"), 3),
        }
    ).with_columns(day=pl.lit(DAY))


def near(
    found: Callable[[PositionPropensity], tuple[float, float, float]], true: float, entry: PositionPropensity
) -> bool:
    """Whether the truth is within 3 standard errors."""
    value, low, high = found(entry)
    error = math.log(high / low) / (2 * 1.96)
    return abs(math.log(value / true)) <= 3 * error + 1e-12


def exposure(entry: PositionPropensity) -> tuple[float, float, float]:
    return entry.exposure_ratio, entry.exposure_low, entry.exposure_high


def examination(entry: PositionPropensity) -> tuple[float, float, float]:
    return entry.examination, entry.examination_low, entry.examination_high


def test_known_ratios_and_examination_are_recovered() -> None:
    for entry, true, theta in zip(
        estimate(a_log(1, THETA, RELEVANCE_PRODUCTION, 40_000)).positions,
        RELEVANCE_RANDOM / RELEVANCE_PRODUCTION,
        THETA,
        strict=True,
    ):
        assert near(exposure, float(true), entry)
        assert near(examination, float(theta), entry)
        assert exposure(entry)[2] / exposure(entry)[1] < 1.3


def test_other_examination_leaves_the_ratio_as_it_is() -> None:
    table = estimate(a_log(2, np.array([0.9, 0.9, 0.2]), RELEVANCE_PRODUCTION, 40_000))
    for entry, true in zip(table.positions, RELEVANCE_RANDOM / RELEVANCE_PRODUCTION, strict=True):
        assert near(exposure, float(true), entry)
    assert near(examination, 0.2 / 0.9, table.positions[2])


def test_ratio_is_1_when_production_is_random() -> None:
    for entry in estimate(a_log(3, THETA, np.full(3, RELEVANCE_RANDOM), 40_000)).positions:
        assert near(exposure, 1.0, entry)


@pytest.mark.parametrize("clustered", [0.0, 0.9])
def test_intervals_cover_the_truth(clustered: float) -> None:
    true = RELEVANCE_RANDOM / RELEVANCE_PRODUCTION
    covered: list[bool] = []
    for seed in range(200):
        table = estimate(a_log(seed, THETA, RELEVANCE_PRODUCTION, 2000, clustered), replicates=100)
        covered += [e.exposure_low <= t <= e.exposure_high for e, t in zip(table.positions, true, strict=True)]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_sessions_that_move_together_widen_the_interval() -> None:
    """All rows of a session are clicked or none is: a third of the evidence that as many lone rows would be."""
    log = a_log(4, np.ones(3), np.full(3, 0.1))
    first = pl.col("y_click").first().over("session")
    together = log.with_columns(y_click=first, position=pl.lit(1, dtype=pl.Int32))
    alone = together.with_columns(session=pl.lit(None, dtype=pl.String))
    width = [
        math.log(e.exposure_high / e.exposure_low)
        for t in (together, alone)
        for e in estimate(t, replicates=400).positions
    ]
    assert width[0] / width[1] == pytest.approx(math.sqrt(3), rel=0.15)


def test_same_seed_same_table_whatever_the_row_order() -> None:
    log = a_log(5, THETA, RELEVANCE_PRODUCTION, 1000)
    assert estimate(log) == estimate(log)
    assert estimate(log) == estimate(log.reverse())


def test_real_shop_with_two_policies_on_the_same_days(shared_data: Path) -> None:
    """Counts and ratios of positions against a direct pivot of the log."""
    log = pl.read_parquet(shared_data / "open_bandit.parquet")
    rows = log.select(
        day=pl.col("ts").dt.date(),
        position=pl.col("position").cast(pl.Int32),
        traffic=pl.when(pl.col("policy") == "bts").then(pl.lit("production")).otherwise(pl.lit("random")),
        session=pl.lit(None, dtype=pl.String),
        y_click=pl.col("clicked").cast(pl.Int8),
    )
    table = estimate(rows)
    assert [entry.position for entry in table.positions] == [1, 2, 3]
    for entry in table.positions:
        here = log.filter(pl.col("position") == entry.position)
        rates = dict(here.group_by("policy").agg(pl.col("clicked").mean()).iter_rows())
        assert entry.exposure_ratio == pytest.approx(rates["random"] / rates["bts"])
        assert entry.exposure_low < entry.exposure_ratio < entry.exposure_high
        # Bandit traffic earns more than random traffic, by more than the noise of some 200 clicks nowhere else.
        assert 0.3 < entry.exposure_ratio < 1.3
    (click,) = table.responses
    assert (click.rows, click.positives) == (40_000, int(log["clicked"].sum()))
    assert click.ess_rows > 0.9
