"""A small log with late clicks, two kinds of traffic and missing values, and the tables made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from ctr_pipeline.datasets import (
    PackedDataset,
    SplitBounds,
    Tables,
    fit_propensity,
    fit_vocabulary,
    pack_dataset,
    split_bounds,
)
from ctr_pipeline.features import history_for_days
from ctr_pipeline.labels import label_table
from ctr_pipeline.spec import Spec, parse_spec

DAY = 86_400_000_000
HOUR = DAY // 24
FIRST = date(2026, 3, 1)
START = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
DAYS = 14
SPEC = """
version: 1
name: small
source: {impressions: {paths: [x.parquet]}, events: [{paths: [y.parquet]}]}
impression:
  id: i
  time: t
  user: u
  session: s
  position: p
  traffic: {column: traffic, random: [random], production: [production]}
features:
  dense: [{name: price}]
  categorical: [{name: ad}]
  history: [{name: ad_rate, kind: rate, key: ad, task: click, days: 2}]
tasks:
  - {name: click, window: 12h, label: {event: click}}
  - {name: buy, parent: click, window: 1d, window_from: click, label: {event: buy}}
split:
  test: {days: 2}
  calibration: {days: 1}
  validation: {days: 1}
  ingest_lag: 12h
propensity: {weighting: ips, responses: [click], smoothing: 20}
"""


def a_spec(text: str = SPEC) -> Spec:
    return parse_spec(text, "small.yaml")


@dataclass(frozen=True)
class Log:
    impressions: pl.DataFrame
    events: pl.DataFrame

    @property
    def end(self) -> int:
        return START + DAYS * DAY

    def bounds(self, spec: Spec) -> SplitBounds:
        return split_bounds(spec, self.impressions["ts"].to_numpy(), self.end)

    def tables(self, spec: Spec, as_of: int | None = None) -> Tables:
        frames = self.impressions.lazy(), self.events.lazy()
        labels = label_table(*frames, spec.tasks, as_of or self.end, spec.split.ingest_lag)
        days = [FIRST + timedelta(days=number) for number in range(DAYS)]
        history = history_for_days(spec, *frames, days)
        return Tables(impressions=frames[0], labels=labels.collect().lazy(), history=history.collect().lazy())


def a_log(seed: int = 1, rows_per_day: int = 60) -> Log:
    draw = np.random.default_rng(seed)
    size = DAYS * rows_per_day
    ts = START + np.sort(draw.choice(DAYS * DAY // 1000, size=size, replace=False)) * 1000
    late = draw.random(size) < 0.05
    ids = [f"{number:032x}" for number in draw.permutation(size)]
    session = np.arange(size) // 3
    impressions = pl.DataFrame(
        {
            "impression_id": ids,
            "ts": ts,
            "ingest_ts": ts + np.where(late, 30 * HOUR, 1),
            "user": [None if s % 7 == 0 else f"u{s % 11}" for s in session],
            "session": [None if s % 21 == 0 else f"s{s}" for s in session],
            "position": pl.Series([None if n % 50 == 0 else n % 3 + 1 for n in range(size)], dtype=pl.Int32),
            "traffic": [("random", "production", None)[min(s % 5, 2) if s % 5 != 3 else 1] for s in session],
            "price": np.where(draw.random(size) < 0.1, np.nan, draw.normal(5, 2, size)),
            "ad": [None if x == 9 else f"ad{x}" for x in draw.integers(0, 10, size)],
        }
    ).with_columns(pl.col("price").fill_nan(None), day=pl.from_epoch("ts", "us").dt.date())
    # The ranker of production knows what to show first: the weights of positions have something to undo.
    chosen = ((impressions["traffic"] == "production") & (impressions["position"] == 1)).fill_null(False).to_numpy()
    clicked = np.flatnonzero(draw.random(size) < np.where(chosen, 0.75, 0.35))
    bought = clicked[draw.random(len(clicked)) < 0.4]
    click_ts = ts[clicked] + draw.integers(0, 14 * HOUR, len(clicked))
    by_row = dict(zip(clicked.tolist(), click_ts.tolist(), strict=True))
    buy_ts = np.array([by_row[n] for n in bought.tolist()]) + draw.integers(0, 26 * HOUR, len(bought))
    delays = (np.where(draw.random(len(clicked)) < 0.2, 40 * HOUR, 1), np.ones(len(bought), np.int64))
    events = pl.concat(
        pl.DataFrame(
            {
                "impression_id": [ids[n] for n in who],
                "event": name,
                "kind": "outcome",
                "event_ts": at,
                "ingest_ts": at + lag,
            }
        )
        for name, who, at, lag in (("click", clicked, click_ts, delays[0]), ("buy", bought, buy_ts, delays[1]))
    )
    return Log(impressions, events)


def pack(
    directory: Path,
    log: Log,
    spec: Spec,
    tables: Tables | None = None,
    watermarks: Mapping[str, Mapping[str, int]] | None = None,
) -> PackedDataset:
    tables = tables or log.tables(spec)
    bounds = log.bounds(spec)
    layout, vocabulary = fit_vocabulary(spec, bounds, tables.impressions, tables.history)
    propensity = fit_propensity(spec, bounds, tables.impressions, tables.labels)
    versions = {"impressions": 3}
    return pack_dataset(
        directory, spec, bounds, tables, layout, vocabulary, propensity, versions, watermarks=watermarks
    )
