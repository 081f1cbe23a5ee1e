"""Each planted incident is found under its name, on its days and on no others; a quiet world raises nothing."""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from scipy.stats import binom

from ctr_pipeline.features import PROFILE_SCHEMA, SYMPTOMS, evaluated_days, find_drift, profile_days, profiled_columns
from ctr_pipeline.features.drift_detection import newcomers, outcome_gap, shift, surge
from ctr_pipeline.features.profile import LISTED, half_octave
from ctr_pipeline.simulator import write_days
from ctr_pipeline.sources import Pseudonymiser, log_range, read_events, read_impressions
from ctr_pipeline.spec import Spec, load_spec, parse_spec
from ctr_pipeline.spec.simulator import INCIDENT_KINDS

FIRST = date(2026, 1, 1)
DAY = FIRST + timedelta(days=12)
NEXT = DAY + timedelta(days=1)
KEY = Pseudonymiser(b"0123456789abcdef")
SIZE: dict[str, Any] = {
    "days": 17,
    "sessions_per_day": 1000,
    "users": 2000,
    "queries": 500,
    "advertisers": 60,
    # Enough for every category on every day: where ads run out, the mix of what is shown does change.
    "ads": 3000,
}

# What each incident must raise: symptom, the days, and the features or tasks that show it.
EXPECTED: dict[str, tuple[dict[str, Any], dict[str, set[date]], set[str]]] = {
    "click_log_outage": ({}, {"outcome_gap": {DAY}}, {"click"}),
    "late_burst": (
        {"delay_hours": 72},
        # The day on which nothing came, and the day on which it all came.
        {"outcome_gap": {DAY}, "late_arrivals": {DAY + timedelta(days=3)}},
        {"click", "add_to_cart", "checkout"},
    ),
    "duplicated_delivery": ({}, {"duplicate_delivery": {DAY}}, {"impressions", "outcome_events"}),
    "unit_change": ({"feature": "price", "last_day": NEXT}, {"feature_scale": {DAY, NEXT}}, {"price"}),
    "unnormalised_feature": (
        {"feature": "query_ad_similarity", "last_day": NEXT},
        {"feature_scale": {DAY, NEXT}},
        {"query_ad_similarity"},
    ),
    "bot_campaign": ({}, {"anomalous_users": {DAY}}, {"user"}),
    "traffic_shift": (
        {"last_day": NEXT},
        {"traffic_mix": {DAY, NEXT}},
        {"device_type", "operating_system", "connection_type"},
    ),
    "new_category": ({"last_day": NEXT}, {"unseen_categories": {DAY, NEXT}}, {"category_id"}),
}


def marketplace(project: Path, seed: int, incidents: list[dict[str, Any]], **size: Any) -> Spec:
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    content["seed"] = seed
    content["source"]["simulator"].update({**SIZE, **size, "incidents": incidents})
    return parse_spec(yaml.safe_dump(content), "marketplace.yaml")


def ingested_profile(spec: Spec, root: Path) -> tuple[pl.DataFrame, list[date]]:
    """The profiles of a simulated log after it came through the door."""
    simulator = spec.source.simulator
    assert simulator is not None
    days = [simulator.first_day + timedelta(days=n) for n in range(simulator.days)]
    write_days(simulator, spec.seed, days, root)
    shown, events = (sorted((root / kind).glob("*.parquet")) for kind in ("impressions", "events"))
    impressions = read_impressions(spec, shown, days[0], days[-1], KEY, days[0])
    outcomes = read_events(spec, shown, {"outcome_events": events}, days[0], days[-1], KEY, days[0])
    kept = impressions.kept.select(profiled_columns(spec))
    return profile_days(spec, kept, outcomes.kept, impressions.quarantined, days), days


def failing(findings: list[Any]) -> Mapping[str, set[date]]:
    return {s: {f.day for f in findings if f.symptom == s} for s in SYMPTOMS if any(f.symptom == s for f in findings)}


def test_every_incident_has_an_expectation() -> None:
    assert set(EXPECTED) == set(INCIDENT_KINDS)
    assert {symptom for _, days, _ in EXPECTED.values() for symptom in days} <= set(SYMPTOMS)


@pytest.mark.parametrize("kind", INCIDENT_KINDS)
def test_each_incident_is_found_on_its_days_and_on_no_others(project: Path, tmp_path: Path, kind: str) -> None:
    extra, expected, names = EXPECTED[kind]
    spec = marketplace(project, 7, [{"kind": kind, "day": DAY, **extra}])
    findings = find_drift(*ingested_profile(spec, tmp_path))
    assert failing(findings) == expected
    assert {finding.name for finding in findings} <= names


