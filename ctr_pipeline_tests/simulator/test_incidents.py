"""Each declared incident: what it does to the log, and that the truth says so."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.simulator import day_files, truth_file, write_day
from ctr_pipeline.spec import SpecError, parse_spec
from ctr_pipeline.spec.simulator import INCIDENT_KINDS, SimulatorSettings

FIRST = date(2026, 1, 1)
DAY = date(2026, 1, 4)
NEXT = DAY + timedelta(days=1)
SIZE: dict[str, Any] = {
    "days": 10,
    "sessions_per_day": 4_000,
    "users": 2_000,
    "queries": 500,
    "advertisers": 60,
    "ads": 600,
}


def settings(*incidents: dict[str, Any]) -> SimulatorSettings:
    return SimulatorSettings.model_validate({**SIZE, "incidents": incidents})


def simulate(root: Path, day: date, *incidents: dict[str, Any]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Impressions, events and truth of ``day``."""
    root = root / f"{day}-{len(list(root.iterdir())) if root.exists() else 0}"
    write_day(settings(*incidents), 9, day, root)
    impressions, events = (pl.read_parquet(file) for file in day_files(root, day))
    return impressions, events, pl.read_parquet(truth_file(root, day))


def hour(column: str) -> pl.Expr:
    return pl.col(column).dt.hour()


def flagged(truth: pl.DataFrame, kind: str) -> pl.DataFrame:
    return truth.filter(pl.col("incidents") == kind)


def test_two_incidents_of_one_kind_have_one_name(tmp_path: Path) -> None:
    bursts = [{"kind": "late_burst", "day": DAY, "hours": hours} for hours in ([0, 9], [9, 24], [20, 24])]
    _, _, truth = simulate(tmp_path, DAY, *bursts)
    assert truth["incidents"].unique().sort().to_list() == [None, "late_burst"]


def test_days_that_no_incident_touches_keep_their_bytes(tmp_path: Path) -> None:
    incidents = [
        {"kind": "unit_change", "day": DAY, "feature": "price", "last_day": DAY},
        {"kind": "bot_campaign", "day": DAY},
        {"kind": "click_log_outage", "day": DAY},
    ]
    write_day(settings(*incidents), 9, NEXT, tmp_path / "with")
    write_day(settings(), 9, NEXT, tmp_path / "without")
    for with_file, without_file in zip(
        day_files(tmp_path / "with", NEXT), day_files(tmp_path / "without", NEXT), strict=True
    ):
        assert with_file.read_bytes() == without_file.read_bytes()


def test_click_log_outage(tmp_path: Path) -> None:
    _, before, _ = simulate(tmp_path, DAY)
    impressions, events, truth = simulate(tmp_path, DAY, {"kind": "click_log_outage", "day": DAY, "hours": [9, 15]})
    in_window = (hour("event_ts").is_between(9, 14)) & (pl.col("event_ts").dt.date() == DAY)
    gone = before.filter((pl.col("event_type") == "click") & in_window)
    assert len(gone) > 30
    assert set(before.rows()) - set(events.rows()) == set(gone.rows())
    marked = flagged(truth, "click_log_outage")
    assert set(marked["impression_id"]) == set(gone["impression_id"])
    assert marked["lost"].all()
    assert len(impressions) == 20_000


def test_click_log_outage_reaches_clicks_on_earlier_impressions(tmp_path: Path) -> None:
    _, before, _ = simulate(tmp_path, DAY - timedelta(days=1))
    _, events, _ = simulate(tmp_path, DAY - timedelta(days=1), {"kind": "click_log_outage", "day": DAY})
    gone = before.filter((pl.col("event_type") == "click") & (pl.col("event_ts").dt.date() == DAY))
    assert len(gone) > 0
    assert set(before.rows()) - set(events.rows()) == set(gone.rows())


def test_late_burst(tmp_path: Path) -> None:
    _, before, _ = simulate(tmp_path, DAY)
    burst = {"kind": "late_burst", "day": DAY, "hours": [0, 12], "delay_hours": 48}
    _, events, truth = simulate(tmp_path, DAY, burst)
    key = ["impression_id", "event_type", "event_ts"]
    both = before.join(events, on=key, suffix="_after")
    assert len(both) == len(before) == len(events)
    hit = (pl.col("ingest_ts").dt.date() == DAY) & (hour("ingest_ts") < 12)
    delay = (pl.col("ingest_ts_after") - pl.col("ingest_ts")).dt.total_hours()
    assert (both.filter(hit).select(delay).to_series() == 48).all()
    assert (both.filter(~hit).select(delay).to_series() == 0).all()
    assert set(flagged(truth, "late_burst")["impression_id"]) == set(both.filter(hit)["impression_id"])
    assert events["ingest_ts"].is_sorted()


