"""A canary by what its impressions led to: real tables, a real registry, Dagster's asset and its check."""

from datetime import date, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.labels import label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.canary_outcomes import canary_outcomes
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.resources.releases import ROLLED_BACK_TAG
from ctr_pipeline.orchestration.stages import CANARY_JOB
from ctr_pipeline.serving import Bundle
from ctr_pipeline.serving.release import Arm, Outcomes, TrialMode, in_canary
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline_tests.serving.release.registered import NOW, Registered
from ctr_pipeline_tests.serving.shop import TIMED, Shop

HOUR = 3_600_000_000
START = int(NOW.timestamp() * 1_000_000)


def write_tables(
    root: Path, spec: Spec, rows: pl.DataFrame, events: pl.DataFrame, as_of: int, log: pl.DataFrame | None
) -> Lake:
    """Tables of impressions with ``day, impression_id, ts, ingest_ts`` and of their events, labelled as of ``as_of``."""
    lake, days = Lake(root / "lake"), sorted(rows["day"].unique())
    lake.replace_days("impressions", rows, days)
    lake.replace_days("outcome_events", events, sorted(events["day"].unique()))
    labels = label_table(rows.lazy(), events.lazy(), spec.tasks, as_of, spec.split.ingest_lag).collect()
    lake.replace_days("labels", labels, days)
    if log is not None:
        lake.replace_days("serving_log", log, sorted(log["day"].unique()))
    return lake


def day_of(ts: int) -> date:
    return datetime.fromtimestamp(ts / 1e6, NOW.tzinfo).date()


