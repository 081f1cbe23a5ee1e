"""Labels are the same on DuckDB, Polars and Spark, to the bit: values, types and the order of the stored rows."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.engines.base import Engine, EngineName
from ctr_pipeline.labels import (
    LABEL_COLUMNS,
    TABLE_ORDER,
    facts_in,
    join_labels,
    label_column,
    label_impressions,
    label_table,
    labels_of,
    state_counts,
    states_as_of,
)
from ctr_pipeline.lake import Lake
from ctr_pipeline.spec.tasks import Label, Task
from ctr_pipeline_tests.engine_sessions import ENGINES, Session, bits, collected
from ctr_pipeline_tests.labels.worlds import EVENTS, FUNNELS, IMPRESSIONS, random_world

FIRST = date(2026, 3, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(4)]
# Windows from the impression and from an outcome, with and without a parent or a closing.
MIXED = (
    Task(name="click", window=3, label=Label(event="click")),
    Task(name="buy", parent="click", window=4, window_from="click", label=Label(event="buy")),
    Task(name="accepted", window=3, label=Label(time_column="a", closed_by=["c"])),
    Task(name="approved", parent="accepted", window=6, label=Label(time_column="b", closed_by=["c"])),
)
BASES = (0, -7, 1_772_323_200_000_000 - 5)
"""Instants at which a world begins: 1970, before it, and across a midnight of 2026."""


def worlds(tasks: Sequence[Task], size: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Impressions and events with windows of a few microseconds, so that edges and equal times are common.

    Ids are empty, unicode or long here and there; events come twice, belong to no impression, have no id or no time.
    """
    pick = random.Random(seed)
    base = BASES[seed % len(BASES)]
    shown, events = random_world(tasks, size, seed).frames()
    spare = ["", " ", "é", "e\u0301", "日本", "\U0001f600", "I000", "a,b", "'", '"', "\\", "\n", "x" * 300]
    names = {name: pick.choice(spare) + name if pick.random() < 0.3 else name for name in shown["impression_id"]}
    for name, other in zip(list(names)[:3], ("", " ", "日本"), strict=False):
        names[name] = other
    rename = pl.col("impression_id").replace_strict(names, default="orphan")
    shown = shown.with_columns(rename, pl.col("ts", "ingest_ts") + base)
    shown = shown.with_columns(day=pl.Series([pick.choice(DAYS[:3]) for _ in range(size)], dtype=pl.Date))
    events = events.with_columns(rename, pl.col("event_ts", "ingest_ts") + base)
    extra = [
        (None, tasks[0].name, "outcome", base + 3, base + 3),
        ("", "no task", "outcome", base + 3, base + 3),
        ("", tasks[0].name, "unknown", None, base + 4),
        ("", tasks[0].name, "outcome", None, base + 4),
    ]
    events = pl.concat([events, events[::3], pl.DataFrame(extra, schema=EVENTS, orient="row")])
    events = events.sample(fraction=1, shuffle=True, seed=seed)
    # Arrival days as the pipeline has them do not matter to the labels.
    events = events.with_columns(day=pl.Series([pick.choice(DAYS) for _ in range(events.height)], dtype=pl.Date))
    return shown.select(*IMPRESSIONS), events.select("day", *EVENTS), base


def lake_of(folder: Path, shown: pl.DataFrame, events: pl.DataFrame) -> Lake:
    lake = Lake(folder)
    lake.replace_days("impressions", shown, DAYS)
    lake.replace_days("outcome_events", events, DAYS)
    return lake


