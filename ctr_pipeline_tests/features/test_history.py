from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ctr_pipeline.features import HISTORY_COLUMNS, history_for_days, history_reach, join_history
from ctr_pipeline.spec import Spec, load_spec
from ctr_pipeline.spec.history import is_exact
from ctr_pipeline_tests.features import pasts
from ctr_pipeline_tests.features.pasts import (
    DAY,
    FIRST,
    SPEC,
    Past,
    Row,
    naive_exact,
    naive_exact_sequences,
    naive_history,
    random_past,
    start,
)

DAYS = [FIRST + timedelta(days=number) for number in range(14)]
HOUR = DAY // 24
EXACT = pl.col("feature").is_in(pasts.EXACT)


def values(history: pl.DataFrame, day: date) -> dict[tuple[str, str], float]:
    today = history.filter(pl.col("day") == day, ~EXACT)
    found = {}
    for row in today.iter_rows(named=True):
        found[row["feature"], row["key"]] = row["value"] if row["item"] is None else (row["value"], row["item"])
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_values_equal_those_of_a_naive_count(seed: int) -> None:
    past = random_past(seed)
    history = past.history(DAYS)
    assert history.columns == list(HISTORY_COLUMNS)
    features = set()
    for day in DAYS:
        expected = naive_history(past, day)
        features |= {feature for feature, _ in expected}
        found = values(history, day)
        assert found.keys() == expected.keys()
        for which, value in expected.items():
            assert found[which] == (value if isinstance(value, tuple) else pytest.approx(value, rel=1e-12)), which
    grid = [f for f in SPEC.features.history if not getattr(f, "exact", False)]
    listed = {name for feature in SPEC.features.listing if feature in grid for name in feature.stored}
    assert features == {f.name for f in grid if f not in SPEC.features.listing} | listed


@pytest.mark.parametrize("seed", [1, 2])
def test_exact_values_equal_those_of_a_naive_count(seed: int) -> None:
    past = random_past(seed, 150)
    history = past.history(DAYS)
    rows = history.filter(pl.col("feature").str.ends_with("_before"))
    found: dict[str, dict[str, float]] = {row.name: {} for row in past.rows}
    for row in rows.iter_rows(named=True):
        found[row["key"]][row["feature"]] = row["value"]
    expected = naive_exact(past)
    for name, values_before in expected.items():
        assert found[name] == pytest.approx(values_before, rel=1e-12), name
    reached = {feature for values_before in expected.values() for feature in values_before}
    assert reached == {"seen_before", "clicked_before", "last_buy_before", "ad_rate_before"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_exact_sequences_equal_those_of_a_naive_search(seed: int) -> None:
    past = random_past(seed, 150)
    listed = [name for f in SPEC.features.listing if is_exact(f) for name in f.stored]
    found: dict[str, dict[str, tuple[float, str]]] = {row.name: {} for row in past.rows}
    for row in past.history(DAYS).filter(pl.col("feature").is_in(listed)).iter_rows(named=True):
        found[row["key"]][row["feature"]] = (row["value"], row["item"])
    expected = naive_exact_sequences(past)
    assert found == expected
    assert {name for values_before in expected.values() for name in values_before} == set(listed)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), number=st.integers(4, 11))