@pytest.mark.parametrize("hours", [(0, 12), (8, 20)])
def test_an_outage_of_some_hours_is_named_with_its_hours(project: Path, tmp_path: Path, hours: tuple[int, int]) -> None:
    outage = {"kind": "click_log_outage", "day": DAY, "hours": list(hours)}
    findings = find_drift(*ingested_profile(marketplace(project, 7, [outage], sessions_per_day=3000), tmp_path))
    assert failing(findings) == {"outcome_gap": {DAY}}
    [finding] = findings
    words = finding.message.split()
    first, end = int(words[words.index("from") + 1]), int(words[words.index("to") + 1])
    assert hours[0] <= first <= hours[0] + 3
    assert hours[1] - 3 <= end <= hours[1] + 1


@pytest.mark.parametrize(
    ("seed", "size"),
    [(8, {"days": 24}), (9, {"days": 24, "sessions_per_day": 2000, "users": 20_000})],
)
def test_a_quiet_world_raises_nothing(project: Path, tmp_path: Path, seed: int, size: dict[str, Any]) -> None:
    profile, days = ingested_profile(marketplace(project, seed, [], **size), tmp_path)
    assert find_drift(profile, days) == []
    assert len(evaluated_days(profile, days)) == 21


@pytest.mark.parametrize("name", ["ga4", "criteo", "open_bandit", "loan_funnel"])
def test_real_logs_raise_nothing(project: Path, shared_data: Path, name: str) -> None:
    spec = load_spec(project / "specs" / f"{name}.yaml")
    file = next(shared_data.glob(f"{name.split('_')[0]}*.parquet"))
    first, last = log_range(spec, (file,))
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    impressions = read_impressions(spec, (file,), first, last, KEY, first)
    outcomes = read_events(spec, (file,), {}, first, last, KEY, first)
    profile = profile_days(
        spec, impressions.kept.select(profiled_columns(spec)), outcomes.kept, impressions.quarantined, days
    )
    assert find_drift(profile, days) == []
    assert len(evaluated_days(profile, days)) >= 4


def test_a_profile_does_not_depend_on_the_days_made_with_it(project: Path, tmp_path: Path) -> None:
    spec = marketplace(project, 7, [], days=4)
    whole, days = ingested_profile(spec, tmp_path)
    shown, events = (sorted((tmp_path / kind).glob("*.parquet")) for kind in ("impressions", "events"))
    for day in days:
        impressions = read_impressions(spec, shown, day, day, KEY, days[0])
        outcomes = read_events(spec, shown, {"outcome_events": events}, day, day, KEY, days[0])
        alone = profile_days(spec, impressions.kept, outcomes.kept, impressions.quarantined, [day])
        assert alone.equals(whole.filter(pl.col("day") == day))


def test_a_profile_counts_by_hand(project: Path) -> None:
    spec = load_spec(project / "specs" / "loan_funnel.yaml")
    hour, day = 3_600_000_000, date(1970, 1, 2)
    at = 86_400_000_000 + 5 * hour
    impressions = pl.DataFrame(
        {"day": [day] * 4, "impression_id": ["a", "b", "c", "d"], "ts": [at] * 4, "user": None, "session": None}
        | {"position": None, "traffic": None, "amount_requested": [0.0, 100.0, 141.0, None]}
        | {"amount_exact": ["x", "x", "y", None]},
        schema_overrides={"user": pl.String, "session": pl.String, "position": pl.Int32, "traffic": pl.String},
    )
    outcomes = pl.DataFrame(
        {"day": [day] * 3, "impression_id": ["a", "a", "z"], "event": ["accepted"] * 3}
        | {"kind": ["outcome", "outcome", "closed"], "event_ts": [at, at, at], "ingest_ts": [at, at + 7 * hour, at]}
    )
    quarantined = pl.DataFrame({"day": [day, day], "reason": ["duplicate_id", "bad_time"]})
    profile = profile_days(spec, impressions, outcomes, quarantined, [day, day + timedelta(days=1)])
    assert dict(profile.schema) == PROFILE_SCHEMA
    found = {(m, n, b): v for d, m, n, b, v in profile.iter_rows() if d == day}
    assert found["rows", "impressions", None] == 4
    assert found["hour_rows", "impressions", "5"] == 4
    assert (found["hour_outcomes", "accepted", "5"], found["hour_outcomes", "accepted", "12"]) == (1, 1)
    assert (found["outcomes", "accepted", None], found["late", "accepted", None]) == (2, 1)
    assert (found["deliveries", "impressions", None], found["repeats", "impressions", None]) == (5, 1)
    assert (found["deliveries", "outcome_events", None], found["repeats", "outcome_events", None]) == (2, 1)
    assert (found["values", "amount_requested", None], found["missing", "amount_requested", None]) == (4, 1)
    assert found["quantile", "amount_requested", "0.5"] == 100
    assert (found["category", "amount_exact", "x"], found["missing", "amount_exact", None]) == (2, 1)
    assert sum(v for (m, _, _), v in found.items() if m == "histogram") == 3
    empty = profile.filter(pl.col("day") == day + timedelta(days=1))
    assert empty["value"].to_list() == [0, 0]


