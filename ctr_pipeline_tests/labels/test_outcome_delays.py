from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.labels.outcome_delays import EDGES, delays_from_json, outcome_delays
from ctr_pipeline.labels.table import TABLE_COLUMNS
from ctr_pipeline.spec import Spec, parse_spec

SECOND, HOUR, DAY = 10**6, 3600 * 10**6, 86_400 * 10**6
FIRST = date(2026, 1, 1)
START = 20_454 * DAY  # 2026-01-01

SPEC = """
version: 1
name: shop
seed: 1
source: {impressions: {paths: [shown.parquet]}, events: [{paths: [events.parquet]}]}
impression: {id: id, time: at, user: user}
features: {dense: [{name: price}]}
tasks:
  - {name: click, window: 1h, label: {event: click}}
  - {name: order, parent: click, window: 2d, window_from: click, label: {event: order}}
"""


@pytest.fixture(scope="module")
def spec() -> Spec:
    return parse_spec(SPEC, "test")


def fact(day: int, task: str, ts: int, at: int | None, late: int | None = None, known: int = 0) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(TABLE_COLUMNS)
    return values | {
        "day": FIRST + timedelta(days=day), "impression_id": f"i{day}-{ts}", "ts": ts, "ingest_ts": ts, "task": task,
        "event_ts": at, "known_ts": None if at is None else at + known, "out_of_window_ts": late,
        "out_of_window_known_ts": None if late is None else late + known,
    }  # fmt: skip


def table(*facts: dict[str, object]) -> pl.LazyFrame:
    header: dict[str, object] = dict.fromkeys(TABLE_COLUMNS)
    header |= {"day": FIRST, "impressions": 5}
    text = {"impression_id": pl.String, "task": pl.String, "day": pl.Date}
    schema = {name: text.get(name, pl.Int64) for name in TABLE_COLUMNS}
    return pl.LazyFrame([header, *facts], schema=schema)


def test_delays_are_counted_since_the_start_of_the_window(spec: Spec) -> None:
    ts = START + HOUR
    rows = table(
        fact(0, "click", ts, ts + 20 * SECOND),
        fact(0, "order", ts, ts + 20 * SECOND + 5 * HOUR),
        fact(9, "click", ts + 9 * DAY, ts + 9 * DAY - SECOND),
        fact(9, "order", ts + 9 * DAY, None, ts + 12 * DAY),
    )
    found = outcome_delays(rows, [FIRST + timedelta(days=n) for n in (0, 9)], spec.tasks, START + 30 * DAY)
    click, order = found["click"], found["order"]
    assert (click.start, click.window, click.outcomes, click.outside) == ("impression", 3600.0, 2, 0)
    assert (order.start, order.window, order.outcomes, order.outside) == ("click", 172_800.0, 2, 1)
    # One before the impression has none; the other took 20 s.
    assert np.flatnonzero(click.counts).tolist() == [0, int(np.searchsorted(EDGES, 20, side="right")) - 1]
    places = np.searchsorted(EDGES, [5 * 3600, 3 * 86_400 + 1], side="right") - 1
    assert np.flatnonzero(order.counts).tolist() == places.tolist()
    assert delays_from_json({task: of.to_json() for task, of in found.items()}) == found


def test_young_impressions_and_what_was_not_known_are_left_out(spec: Spec) -> None:
    old, young = START + HOUR, START + 10 * DAY
    as_of = young + HOUR // 2
    rows = table(
        fact(0, "click", old, old + SECOND),
        fact(0, "order", old, old + 2 * SECOND, known=30 * DAY),
        fact(10, "click", young, young + SECOND),
    )
    found = outcome_delays(rows, [FIRST, FIRST + timedelta(days=10)], spec.tasks, as_of)
    assert found["click"].outcomes == 1
    assert found["order"].outcomes == 0
    assert outcome_delays(rows, [FIRST + timedelta(days=10)], spec.tasks, young + 2 * HOUR)["click"].outcomes == 1
    # A lag of the log makes them mature that much later.
    days = [FIRST + timedelta(days=10)]
    assert outcome_delays(rows, days, spec.tasks, young + 2 * HOUR, ingest_lag=DAY)["click"].outcomes == 0


def test_each_outcome_lies_in_its_interval(spec: Spec) -> None:
    rng = np.random.default_rng(0)
    seconds = 10 ** rng.uniform(-1, 3.5, 200)
    facts = [fact(0, "click", START + n * SECOND, START + n * SECOND + int(s * SECOND)) for n, s in enumerate(seconds)]
    found = outcome_delays(table(*facts), [FIRST], spec.tasks, START + 9 * DAY)["click"]
    expected, _ = np.histogram(np.trunc(seconds * SECOND) / SECOND, EDGES)
    assert list(found.counts) == np.trim_zeros(expected, "b").tolist()
