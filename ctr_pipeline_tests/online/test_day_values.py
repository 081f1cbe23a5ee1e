"""The values of the day after the last one that was read are those that the table has once it is read."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline.engines import engine_session
from ctr_pipeline.engines.base import EngineName
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.day_values import values_of_day
from ctr_pipeline_tests.features.pasts import EXACT, FIRST, SPEC, random_past, start

PAST = random_past(11, 400)
DAY = FIRST + timedelta(days=8)


def read_before(day: date, root: Path) -> Lake:
    """The tables as they are when the logs of the days before ``day`` have been read."""
    lake, known = Lake(root), pl.col("ingest_ts") < start(day)
    shown = PAST.impressions().filter(known).sort("day").collect()
    lake.replace_days("impressions", shown, sorted(set(shown["day"])))
    events = PAST.outcome_events().filter(known).with_columns(day=pl.from_epoch("ingest_ts", "us").dt.date()).collect()
    lake.replace_days("outcome_events", events, sorted(set(events["day"])))
    return lake


@pytest.mark.parametrize("name", ["duckdb", "polars"])
def test_tomorrows_values_are_those_that_the_table_will_have(name: EngineName, tmp_path: Path) -> None:
    lake = read_before(DAY, tmp_path / "lake")
    table = PAST.history([DAY]).filter(~pl.col("feature").is_in(EXACT))
    with engine_session(name, tmp_path, {}) as engine:
        found, version = values_of_day(SPEC, engine, lake, DAY, FIRST)
    assert version is None
    order = ["feature", "key"]
    assert found.sort(order).equals(table.select(found.columns).sort(order))
    assert found.height > 50


def test_a_day_of_the_table_is_read_from_it(tmp_path: Path) -> None:
    lake = read_before(DAY, tmp_path / "lake")
    rows = PAST.history([DAY]).with_columns(value=pl.col("value") + 1)
    version = lake.replace_days("history", rows, [DAY])
    with engine_session("polars", tmp_path, {}) as engine:
        found, read = values_of_day(SPEC, engine, lake, DAY, FIRST)
    assert read == version
    assert found.equals(rows.filter(~pl.col("feature").is_in(EXACT)).select(found.columns))
    assert rows.height > found.height
