"""A random marketplace with late and missing data, its history computed row by row."""

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl

from ctr_pipeline.features import history_for_days
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.spec.history import HistorySequence, is_exact

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
    - {name: ads_seen, kind: sequence, key: user, item: ad, length: 3, days: 4}
    - {name: ads_clicked, kind: sequence, key: user, task: click, item: ad, length: 2, days: 3}
    - {name: recent, kind: sequence, key: user, events: [impression, click, buy], item: ad, length: 6, days: 4}
    - {name: ads_top, kind: top, key: user, item: ad, length: 2, days: 5, half_life: 36h}
    - {name: clicks_top, kind: top, key: user, task: click, item: ad, length: 3, days: 3, half_life: 7h}
    - {name: seen_before, kind: count, key: user, days: 2, exact: true}
    - {name: clicked_before, kind: count, key: ad, task: click, days: 3, exact: true}
    - {name: last_buy_before, kind: recency, key: user, task: buy, days: 4, exact: true}
    - {name: ad_rate_before, kind: rate, key: ad, task: click, days: 3, smoothing: 5, exact: true}
    - {name: ads_before, kind: sequence, key: user, item: ad, length: 3, days: 2, exact: true}
    - {name: bought_before, kind: sequence, key: ad, task: buy, item: ad, length: 2, days: 4, exact: true}
    - {name: events_before, kind: sequence, key: user, events: [impression, click, buy], item: ad, length: 6, days: 3,
       exact: true}
tasks:
  - {name: click, window: 20h, label: {event: click}}
  - {name: buy, parent: click, window: 30h, window_from: click, label: {event: buy}}
split: {ingest_lag: 3h}
model:
  sequences:
    - {kind: target_attention, feature: recent}
    - {kind: target_attention, feature: events_before}