def test_what_arrives_after_the_day_began_changes_nothing(seed: int, number: int) -> None:
    past, other, day = random_past(seed, 120), random_past(seed + 1, 120), DAYS[number]
    began = start(day)
    known = Past([r for r in past.rows if r.ingest_ts < began], [e for e in past.events if e[3] < began])
    # Other outcomes and impressions, all of them arriving later; their own times may lie before.
    later = Past(
        [*known.rows, *(Row(f"x{r.name}", r.ts, max(r.ingest_ts, began), r.user, r.ad) for r in other.rows)],
        [*known.events, *((i, task, at, max(arrived, began)) for i, task, at, arrived in other.events)],
    )
    assert_frame_equal(*(past.history([day]).filter(~EXACT) for past in (known, later)))


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), number=st.integers(60, 119))
def test_what_arrives_from_an_impression_on_changes_none_of_its_exact_values(seed: int, number: int) -> None:
    past, other = random_past(seed, 120), random_past(seed + 1, 120)
    probe = sorted(past.rows, key=lambda row: row.ts)[number]
    day, now = FIRST + timedelta(days=(probe.ts - start(FIRST)) // DAY), probe.ts
    known = Past([r for r in past.rows if r.ingest_ts < now or r == probe], [e for e in past.events if e[3] < now])
    later = Past(
        [*known.rows, *(Row(f"x{r.name}", r.ts, max(r.ingest_ts, now), r.user, r.ad) for r in other.rows)],
        [*known.events, *((i, task, at, max(arrived, now)) for i, task, at, arrived in past.events)],
    )
    mine = EXACT & (pl.col("key") == probe.name)
    assert_frame_equal(*(world.history([day]).filter(mine) for world in (known, later)))


def test_a_day_has_the_same_values_alone_and_in_a_backfill() -> None:
    past = random_past(4)
    together = past.history(DAYS)
    for day in DAYS[::4]:
        assert_frame_equal(past.history([day]), together.filter(pl.col("day") == day))


def test_reach_is_all_the_past_that_a_day_needs() -> None:
    past, day = random_past(5, length=14), DAYS[12]
    assert history_reach(SPEC) == 8
    began = start(day - timedelta(days=history_reach(SPEC)))
    recent = Past([r for r in past.rows if r.ts >= began], [e for e in past.events if e[3] >= began])
    assert len(recent.rows) < len(past.rows)
    assert_frame_equal(recent.history([day]), past.history([day]))


def test_engines_agree_to_the_bit() -> None:
    past = random_past(6)
    connection = duckdb.connect()
    impressions = connection.from_arrow(past.impressions().collect().to_arrow())
    events = connection.from_arrow(past.outcome_events().collect().to_arrow())
    on_duckdb = history_for_days(SPEC, impressions, events, DAYS).pl().sort("day", "feature", "key")
    assert_frame_equal(on_duckdb.cast({"feature": pl.String}), past.history(DAYS), check_exact=True)


def a_click_at(minute: int, arrives: int) -> Past:
    """A click on ad "a" and an impression of it without one, on the first day."""
    ts = start(FIRST) + HOUR
    rows = [Row("i1", ts, ts, "u1", "a"), Row("i2", ts, ts, "u1", "a")]
    return Past(rows, [("i1", "click", ts + minute, arrives)])


def test_a_cohort_waits_until_all_of_it_is_mature() -> None:
    past = a_click_at(5, start(FIRST) + 2 * HOUR)
    by_day = {day: values(past.history(DAYS), day).get(("ad_rate", "a")) for day in DAYS[:7]}
    # Shown on day 0, mature on day 1: a rate of days 2, 3 and 4, three cohort days long.
    assert by_day == {
        DAYS[0]: None,
        DAYS[1]: None,
        DAYS[2]: 0.5,
        DAYS[3]: 0.5,
        DAYS[4]: 0.5,
        DAYS[5]: None,
        DAYS[6]: None,
    }


def test_an_outcome_that_arrives_as_the_day_begins_is_not_known_yet() -> None:
    midnight = start(DAYS[2])
    late = values(a_click_at(5, midnight).history([DAYS[2]]), DAYS[2])
    just = values(a_click_at(5, midnight - 1).history([DAYS[2]]), DAYS[2])
    assert late["ad_rate", "a"] == 0
    assert just["ad_rate", "a"] == 0.5


def test_a_planted_future_outcome_is_caught() -> None:
    """A history that read events by their own time, not by arrival, would show this click."""
    past = a_click_at(5, start(DAYS[9]))
    honest = values(past.history([DAYS[3]]), DAYS[3])
    planted = values(Past(past.rows, [(i, t, at, at) for i, t, at, _ in past.events]).history([DAYS[3]]), DAYS[3])
    assert honest["ad_rate", "a"] == 0
    assert planted["ad_rate", "a"] == 0.5


def test_joined_values_are_those_of_the_impressions_day() -> None:
    past = random_past(7)
    history = past.history(DAYS)
    joined = join_history(SPEC, past.impressions(), history.lazy()).collect()
    assert joined.height == len(past.rows)
    for row in joined.iter_rows(named=True):
        today = values(history, row["day"])
        assert row["ad_rate"] == today.get(("ad_rate", row["ad"]))
        count = None if row["user"] is None else today.get(("seen", row["user"]), 0.0)
        assert row["seen"] == count
        listed = [today.get((f"ads_seen_{place}", row["user"]), (None, None)) for place in (1, 2, 3)]
        assert [row[f"ads_seen_{place}"] for place in (1, 2, 3)] == [item for _, item in listed]
        for place, (at, _) in enumerate(listed, start=1):
            age = row[f"ads_seen_{place}_age"]
            assert age == (None if at is None else pytest.approx((row["ts"] - at) / 1e6, rel=1e-15))
        places = range(1, 7)
        recent = [today.get((f"recent_{place}", row["user"]), (None, None)) for place in places]
        assert [row[f"recent_{place}"] for place in places] == [item for _, item in recent]
        ages = [None if at is None else pytest.approx((row["ts"] - at) / 1e6, rel=1e-15) for at, _ in recent]
        assert [row[f"recent_age[{place - 1}]"] for place in places] == ages
        kinds = [today.get((f"recent_{place}_event", row["user"]), (None, None))[1] for place in places]
        assert [row[f"recent_{place}_event"] for place in places] == kinds
        assert row["ads_top_1"] == today.get(("ads_top_1", row["user"]), (None, None))[1]
        own = history.filter(EXACT, pl.col("key") == row["impression_id"])
        exact = dict(zip(own["feature"], own["value"], strict=True))
        assert row["seen_before"] == (None if row["user"] is None else exact.get("seen_before", 0.0))
        assert row["ad_rate_before"] == exact.get("ad_rate_before")
        last = today.get(("last_seen", row["user"]))
        assert row["last_seen"] == (None if last is None else pytest.approx((row["ts"] - last) / 1e6, rel=1e-15))
    assert joined["last_seen"].min() >= 0
    assert joined["seen"].null_count() == joined["user"].null_count() > 0
    assert (joined["seen"] == 0).any()


def test_recency_is_exact_to_the_microsecond() -> None:
    ts = start(FIRST) + HOUR + 1
    now = start(DAYS[1]) + 5
    past = Past([Row("i1", ts, ts, "u1", "a"), Row("i2", now, now, "u1", "a")], [])
    joined = join_history(SPEC, past.impressions(), past.history(DAYS[:2]).lazy()).collect().sort("ts")
    assert joined["last_seen"].to_list() == [None, pytest.approx((now - ts) / 1e6, rel=1e-15)]


def test_a_spec_without_history_needs_no_past() -> None:
    features = SPEC.features.model_copy(update={"history": []})
    spec: Spec = SPEC.model_copy(update={"features": features})
    past = random_past(8, 20)
    history = past.history(DAYS, spec)
    assert history_reach(spec) == 0
    assert history.is_empty()
    assert history.schema == random_past(8).history(DAYS).schema
    joined = join_history(spec, past.impressions(), history.lazy()).collect()
    assert_frame_equal(joined, past.impressions().collect())


def test_real_sessions_of_a_shop(shared_data: Path, project: Path) -> None:
    """Earlier sessions and purchases of each user, against a self-join of the log."""
    spec = load_spec(project / "specs" / "ga4.yaml")
    log = pl.read_parquet(shared_data / "ga4_sessions.parquet")
    ts = pl.col("ts").dt.timestamp("us")
    impressions = log.select(
        day=pl.col("ts").dt.date(),
        impression_id="session_id",
        ts=ts,
        ingest_ts=ts,
        user="user_id",
        item="first_item_name",
        bought=pl.col("purchased_later_in_session"),
    )
    events = impressions.filter(pl.col("bought") == 1).select(
        "impression_id", event=pl.lit("purchase"), kind=pl.lit("outcome"), event_ts="ts", ingest_ts="ts"
    )
    days = [date(2021, 1, 10) + timedelta(days=number) for number in range(6)]
    shown = impressions.filter(pl.col("day").is_in(days))
    history = history_for_days(spec, impressions.lazy(), events.lazy(), days)
    joined = join_history(spec, shown.lazy(), history).collect().sort("impression_id")
    pairs = shown.join(impressions.select("user", past_day="day", past_bought="bought"), on="user")
    past = pairs.filter(pl.col("past_day") < pl.col("day"), pl.col("past_day") >= pl.col("day").dt.offset_by("-60d"))
    counted = past.group_by("impression_id").agg(sessions=pl.len(), purchases=pl.col("past_bought").sum())
    expected = joined.select("impression_id").join(counted, on="impression_id", how="left").fill_null(0)
    expected = expected.sort("impression_id")
    assert joined["prior_sessions"].to_list() == expected["sessions"].to_list()
    assert joined["prior_purchases"].to_list() == expected["purchases"].to_list()
    assert joined["prior_purchases"].sum() > 50
    # The label is final when logged, so the cohort of 10 January is the fourteen days before it.
    cohort = impressions.filter(pl.col("day").is_between(date(2020, 12, 27), date(2021, 1, 9)))
    item = cohort["item"].mode().sort()[0]
    own = cohort.filter(pl.col("item") == item)
    rate = (own["bought"].sum() + 100 * cohort["bought"].mean()) / (own.height + 100)
    found = joined.filter((pl.col("day") == days[0]) & (pl.col("item") == item))["item_rate_14d"]
    assert found.to_list() == pytest.approx([rate] * found.len(), rel=1e-12)
    assert found.len() > 0


def test_what_became_known_very_late_is_in_no_exact_window_whether_days_come_together_or_alone() -> None:
    shown, probe = start(FIRST), start(DAYS[7])
    rows = [Row("i0", shown, shown, "u1", "a"), Row("i7", probe, probe, "u1", "a")]
    past = Past(rows, [("i0", "click", shown + HOUR, start(DAYS[6]))])
    mine = EXACT & (pl.col("key") == "i7")
    alone, together = (past.history(days).filter(mine) for days in ([DAYS[7]], DAYS[4:8]))
    assert_frame_equal(alone, together)
    assert "clicked_before" not in alone["feature"].to_list()