def test_duplicated_delivery(tmp_path: Path) -> None:
    incident = {"kind": "duplicated_delivery", "day": DAY, "hours": [8, 20], "share": 0.25}
    impressions, events, truth = simulate(tmp_path, DAY, incident)
    counts = impressions.group_by("impression_id").len()
    twice = set(counts.filter(pl.col("len") == 2)["impression_id"])
    assert set(counts["len"]) == {1, 2}
    assert set(flagged(truth, "duplicated_delivery")["impression_id"]) == twice
    assert len(truth) == 20_000
    inside = impressions.unique("impression_id").filter(hour("ts").is_between(8, 19))
    assert twice <= set(inside["impression_id"])
    pages = len(inside) / 5
    assert abs(len(twice) / 5 / pages - 0.25) <= 3 * (0.25 * 0.75 / pages) ** 0.5
    copies = impressions.filter(pl.col("impression_id").is_in(list(twice))).group_by("impression_id")
    spread = copies.agg(gap=(pl.col("ingest_ts").max() - pl.col("ingest_ts").min()).dt.total_minutes())
    assert (spread["gap"] == 5).all()
    rest = impressions.drop("ingest_ts").unique()
    assert len(rest) == 20_000
    assert impressions["ts"].is_sorted()
    event_counts = events.group_by("impression_id", "event_type").len()
    assert set(event_counts.filter(pl.col("len") == 2)["impression_id"]) <= twice
    doubled = event_counts.filter(pl.col("impression_id").is_in(list(twice)))
    assert len(doubled) > 20
    assert (doubled["len"] == 2).all()


@pytest.mark.parametrize("feature", ["price", "review_count", "stock_level", "title_length"])
def test_unit_change(tmp_path: Path, feature: str) -> None:
    before, events_before, _ = simulate(tmp_path, NEXT)
    incident = {"kind": "unit_change", "day": DAY, "feature": feature, "factor": 100}
    after, events, truth = simulate(tmp_path, NEXT, incident)
    assert after.drop(feature).equals(before.drop(feature))
    assert after.schema == before.schema
    assert events.equals(events_before)
    assert (truth["incidents"] == "unit_change").all()
    old, new = before[feature], after[feature]
    assert (old.is_null() == new.is_null()).all()
    top = 32767 if feature == "title_length" else 2**31 - 1
    wanted = (old.cast(pl.Float64) * 100).clip(upper_bound=top if before.schema[feature].is_integer() else None)
    np.testing.assert_allclose(new.drop_nulls().to_numpy(), wanted.drop_nulls().to_numpy(), rtol=1e-6)
    ended, _, calm = simulate(tmp_path, NEXT, {**incident, "last_day": DAY})
    assert ended.equals(before)
    assert calm["incidents"].null_count() == len(calm)


def test_unnormalised_feature(tmp_path: Path) -> None:
    before, _, _ = simulate(tmp_path, DAY)
    incident = {"kind": "unnormalised_feature", "day": DAY, "feature": "query_ad_similarity", "scale": 1e4}
    after, _, truth = simulate(tmp_path, DAY, incident)
    assert after.drop("query_ad_similarity").equals(before.drop("query_ad_similarity"))
    ratio = np.log((after["query_ad_similarity"] / before["query_ad_similarity"]).to_numpy())
    ratio = ratio[np.isfinite(ratio)]
    assert abs(ratio.mean() - np.log(1e4)) <= 3 / np.sqrt(len(ratio))
    assert abs(ratio.std() - 1) <= 3 / np.sqrt(2 * len(ratio))
    assert (truth["incidents"] == "unnormalised_feature").all()


def test_bot_campaign(tmp_path: Path) -> None:
    incident = {
        "kind": "bot_campaign",
        "day": DAY,
        "share": 0.1,
        "users": 7,
        "hours": [6, 22],
        "click_probability": 0.6,
    }
    impressions, events, truth = simulate(tmp_path, DAY, incident)
    bots = flagged(truth, "bot_campaign")
    assert (bots["click_probability"] == np.float32(0.6)).all()
    assert (bots["add_to_cart_probability"] == 0).all()
    assert bots["add_to_cart_ts"].null_count() == len(bots)
    rows = impressions.filter(pl.col("impression_id").is_in(bots["impression_id"].to_list()))
    assert rows["user_id"].n_unique() == 7
    assert rows.select(hour("ts").is_between(6, 21).all()).item()
    pages = len(impressions.filter(hour("ts").is_between(6, 21))) / 5
    assert abs(len(rows) / 5 / pages - 0.1) <= 3 * (0.1 * 0.9 / pages) ** 0.5
    clicked = (
        events.filter(pl.col("event_type") == "click")["impression_id"].is_in(rows["impression_id"].to_list()).sum()
    )
    assert abs(clicked / len(rows) - 0.6) <= 3 * (0.6 * 0.4 / len(rows)) ** 0.5


