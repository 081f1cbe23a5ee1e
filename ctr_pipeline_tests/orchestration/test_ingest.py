"""Days of a log that are read apart hold what they hold when they are read together."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.in_process import PipelineError, run_days
from ctr_pipeline.sources import extent

INGESTED = ("impressions", "outcome_events")
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [date(2026, 1, n) for n in (1, 2, 3)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Thirty impressions a day; one id comes again on the next day, and one time is of the future."""
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    number = range(90)
    times = [START + timedelta(hours=0.8) * n for n in number]
    times[70] = datetime(2150, 1, 1, tzinfo=UTC)
    pl.DataFrame(
        {"id": ["i3" if n == 40 else f"i{n}" for n in number], "time": times, "price": 1.0, "clicked": 1}
    ).write_parquet(tmp_path / "log.parquet")
    spec = {
        "version": 1,
        "name": "shop",
        "days": {"first": DAYS[0], "last": DAYS[-1]},
        "source": {"impressions": {"paths": ["log.parquet"]}},
        "impression": {"id": "id", "time": "time"},
        "features": {"dense": [{"name": "price"}]},
        "tasks": [{"name": "click", "window": "2d", "label": {"column": "clicked"}}],
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    where = {"CTR_SPEC": str(tmp_path / "spec.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")}
    return Deployment.from_environment(Environment.of(where))


def test_days_read_apart_hold_what_they_hold_together(settings: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a run reads all days, in one go or a day at a time, or each run reads one."""
    tables = ("impressions", "impressions_quarantine", "outcome_events", "outcome_events_quarantine")
    stored = []
    for at_once, intervals in ((1e9, [DAYS]), (1.0, [DAYS]), (1e9, [[day] for day in DAYS])):
        monkeypatch.setattr(extent, "_INTERVAL_BYTES", at_once)
        with dg.instance_for_test() as instance:
            for days in intervals:
                run_days(build_definitions(settings), instance, "daily_ingest", INGESTED, days)
        lake = Lake(settings.paths.lake)
        stored.append({table: lake.scan(table).collect() for table in tables})
        for table in tables:
            lake.replace_days(table, stored[0][table].clear(), DAYS)
    together, *apart = stored
    assert all(part[table].equals(together[table]) for table in tables for part in apart)
    found = together["impressions_quarantine"].select("day", "reason", "source_row").sort("source_row").rows()
    assert found == [(DAYS[1], "duplicate_id", 40), (DAYS[0], "future_time", 70)]
    assert together["impressions"].height == together["outcome_events"].height == 88


def test_a_refused_run_leaves_no_row_and_no_file(settings: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many rows are broken on the last day, when the days before it have been written."""
    monkeypatch.setattr(extent, "_INTERVAL_BYTES", 1.0)
    path = settings.spec_folder / "log.parquet"
    log = pl.read_parquet(path)
    broken = pl.col("time") >= START + timedelta(days=2)
    log.with_columns(id=pl.when(broken).then(None).otherwise("id")).write_parquet(path)
    with dg.instance_for_test() as instance, pytest.raises(PipelineError, match="missing_id: 30"):
        run_days(build_definitions(settings), instance, "daily_ingest", ("impressions",), DAYS)
    lake = Lake(settings.paths.lake)
    assert not lake.exists("impressions")
    assert lake.scan("impressions_quarantine").collect().height >= 30
    assert not list((settings.paths.lake / "impressions").rglob("*.parquet"))