def labelled(
    engine: Engine, lake: Lake, tasks: Sequence[Task], as_of: int, lag: int, early: int = 0
) -> dict[str, pl.DataFrame]:
    """All that the package computes, through the engine's own reading and writing."""
    shown, events = engine.scan(lake, "impressions"), engine.scan(lake, "outcome_events")
    engine.replace_days(lake, engine.name, label_table(shown, events, tasks, as_of, lag, early), DAYS, TABLE_ORDER)
    table = engine.scan(lake, engine.name)
    names = [task.name for task in tasks]
    joined = collected(join_labels(shown, table, tasks, names, as_of, lag))
    delivered = dict.fromkeys(names, as_of - 10)
    watched = collected(join_labels(shown, table, tasks, names, as_of, lag, delivered))
    dense = labels_of(shown, facts_in(table), tasks, as_of, lag)
    counts = [(task, *states.values()) for task, states in sorted(state_counts(dense).items())]
    found = {
        "table": lake.scan(engine.name).collect(),
        "dense": collected(dense).sort("impression_id", "task"),
        "earlier": collected(states_as_of(dense, as_of - 6)).sort("impression_id", "task"),
        "joined": joined.select("impression_id", *map(label_column, names)).sort("impression_id"),
        "delivered": watched.select("impression_id", *map(label_column, names)).sort("impression_id"),
        "counts": pl.DataFrame(counts, orient="row"),
    }
    return {name: bits(frame) for name, frame in found.items()}


def assert_same(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert found.keys() == expected.keys()
    for name, frame in found.items():
        assert frame.schema == expected[name].schema, name
        assert_frame_equal(frame, expected[name])


@pytest.mark.parametrize("tasks", FUNNELS, ids=lambda tasks: "-".join(task.name for task in tasks))
def test_duckdb_and_polars_agree_on_each_funnel(tmp_path: Path, sessions: Session, tasks: tuple[Task, ...]) -> None:
    for seed, lag in ((0, 0), (1, 2), (2, 1)):
        shown, events, base = worlds(tasks, 150, seed)
        lake = lake_of(tmp_path / str(seed), shown, events)
        expected = labelled(sessions("polars"), lake, tasks, base + 17, lag)
        assert expected["dense"]["state"].n_unique() > 2
        assert_same(labelled(sessions("duckdb"), lake, tasks, base + 17, lag), expected)


@pytest.mark.parametrize("name", ["duckdb", "spark"])
def test_engines_agree_with_polars_on_a_mixed_funnel(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    shown, events, base = worlds(MIXED, 400, 2)
    lake = lake_of(tmp_path, shown, events)
    expected = labelled(sessions("polars"), lake, MIXED, base + 20, 1)
    # Every state occurs, and so do headers, so that agreement says something.
    assert expected["dense"]["state"].n_unique() == 5
    assert expected["table"]["impression_id"].null_count() == 3
    assert expected["dense"].columns == list(LABEL_COLUMNS)
    assert not expected["delivered"].equals(expected["joined"])
    assert_same(labelled(sessions(name), lake, MIXED, base + 20, 1), expected)
    lenient = labelled(sessions("polars"), lake, MIXED, base + 20, 1, early=2)
    assert not lenient["dense"].equals(expected["dense"])
    assert_same(labelled(sessions(name), lake, MIXED, base + 20, 1, early=2), lenient)


@pytest.mark.nightly
@pytest.mark.parametrize("tasks", FUNNELS, ids=lambda tasks: "-".join(task.name for task in tasks))
def test_spark_agrees_on_each_funnel(tmp_path: Path, sessions: Session, tasks: tuple[Task, ...]) -> None:
    shown, events, base = worlds(tasks, 300, 5)
    lake = lake_of(tmp_path, shown, events)
    for as_of in (base + 9, base + 25):
        assert_same(
            labelled(sessions("spark"), lake, tasks, as_of, 2), labelled(sessions("polars"), lake, tasks, as_of, 2)
        )
    scratch = {}
    for name in ENGINES:
        engine = sessions(name)
        labels = label_impressions(
            engine.scan(lake, "impressions"), engine.scan(lake, "outcome_events"), tasks, base + 17, 1
        )
        scratch[name] = collected(labels).sort("impression_id", "task")
    assert_frame_equal(scratch["duckdb"], scratch["polars"])
    assert_frame_equal(scratch["spark"], scratch["polars"])