def shown(spec: Spec, count: int, outcomes: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Impressions of two days, with the outcomes [N, T] that are columns of their log as events."""
    times = [START + at * 48 * HOUR // count for at in range(count)]
    rows = pl.DataFrame(
        {
            "day": [day_of(ts) for ts in times],
            "impression_id": [f"i{at}" for at in range(count)],
            "ts": times,
            "ingest_ts": [ts + 1 for ts in times],
        }
    )
    found = [
        (day_of(times[at] + 2), f"i{at}", task.name, "outcome", times[at] + 1, times[at] + 2, "log")
        for at, of in enumerate(outcomes)
        for task, value in zip(spec.tasks, of, strict=True)
        if value
    ]
    names = ("day", "impression_id", "event", "kind", "event_ts", "ingest_ts", "source_log")
    return rows, pl.DataFrame(found, schema=list(names), orient="row")


def logged(
    rows: pl.DataFrame, arms: list[Arm], shas: dict[Arm, str], probabilities: np.ndarray, minutes: int = 0
) -> pl.DataFrame:
    return rows.select(
        "day",
        pl.col("ts") + minutes * 60_000_000,
        "impression_id",
        arm=pl.Series([str(arm) for arm in arms]),
        model_sha=pl.Series([shas[arm] for arm in arms]),
        probabilities=pl.Series(probabilities.astype(np.float32).tolist(), dtype=pl.List(pl.Float32)),
    )


@pytest.mark.parametrize("broken", [True, False])
def test_logit_plus_one_is_rolled_back_and_a_healthy_challenger_is_not(
    shop: Shop, tmp_path: Path, database: Path, bundle: Bundle, plus_one: Bundle, second: Bundle, broken: bool
) -> None:
    registered, spec = Registered.make(tmp_path / "root", database, TIMED), parse_spec(TIMED, "test")
    rng, count = np.random.default_rng(3), 12_000
    registered.register(bundle.directory, "champion")
    # The healthy one is the champion's equal under another SHA-256.
    version = registered.register((plus_one if broken else second).directory, "challenger")
    trial = registered.releases.start(TrialMode.CANARY, None, 0.3, NOW)
    own = (plus_one if broken else second).sha256
    numeric, ids = shop.rows(count)
    truth = bundle.score(numeric, ids).probabilities
    challenger = plus_one.score(numeric, ids).probabilities if broken else truth
    arms = [Arm.CHALLENGER if in_canary(f"u{at % 700}", trial.id, 0.3) else Arm.CHAMPION for at in range(count)]
    is_own = np.array([arm is Arm.CHALLENGER for arm in arms])
    click = rng.random(count) < truth[:, 0]
    outcomes = np.stack(
        [click, click & (rng.random(count) < truth[:, 1] / truth[:, 0]), rng.random(count) < truth[:, 2]], 1
    )
    rows, events = shown(spec, count, outcomes)
    log = logged(
        rows, arms, {Arm.CHAMPION: bundle.sha256, Arm.CHALLENGER: own}, np.where(is_own[:, None], challenger, truth)
    )
    write_tables(registered.root, spec, rows, events, START + 120 * HOUR, log)

    definitions = build_definitions(registered.releases.deployment)
    folder = ServingFolder(registered.root / "serving")
    folder.root.mkdir(exist_ok=True)
    folder.touch_read()
    with dg.instance_for_test() as instance:
        job = definitions.resolve_job_def(CANARY_JOB)
        first, again = (job.execute_in_process(instance=instance) for _ in range(2))
    [check] = first.get_asset_check_evaluations()
    [made] = first.asset_materializations_for_node("canary")
    held = registered.releases.registry.read()
    assert check.passed is not broken
    # A service that starts now must not serve the challenger that was just rolled back.
    assert (folder.read_seconds_ago() < 60) is not broken
    assert [row.data["arm"] for row in made.metadata["outcomes"].records][:2] == ["champion", "challenger"]
    if broken:
        assert held.trial is None
        assert held.last is not None
        assert held.last.outcome == "rolled back"
        assert "observed/expected" in held.last.reason
        assert "observed/expected" in str(check.description)
        assert held.last.reason in str(made.metadata["last"].value)
        assert "challenger" not in held.aliases
        assert ROLLED_BACK_TAG in registered.releases.registry.version(version).tags
        # Reported once: the next look finds nothing new.
        [check] = again.get_asset_check_evaluations()
        assert check.passed
    else:
        assert held.trial == trial
        assert held.aliases["challenger"] == version


def test_without_a_trial_or_tables_nothing_happens(registered: Registered, bundle: Bundle) -> None:
    registered.register(bundle.directory, "champion")
    job = build_definitions(registered.releases.deployment).resolve_job_def(CANARY_JOB)
    with dg.instance_for_test() as instance:
        result = job.execute_in_process(instance=instance)
    [made] = result.asset_materializations_for_node("canary")
    assert [check.passed for check in result.get_asset_check_evaluations()] == [True]
    assert made.metadata["trial"].value == "none"


@pytest.mark.parametrize("goes_on", [True, False])
def test_only_mature_impressions_of_both_arms_count_and_each_once(tmp_path: Path, goes_on: bool) -> None:
    spec = parse_spec(TIMED, "test")
    count, window = 480, 2 * 24 * HOUR
    rng = np.random.default_rng(8)
    outcomes = rng.random((count, 3)) < 0.3
    outcomes[:, 1] &= outcomes[:, 0]
    rows, events = shown(spec, count, outcomes)
    as_of = START + 72 * HOUR
    if goes_on:
        late = {"impression_id": "other", "event": "like", "ingest_ts": as_of - HOUR, "day": day_of(as_of - HOUR)}
        events = pl.concat(
            [events, events.head(1).with_columns(**{name: pl.lit(value) for name, value in late.items()})]
        )
    # A log that has been silent for longer than ever before has stopped.
    arrived = np.unique(events["ingest_ts"].to_numpy())
    delivered = min(as_of, int(arrived[-1] + np.diff(arrived).max()))
    assert (delivered == as_of) is goes_on
    arms = [Arm.CHALLENGER if at % 4 == 0 else Arm.CHAMPION for at in range(count)]
    shas = {Arm.CHAMPION: "a", Arm.CHALLENGER: "b"}
    predicted = rng.random((count, 3))
    log = logged(rows, arms, shas, predicted)
    again = logged(rows, [Arm.CHALLENGER] * count, shas, predicted + 1, minutes=5)
    other = logged(rows, [Arm.CHALLENGER] * count, {Arm.CHALLENGER: "z"}, predicted + 1)
    before = logged(rows, [Arm.CHAMPION] * count, shas, predicted + 1, minutes=-60 * 24 * 5)
    shadow = logged(rows, [Arm.SHADOW] * count, {Arm.SHADOW: "b"}, predicted + 1)
    unshown = log.with_columns(impression_id=pl.lit(None, dtype=pl.String))
    every = pl.concat([log, again, other, before, shadow, unshown])
    lake = write_tables(tmp_path, spec, rows, events, as_of, every)
    found = {of.task: of for of in canary_outcomes(spec, lake, shas, START)}
    own = np.arange(count) % 4 == 0
    mature = {
        name: (rows["ts"] + after <= delivered).to_numpy()
        for name, after in (("click", 6 * HOUR), ("buy", 6 * HOUR), ("like", window))
    }
    assert mature["like"].sum() < mature["click"].sum()
    assert mature["click"].all() == goes_on
    for place, task in enumerate(spec.tasks):
        for side, mask in ((found[task.name].challenger, own), (found[task.name].champion, ~own)):
            counted = mask & mature[task.name]
            expected = Outcomes(
                observed=int(outcomes[counted, place].sum()), expected=float(predicted[counted, place].sum())
            )
            assert (task.name, side.observed) == (task.name, expected.observed)
            assert side.expected == pytest.approx(expected.expected, rel=1e-5)
    assert len(found["click"].batches) == 2
    beside = {of.task: of for of in canary_outcomes(spec, lake, {Arm.CHAMPION: "a", Arm.SHADOW: "b"}, START)}
    assert beside["click"].challenger.observed == int(outcomes[mature["click"], 0].sum())
    assert canary_outcomes(spec, Lake(tmp_path / "nowhere"), shas, START) == []
