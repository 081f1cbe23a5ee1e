"""Files of simulated days: columns, order, determinism, completeness."""

import fcntl
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.simulator import SimulatorError, day_files, log_paths, truth_file, write_day, write_days
from ctr_pipeline.simulator import days as days_module
from ctr_pipeline.spec import load_spec
from ctr_pipeline.spec.simulator import SimulatorSettings

FIRST = date(2026, 1, 1)
SMALL = SimulatorSettings(sessions_per_day=500, users=400, queries=300, advertisers=40, ads=300, days=20)


def _bytes(root: Path, day: date) -> list[bytes]:
    return [file.read_bytes() for file in (*day_files(root, day), truth_file(root, day))]


def test_the_log_has_the_columns_that_the_spec_reads(project: Path, tmp_path: Path) -> None:
    spec = load_spec(project / "specs" / "ads.yaml")
    write_day(SMALL, 1, FIRST, tmp_path)
    log = pl.read_parquet(day_files(tmp_path, FIRST)[0])
    named = {f.source_column for f in (*spec.features.numeric, *spec.features.embedded)}
    columns = spec.impression
    identity = {
        columns.id,
        columns.time,
        columns.ingest_time,
        columns.user,
        columns.session,
        columns.position,
        "traffic",
    }
    assert set(log.columns) == named | identity | {"advertiser_id"}
    assert log.schema["ts"] == pl.Datetime("us", "UTC")
    for feature in spec.features.numeric:
        values = log[feature.source_column].cast(pl.Float64).drop_nulls()
        assert values.is_finite().all()
        assert feature.minimum is None or values.min() >= feature.minimum
        assert feature.maximum is None or values.max() <= feature.maximum


def test_pages_are_whole_ordered_and_inside_their_day(tmp_path: Path) -> None:
    day = FIRST + timedelta(days=7)
    write_day(SMALL, 1, day, tmp_path)
    log, events = (pl.read_parquet(file) for file in day_files(tmp_path, day))
    assert len(log) == 5 * SMALL.sessions_per_day
    assert log["impression_id"].n_unique() == len(log)
    assert log["ts"].is_sorted()
    assert (log["ts"].dt.date() == day).all()
    assert (log["ingest_ts"] >= log["ts"]).all()
    pages = log.group_by("session_id").agg(
        pl.col("position").sort(), pl.col("ad_id").n_unique(), pl.col("ts").n_unique()
    )
    assert pages["position"].to_list() == [[1, 2, 3, 4, 5]] * SMALL.sessions_per_day
    assert (pages["ad_id"] == 5).all()
    assert (pages["ts"] == 1).all()
    assert events["ingest_ts"].is_sorted()
    joined = events.join(log.select("impression_id", "ts"), on="impression_id", how="left")
    assert (joined["event_ts"] >= joined["ts"]).all()
    assert (joined["ingest_ts"] >= joined["event_ts"]).all()


def test_every_logged_step_follows_the_one_before(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"funnel": "credit", "sessions_per_day": 4000})
    write_day(settings, 1, FIRST, tmp_path)
    events = pl.read_parquet(day_files(tmp_path, FIRST)[1])
    times = events.pivot("event_type", index="impression_id", values="event_ts")
    assert events.select("impression_id", "event_type").is_unique().all()
    for earlier, later in (("click", "application"), ("application", "conversion"), ("conversion", "approval")):
        happened = times.filter(pl.col(later).is_not_null())
        assert len(happened) > 0
        assert (happened[earlier] <= happened[later]).all()


def test_bytes_depend_on_settings_seed_and_day_alone(tmp_path: Path) -> None:
    days = [FIRST + timedelta(days=n) for n in range(4)]
    seen: list[date] = []
    write_days(SMALL, 3, days, tmp_path / "together", progress=seen.append, threads=3)
    for day in reversed(days):
        write_day(SMALL, 3, day, tmp_path / "alone")
    assert seen == days
    assert [_bytes(tmp_path / "together", d) for d in days] == [_bytes(tmp_path / "alone", d) for d in days]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(write_day, SMALL, 3, root=tmp_path / "processes"), days[:2]))
    assert [_bytes(tmp_path / "processes", d) for d in days[:2]] == [_bytes(tmp_path / "alone", d) for d in days[:2]]
    write_day(SMALL, 4, days[0], tmp_path / "other")
    assert _bytes(tmp_path / "other", days[0]) != _bytes(tmp_path / "alone", days[0])


def test_days_longer_than_a_chunk_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(days_module, "SESSIONS_AT_ONCE", 120)
    write_day(SMALL, 1, FIRST, tmp_path)
    log = pl.read_parquet(day_files(tmp_path, FIRST)[0])
    assert log["ts"].is_sorted()
    assert log["impression_id"].is_sorted()
    assert log["impression_id"].n_unique() == len(log) == 5 * SMALL.sessions_per_day


def test_written_days_are_left_alone_and_half_written_ones_completed(tmp_path: Path) -> None:
    write_day(SMALL, 1, FIRST, tmp_path)
    impressions, events = day_files(tmp_path, FIRST)
    whole = events.read_bytes()
    events.unlink()
    write_days(SMALL, 1, [FIRST], tmp_path)
    assert events.read_bytes() == whole
    impressions.write_bytes(b"kept")
    write_days(SMALL, 1, [FIRST], tmp_path)
    assert impressions.read_bytes() == b"kept"


def test_a_failed_day_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(days_module, "event_table", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_day(SMALL, 1, FIRST, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_parts_that_a_killed_process_left_are_removed_and_those_of_a_living_one_kept(tmp_path: Path) -> None:
    folder = tmp_path / "impressions"
    folder.mkdir()
    dead, living = folder / ".2026-01-01-abc.partial", folder / ".2026-01-02-def.partial"
    dead.write_bytes(b"PAR1")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_days(SMALL, 1, [FIRST], tmp_path)
        assert living.exists()
        assert not dead.exists()


def test_days_outside_the_period_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SimulatorError, match=r"day 2026-01-21 is not simulated: the period is 20 days from 2026-01-01"):
        write_day(SMALL, 1, FIRST + timedelta(days=20), tmp_path)


def test_log_paths_match_the_logs(tmp_path: Path) -> None:
    write_day(SMALL, 1, FIRST, tmp_path)
    found = [list(glob.parent.glob(glob.name)) for glob in log_paths(tmp_path)]
    assert found == [[file] for file in day_files(tmp_path, FIRST)]


@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1), (30, 3, 4, 2, 12), (60, 50, 20, 5, 60)])
def test_tiny_worlds_work(tmp_path: Path, size: tuple[int, ...]) -> None:
    sessions, users, queries, advertisers, ads = size
    settings = SimulatorSettings(
        sessions_per_day=sessions, users=users, queries=queries, advertisers=advertisers, ads=ads, days=5
    )
    write_days(settings, 1, [FIRST + timedelta(days=n) for n in range(5)], tmp_path)
    log = pl.read_parquet(log_paths(tmp_path)[0])
    assert len(log) == 25 * sessions
    assert np.isfinite(log["query_ad_similarity"].to_numpy()).all()