def test_half_octaves_keep_the_order_of_the_values() -> None:
    values = np.concatenate([-np.geomspace(1e9, 1e-6, 200), [0.0], np.geomspace(1e-6, 1e9, 200)])
    bins = pl.DataFrame({"x": values}).select(half_octave(pl.col("x"))).to_series()
    assert bins.is_sorted()
    assert bins[200] == 0
    assert bins.n_unique() > 150
    doubled = pl.DataFrame({"x": 2 * values}).select(half_octave(pl.col("x"))).to_series()
    assert set((doubled - bins).abs().to_list()) == {0, 2}


def poisson_days(random: np.random.Generator, rate: float, days: int) -> Any:
    shape = 1 + 0.6 * np.sin(2 * np.pi * (np.arange(24) - 10) / 24)
    return random.poisson(rate * shape / 24, (days, 24)).astype(float)


def test_gaps_are_rare_in_poisson_counts_and_found_when_planted() -> None:
    random = np.random.default_rng(5)
    shown = np.full((15, 24), 100.0)
    quiet = [outcome_gap(poisson_days(random, rate, 15), shown) for rate in (30, 100, 1000) for _ in range(300)]
    assert [gap for gap in quiet if gap is not None] == []
    found = 0
    for _ in range(100):
        counts = poisson_days(random, 200, 15)
        counts[0, 9:15] = 0
        gap = outcome_gap(counts, shown)
        found += gap is not None and gap[0] <= 10 and gap[1] >= 14
    assert found >= 95


def test_the_gap_test_is_the_exact_binomial_one() -> None:
    """Equal reference days, no overdispersion: the verdict turns where the binomial tail crosses the level."""
    for arrived in range(60):
        counts, shown = np.zeros((8, 24)), np.ones((8, 24))
        counts[1:, 12] = 60
        counts[0, 12] = arrived
        p = binom.cdf(arrived, arrived + 7 * 60, 1 / 8)
        assert (outcome_gap(counts, shown) is not None) == (p * 300 < 1e-6 and arrived < 30), arrived


def test_outcomes_that_stop_with_the_traffic_are_no_gap() -> None:
    random = np.random.default_rng(6)
    counts, shown = poisson_days(random, 500, 15), np.full((15, 24), 100.0)
    counts[0, 12:], shown[0, 12:] = 0, 0
    assert outcome_gap(counts, shown) is None
    counts[0, :] = 0
    assert outcome_gap(counts, shown) is not None


def test_outcomes_that_rest_at_weekends_are_no_gap() -> None:
    random = np.random.default_rng(7)
    counts = poisson_days(random, 500, 15)
    weekend = [n for n in range(15) if n % 7 in (0, 6)]
    counts[weekend] = 0
    assert outcome_gap(counts, np.full((15, 24), 100.0)) is None


def test_shifts_are_rare_among_equal_multinomials_and_found_when_planted() -> None:
    random = np.random.default_rng(8)
    law = random.dirichlet(np.full(12, 2.0))
    for rows in (60, 500, 20_000):
        for merge in (True, False):
            for _ in range(200):
                assert shift(random.multinomial(rows, law, 15).astype(float), 0.1, merge=merge) is None
    counts = random.multinomial(2000, law, 15).astype(float)
    counts[0] = random.multinomial(2000, np.roll(law, 4))
    assert shift(counts, 0.1) is not None


def test_rows_that_come_in_clusters_are_no_shift() -> None:
    """20 rows of each client are alike; a χ² test of independent rows would alarm on most days."""
    random = np.random.default_rng(9)
    law = np.array([0.6, 0.3, 0.1])
    assert [shift(20.0 * random.multinomial(60, law, 15), 0.1, merge=False) for _ in range(300)].count(None) == 300


def test_values_that_are_new_to_a_closed_set_are_told_from_those_of_an_open_one() -> None:
    closed = np.zeros((15, 4))
    closed[:, :3] = 100
    closed[0, 3] = 30
    new, rows = newcomers(closed)
    assert new.tolist() == [False, False, False, True]
    assert rows.tolist() == [30] + [0] * 13
    assert surge(rows, np.full(14, 330.0), 0.01) is not None
    opened = np.zeros((15, 40))
    opened[:, 0] = 100
    for n in range(15):
        opened[n, 1 + n] = 30
    assert surge(newcomers(opened)[1], np.full(14, 130.0), 0.01) is None
    assert closed.shape[1] < LISTED


def test_a_surge_needs_size_and_surprise() -> None:
    whole = np.full(15, 1000.0)
    usual = np.array([0, *([20, 22, 18, 21, 19, 20, 23] * 2)], float)

    def at(count: float) -> Any:
        return surge(np.concatenate([[count], usual[1:]]), whole, 0.05)

    assert at(60) is None  # below the floor
    assert at(80) == (0.08, 0.02)
    assert surge(np.full(15, 19.0), np.full(15, 20.0), 0.05) is None
    noisy = np.concatenate([[80.0], np.tile([0.0, 60.0], 7)])
    assert surge(noisy, whole, 0.02) is None
