"""Incidents that concern events and deliveries alone change no input of their day: there is nothing to name there."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.simulator import day_files, write_day
from ctr_pipeline.spec.simulator import SimulatorSettings

DAY = date(2026, 1, 4)
SIZE: dict[str, Any] = {
    "days": 10, "sessions_per_day": 400, "users": 300, "queries": 80, "advertisers": 20, "ads": 90,
}  # fmt: skip


def simulated(root: Path, *incidents: dict[str, Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Impressions and events of the day and of the two days before."""
    settings = SimulatorSettings.model_validate({**SIZE, "incidents": incidents})
    days = [DAY - timedelta(days=n) for n in (2, 1, 0)]
    for day in days:
        write_day(settings, 9, day, root)
    files = [day_files(root, day) for day in days]
    return tuple(pl.concat([pl.read_parquet(file[n]) for file in files]) for n in (0, 1))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame]:
    return simulated(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("kind", ["late_burst", "duplicated_delivery", "click_log_outage"])
def test_the_impressions_are_the_same_ones(kind: str, tmp_path: Path, usual: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    impressions, events = simulated(tmp_path, {"kind": kind, "day": DAY})
    # Ingestion keeps the first copy of an id, and quarantines the others.
    kept = impressions.sort("ingest_ts", maintain_order=True).unique("impression_id", keep="first")
    same = kept.sort("impression_id").drop("ingest_ts")
    assert same.equals(usual[0].sort("impression_id").drop("ingest_ts"))
    assert (kind == "duplicated_delivery") == (impressions.height > kept.height)
    # Events that come twice or late are the same outcomes; of an outage the clicks are gone, which later days count.
    key = ["impression_id", "event_type", "event_ts"]
    found, expected = (frame.select(key).unique().sort(key) for frame in (events, usual[1]))
    if kind == "click_log_outage":
        found, lost = found.filter(pl.col("event_type") != "click"), expected.join(found, on=key, how="anti")
        expected = expected.filter(pl.col("event_type") != "click")
        assert set(lost["event_type"]) == {"click"}
    assert found.equals(expected)
