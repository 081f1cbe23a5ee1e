"""A random marketplace with late and missing data, its history computed row by row."""

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl

from ctr_pipeline.features import history_for_days
from ctr_pipeline.spec import Spec, parse_spec

DAY = 86_400_000_000
FIRST = date(2026, 3, 1)
SPEC_TEXT = """
version: 1
name: small
source: {impressions: {paths: [x.parquet]}, events: [{paths: [y.parquet]}]}
impression: {id: i, time: t, user: u}
features:
  dense: [{name: price}]
  categorical: [{name: ad}]
  history:
    - {name: ad_rate, kind: rate, key: ad, task: click, days: 3, smoothing: 5}
    - {name: user_buy_rate, kind: rate, key: user, task: buy, days: 2, smoothing: 0}
    - {name: seen, kind: count, key: user, days: 4}
    - {name: bought, kind: count, key: user, task: buy, days: 5}
    - {name: last_seen, kind: recency, key: user, days: 4}
    - {name: last_click, kind: recency, key: ad, task: click, days: 2}
    - {name: ad_rate_1d, kind: rate, key: ad, task: click, days: 1, smoothing: 3}
    - {name: seen_1d, kind: count, key: user, days: 1}
    - {name: age, kind: first_seen, key: user, days: 3}
    - {name: first_buy, kind: first_seen, key: ad, task: buy, days: 3}
tasks:
  - {name: click, window: 20h, label: {event: click}}
  - {name: buy, parent: click, window: 30h, window_from: click, label: {event: buy}}
split: {ingest_lag: 3h}
"""
SPEC = parse_spec(SPEC_TEXT, "small.yaml")
RATE_LAG = {"click": 1, "buy": 3}  # 20 h + 3 h and 20 h + 30 h + 3 h, in whole days


def start(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(frozen=True)
class Row:
    name: str
    ts: int
    ingest_ts: int
    user: str | None
    ad: str | None


@dataclass(frozen=True)
class Past:
    rows: list[Row]
    events: list[tuple[str, str, int, int]]  # impression, task, event_ts, ingest_ts

    def impressions(self) -> pl.LazyFrame:
        rows = [(r.name, r.ts, r.ingest_ts, r.user, r.ad) for r in self.rows]
        schema = {"impression_id": pl.String, "ts": pl.Int64, "ingest_ts": pl.Int64, "user": pl.String, "ad": pl.String}
        frame = pl.DataFrame(rows, schema=schema, orient="row")
        return frame.with_columns(day=pl.from_epoch("ts", "us").dt.date(), price=pl.lit(1.0)).lazy()

    def outcome_events(self) -> pl.LazyFrame:
        schema = {"impression_id": pl.String, "event": pl.String, "event_ts": pl.Int64, "ingest_ts": pl.Int64}
        frame = pl.DataFrame(self.events, schema=schema, orient="row")
        return frame.with_columns(kind=pl.lit("outcome")).lazy()

    def history(self, days: list[date], spec: Spec = SPEC) -> pl.DataFrame:
        history = history_for_days(spec, self.impressions(), self.outcome_events(), days).collect()
        return history.sort("day", "feature", "key")


def random_past(seed: int, size: int = 400, length: int = 12) -> Past:
    pick = random.Random(seed)
    hour = DAY // 24
    rows, events = [], []
    for number in range(size):
        # Whole hours, so that times on the edge of a day and of a window are common.
        ts = start(FIRST) + pick.randrange(length * 24) * hour + pick.choice([0, 0, 1, hour - 1])
        ingest = ts + pick.choice([0, 0, 0, 1, hour, 30 * hour])
        row = Row(f"i{number}", ts, ingest, pick.choice(["u1", "u2", "u3", None]), pick.choice(["a", "b", "c", None]))
        rows.append(row)
        for _ in range(pick.choice([0, 0, 1, 1, 2])):
            click = ts + pick.choice([-1, 0, hour, 19 * hour, 20 * hour, 20 * hour + 1])
            events.append((row.name, "click", click, click + pick.choice([0, 0, 2 * hour, 50 * hour])))
            if pick.random() < 0.6:
                buy = click + pick.choice([0, hour, 30 * hour, 30 * hour + 1])
                events.append((row.name, "buy", buy, buy + pick.choice([0, hour, 40 * hour])))
    return Past(rows, events)


def naive_history(past: Past, day: date) -> dict[tuple[str, str], float]:
    """The same definitions, one key and one row at a time, from what had arrived before the day began."""
    now = start(day)
    shown = [r for r in past.rows if r.ingest_ts < now]
    values: dict[tuple[str, str], float] = {}
    for name, key, task, days, smoothing in (
        ("ad_rate", "ad", "click", 3, 5.0),
        ("user_buy_rate", "user", "buy", 2, 0.0),
        ("ad_rate_1d", "ad", "click", 1, 3.0),
    ):
        last = day - timedelta(days=RATE_LAG[task])
        cohort = [r for r in shown if start(last - timedelta(days=days)) <= r.ts < start(last)]
        hit = {r.name for r in cohort if _outcome(past, r, task, now) is not None}
        for value in {getattr(r, key) for r in cohort} - {None}:
            mine = [r for r in cohort if getattr(r, key) == value]
            hits = sum(r.name in hit for r in mine)
            values[name, value] = (hits + smoothing * len(hit) / len(cohort)) / (len(mine) + smoothing)
    for row in shown:
        if row.user is not None and now - 4 * DAY <= row.ts < now:
            values["seen", row.user] = values.get(("seen", row.user), 0) + 1
            values["last_seen", row.user] = max(values.get(("last_seen", row.user), 0), row.ts)
        if row.user is not None and now - DAY <= row.ts < now:
            values["seen_1d", row.user] = values.get(("seen_1d", row.user), 0) + 1
        if row.user is not None and now - 3 * DAY <= row.ts < now:
            values["age", row.user] = min(values.get(("age", row.user), now), row.ts)
        bought = _outcome(past, row, "buy", now)
        if row.ad is not None and bought is not None and now - 3 * DAY <= bought < now:
            values["first_buy", row.ad] = min(values.get(("first_buy", row.ad), now), bought)
        if row.user is not None and bought is not None and now - 5 * DAY <= bought < now:
            values["bought", row.user] = values.get(("bought", row.user), 0) + 1
        clicked = _outcome(past, row, "click", now)
        if row.ad is not None and clicked is not None and now - 2 * DAY <= clicked < now:
            values["last_click", row.ad] = max(values.get(("last_click", row.ad), 0), clicked)
    return values


def _outcome(past: Past, row: Row, task: str, now: int) -> int | None:
    """Time of the outcome that was known first (then earliest) before ``now``."""
    hour = DAY // 24
    arrived = [
        (name, at, max(known, row.ingest_ts)) for i, name, at, known in past.events if i == row.name and known < now
    ]
    clicks = [(known, at) for name, at, known in arrived if name == "click" and row.ts <= at <= row.ts + 20 * hour]
    if task == "click":
        return min(clicks)[1] if clicks else None
    buys = [
        (max(known, click_known), at)
        for name, at, known in arrived
        if name == "buy"
        for click_known, click in clicks
        if click <= at <= click + 30 * hour
    ]
    return min(buys)[1] if buys else None