"""
SPEC = parse_spec(SPEC_TEXT, "small.yaml")
EXACT = [
    name
    for feature in SPEC.features.history
    if is_exact(feature)
    for name in (feature.stored if isinstance(feature, HistorySequence) else (feature.name,))
]
"""What the history table calls the rows of features that look back from an impression."""
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
    for name, task, days, length in (("ads_seen", None, 4, 3), ("ads_clicked", "click", 3, 2)):
        for user in {row.user for row in shown} - {None}:
            moments = [(_moment(past, row, task, now), row) for row in shown if row.user == user and row.ad is not None]
            there = [(-at, row.name, row.ad) for at, row in moments if at is not None and now - days * DAY <= at < now]
            for place, (at, _, ad) in enumerate(sorted(there)[:length], start=1):
                values[f"{name}_{place}", user] = (-at, ad)  # type: ignore[assignment]
    for user in {row.user for row in shown} - {None}:
        values |= _recent(past, shown, user, now)
        values |= _top(past, shown, user, now, "ads_top", None, 5, 36, 2)
        values |= _top(past, shown, user, now, "clicks_top", "click", 3, 7, 3)
    return values


def _recent(past: Past, shown: list[Row], user: str, now: int) -> dict[tuple[str, str], float]:
    """Impressions, clicks and buys of one user in one list."""
    found, kinds = [], {"impression": None, "click": "click", "buy": "buy"}
    for code, (kind, task) in enumerate(kinds.items()):
        for row in shown:
            at = _moment(past, row, task, now)
            if row.user == user and row.ad is not None and at is not None and now - 4 * DAY <= at < now:
                found.append((-at, row.name, -code, row.ad, kind))
    values: dict[tuple[str, str], float] = {}
    for place, (at, _, _, ad, kind) in enumerate(sorted(found)[:6], start=1):
        values[f"recent_{place}", user] = (-at, ad)  # type: ignore[assignment]
        values[f"recent_{place}_event", user] = (-at, kind)  # type: ignore[assignment]
    return values


def _top(
    past: Past,
    shown: list[Row],
    user: str,
    now: int,
    name: str,
    task: str | None,
    days: int,
    half_life: int,
    length: int,
) -> dict[tuple[str, str], float]:
    """Ads of one user by weight, each interaction weighed alone, in exact fractions of 2^-32."""
    weights: dict[str, int] = {}
    last: dict[str, int] = {}
    for row in shown:
        at = _moment(past, row, task, now)
        if row.user == user and row.ad is not None and at is not None and now - days * DAY <= at < now:
            age = (now - at + DAY - 1) // DAY
            weights[row.ad] = weights.get(row.ad, 0) + max(1, round(2.0 ** (32 - age * 24 / half_life)))
            last[row.ad] = max(last.get(row.ad, 0), at)
    ordered = sorted(weights, key=lambda ad: (-weights[ad], -last[ad], ad))[:length]
    return {(f"{name}_{n}", user): (weights[ad] / 2**32, ad) for n, ad in enumerate(ordered, start=1)}  # type: ignore[misc]


def _moment(past: Past, row: Row, task: str | None, now: int) -> int | None:
    return row.ts if task is None else _outcome(past, row, task, now)


def naive_exact(past: Past) -> dict[str, dict[str, float]]:
    """Features that look back from each impression: what became known in a window just before it."""
    known = {
        task: [(row, at, when if when is not None and when - row.ts <= late * DAY else None) for row, at, when in found]
        for task, late in (("click", 2), ("buy", 4))
        for found in [[(row, *_first(past, row, task)) for row in past.rows]]
    }
    return {probe.name: _before(past, probe, known) for probe in past.rows}


def naive_exact_sequences(past: Past) -> dict[str, dict[str, tuple[int, str]]]:
    """Sequences that look back from each impression, by place: time and ad, or time and kind."""
    patience = {"impression": DAY, "click": 2 * DAY, "buy": 4 * DAY}
    moments = []
    for row in past.rows:
        there = [("impression", row.ts, row.ingest_ts)]
        there += [(task, at, known) for task in ("click", "buy") for at, known in [_first(past, row, task)] if at is not None]  # fmt: skip
        for kind, at, known in there:
            if row.ad is not None and known - row.ts <= patience[kind]:
                moments.append((row, kind, at, known))
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for probe in past.rows:
        values = found[probe.name] = {}
        for name, key, kinds, days, length in (
            ("ads_before", "user", ("impression",), 2, 3),
            ("bought_before", "ad", ("buy",), 4, 2),
            ("events_before", "user", ("impression", "click", "buy"), 3, 6),
        ):
            mine = [
                (-at, row.name, -kinds.index(kind), row.ad, kind)
                for row, kind, at, known in moments
                if kind in kinds
                and getattr(probe, key) is not None
                and getattr(row, key) == getattr(probe, key)
                and known < probe.ts
                and probe.ts - days * DAY <= at < probe.ts
            ]
            for place, (at, _, _, ad, kind) in enumerate(sorted(mine)[:length], start=1):
                values[f"{name}_{place}"] = (-at, str(ad))
                if len(kinds) > 1:
                    values[f"{name}_{place}_event"] = (-at, kind)
    return found


def _before(past: Past, probe: Row, known: dict[str, list[tuple[Row, int | None, int | None]]]) -> dict[str, float]:
    now, values = probe.ts, dict[str, float]()
    if probe.user is not None:
        mine = [r for r in past.rows if r.user == probe.user and r.ingest_ts - r.ts <= DAY]
        seen = [r for r in mine if now - 2 * DAY <= r.ingest_ts < now]
        if seen:
            values["seen_before"] = len(seen)
        bought = [
            at
            for row, at, when in known["buy"]
            if at is not None and when is not None and row.user == probe.user and now - 4 * DAY <= when < now
        ]
        if bought:
            values["last_buy_before"] = max(bought)
    if probe.ad is None:
        return values
    clicks = [(row, when) for row, _, when in known["click"]]
    mine = [row for row, when in clicks if row.ad == probe.ad and when is not None and now - 3 * DAY <= when < now]
    if mine:
        values["clicked_before"] = len(mine)
    began = now - now % DAY
    settled = []
    for row, when in clicks:
        mature = max(row.ts + 23 * DAY // 24, row.ingest_ts)
        # A label that became positive later was settled as negative when it matured.
        if mature - row.ts <= 2 * DAY:
            settled.append((row.ad, mature, when is not None and when <= mature))
    overall = [hit for _, at, hit in settled if began - 3 * DAY <= at < began]
    own = [hit for ad, at, hit in settled if ad == probe.ad and now - 3 * DAY <= at < now]
    if own:
        lean = 5 * sum(overall) / len(overall) if overall else 0.0
        values["ad_rate_before"] = (sum(own) + lean) / (len(own) + (5 if overall else 0))
    return values


def _first(past: Past, row: Row, task: str) -> tuple[int | None, int | None]:
    """Time of the outcome that was known first, and when it was."""
    instants = sorted({max(known, row.ingest_ts) for i, _, _, known in past.events if i == row.name})
    for instant in instants:
        at = _outcome(past, row, task, instant + 1)
        if at is not None:
            return at, instant
    return None, None


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