def test_traffic_shift(tmp_path: Path) -> None:
    before, _, _ = simulate(tmp_path, NEXT)
    incident = {"kind": "traffic_shift", "day": DAY, "device": "tablet", "share": 0.4}
    after, _, truth = simulate(tmp_path, NEXT, incident)
    usual = (before["device_type"] == "tablet").mean()
    assert (after["device_type"] == "tablet").mean() == pytest.approx(0.4 + 0.6 * usual, abs=0.03)
    moved = flagged(truth, "traffic_shift")
    assert len(moved) / len(truth) == pytest.approx(0.4, abs=0.025)
    assert (moved["device_type"] == "tablet").all()
    agrees = truth.join(after, on="impression_id", suffix="_log")
    assert (agrees["device_type"] == agrees["device_type_log"]).all()


def test_new_category(tmp_path: Path) -> None:
    before, _, _ = simulate(tmp_path, NEXT)
    assert "c30" not in before["category_id"]
    after, _, truth = simulate(tmp_path, NEXT, {"kind": "new_category", "day": DAY, "share": 0.2})
    assert after.drop("category_id").equals(before.drop("category_id"))
    moved = after.filter(pl.col("category_id") == "c30")
    assert moved["ad_id"].n_unique() / after["ad_id"].n_unique() == pytest.approx(0.2, abs=0.06)
    assert set(flagged(truth, "new_category")["impression_id"]) == set(moved["impression_id"])
    rest = after.filter(pl.col("category_id") != "c30").join(before, on="impression_id", suffix="_before")
    assert (rest["category_id"] == rest["category_id_before"]).all()
    assert not set(moved["ad_id"]) & set(rest["ad_id"])  # an ad moves for good, not by page


def test_several_incidents_are_named_together(tmp_path: Path) -> None:
    _, _, truth = simulate(
        tmp_path,
        DAY,
        {"kind": "unit_change", "day": DAY, "feature": "price"},
        {"kind": "bot_campaign", "day": DAY, "share": 0.3},
    )
    assert set(truth["incidents"].unique()) == {"unit_change", "unit_change+bot_campaign"}


SPEC = """
version: 1
name: planted
source: {simulator: {days: 10, incidents: [%s]}}
impression: {id: impression_id, time: ts}
features: {dense: [{name: price}]}
tasks: [{name: click, window: 24h, label: {event: click}}]
"""


def test_every_kind_can_be_declared() -> None:
    extra = {"unit_change": ", feature: price", "unnormalised_feature": ", feature: rating"}
    declared = ", ".join(f"{{kind: {kind}, day: 2026-01-02{extra.get(kind, '')}}}" for kind in INCIDENT_KINDS)
    spec = parse_spec(SPEC % declared, "planted.yaml")
    assert spec.source.simulator is not None
    assert tuple(incident.kind for incident in spec.source.simulator.incidents) == INCIDENT_KINDS


@pytest.mark.parametrize(
    ("incident", "message"),
    [
        (
            "{kind: flood, day: 2026-01-02}",
            r"source.simulator.incidents.0: set `kind` to one of 'click_log_outage'.*'flood'",
        ),
        ("{day: 2026-01-02}", r"source.simulator.incidents.0: set `kind` to one of 'click_log_outage'"),
        (
            "{kind: late_burst, day: 2026-02-02}",
            r"late_burst on 2026-02-02 is outside the period 2026-01-01 to 2026-01-10",
        ),
        ("{kind: late_burst, day: 2026-01-02, hours: [5, 5]}", r"incidents.0: `hours` is \[first, end\]"),
        ("{kind: unit_change, day: 2026-01-02, feature: prize}", r"incidents.0.feature: .*'prize'"),
        ("{kind: unit_change, day: 2026-01-02, feature: price, facto: 3}", r"incidents.0.facto: .*`factor`"),
        (
            "{kind: new_category, day: 2026-01-05, last_day: 2026-01-04}",
            r"`last_day` 2026-01-04 is before `day` 2026-01-05",
        ),
    ],
)
def test_wrong_incidents_are_explained(incident: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(SPEC % incident, "planted.yaml")
