"""Two retrains without a training: spec, rows and outcomes of a small shop, from which tests change one thing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import yaml

from ctr_pipeline.attribution.differences import RetrainState
from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.spec import parse_spec

DAY_US = 86_400_000_000
FIRST = date(2026, 3, 2)
START = (FIRST - date(1970, 1, 1)).days * DAY_US
DAYS, TEST = 8, 2
"""Days, and those of the test, which are the last ones."""

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "source": {
        "impressions": {"paths": ["impressions"]},
        "events": [{"paths": ["events"]}],
    },
    "impression": {"id": "impression_id", "time": "ts", "user": "user_id", "position": "position"},
    "features": {
        "dense": [{"name": "price"}, {"name": "rating"}, {"name": "stock"}, {"name": "ad_rate"}],
        "categorical": [{"name": "ad"}, {"name": "device"}, {"name": "page"}],
        "history": [{"name": "ad_clicks", "kind": "count", "key": "ad", "task": "click", "days": 3}],
    },
    "tasks": [{"name": "click", "window": "1d", "label": {"event": "click"}}],
}

Rows = pl.DataFrame


def rows(count: int = 6000, seed: int = 0, days: int = DAYS) -> Rows:
    """Impressions with features and labels: prices move nothing, each ad has a rate of each day."""
    draw = np.random.default_rng(seed)
    ts = np.sort(draw.integers(0, days * DAY_US, count)) + START
    ad, day = draw.integers(0, 20, count), (ts - START) // DAY_US
    rates = np.random.default_rng(99).random((20, 60)) * 0.3
    price = np.exp(draw.normal(3, 1, count)).round(2)
    frame = pl.DataFrame(
        {
            "impression_id": [f"{seed}i{n:06d}" for n in range(count)],
            "ts": ts,
            "position": (np.arange(count) % 5 + 1).astype(np.int16),
            "user": [f"u{n}" for n in draw.integers(0, 400, count)],
            "price": price,
            "rating": draw.uniform(1, 5, count).round(2),
            "stock": draw.poisson(30, count).astype(float),
            "ad_rate": rates[ad, day],
            "ad": [f"a{n}" for n in ad],
            "device": draw.choice(["mobile", "desktop", "tablet"], count, p=[0.6, 0.3, 0.1]),
            "page": draw.choice(["search", "home", "item", "cart"], count),
            "ad_clicks": draw.poisson(5, count).astype(float),
            "y_click": (draw.random(count) < rates[ad, day]).astype(np.int8),
        }
    )
    return dated(frame)


def dated(frame: Rows) -> Rows:
    """With the day of each row, and whether it is in the test."""
    day = (pl.col("ts") // DAY_US).cast(pl.Int32).cast(pl.Date)
    last = FIRST + timedelta(days=DAYS - TEST)
    return frame.with_columns(day=day, test=day >= last)


def retrain(
    frame: Rows, spec: dict[str, Any] | None = None, *, name: str = "before", key: str = "k1", **lineage: Any
) -> RetrainState:
    """A retrain of ``frame``; its vocabulary has the values of the rows before the test."""
    content = spec or SPEC
    learnt = frame.filter(~pl.col("test"))
    ids = [name for name in ("ad", "device", "page") if name in frame.columns]
    fitted = pl.concat(
        learnt.group_by(pl.col(name).cast(pl.String).alias("key"))
        .agg(count=pl.len(), first_day=pl.col("day").min(), last_day=pl.col("day").max())
        .drop_nulls("key")
        .sort("key")
        .with_columns(feature=pl.lit(name), row=pl.int_range(pl.len()) + 2)
        for name in ids
    )
    test = frame.filter(pl.col("test")).sort("ts", "impression_id")
    validation = START + (DAYS - TEST) * DAY_US
    bounds = {"click": {"train_start": START, "validation_start": validation}}
    environment = {"code": "0.1.0+aaaa", "package": "0.1.0", "torch": "2.13.0", **lineage.pop("environment", {})}
    logits = (
        np.log(np.clip(test["ad_rate"].fill_null(0.1).to_numpy(), 1e-3, 0.9))[:, None]
        if test.height
        else np.zeros((0, 1))
    )
    return RetrainState(
        name=name,
        day="2026-03-09",
        spec=parse_spec(yaml.safe_dump(content), where="made up"),
        lineage={"key_fingerprint": key, "environment": environment, "files": {"training/loop.py": "1", "labels/table.py": "1"}, "examples": {"bounds": {"tasks": bounds}}, **lineage},
        layout=Layout(
            numeric=tuple(NumericColumn(n, "dense", "none", 0.0, False, 0.0, 1.0) for n in ("price", "rating")),
            ids=tuple(IdColumn(n, "categorical", 2 + fitted.filter(pl.col("feature") == n).height, 4) for n in ids),
            tasks=("click",),
            parents=(-1,),
        ),
        vocabulary=fitted,
        keys=frame.select("impression_id", "ts", "day", "position", "test"),
        rows=frame,
        events=pl.DataFrame(schema={"impression_id": pl.String, "event": pl.String, "event_ts": pl.Int64, "ingest_ts": pl.Int64}),
        quarantined={},
        result={"status": "finished", "epochs": 2, "steps": 100, "plan": {"learning_rate": 0.001}},
        curve=[{"ne": 0.9}],
        evaluation={},
        logits=logits,
        labels=test["y_click"].fill_null(-1).to_numpy().astype(np.int8)[:, None],
        users=np.asarray([int(u[1:]) for u in test["user"]], np.int64),
    )  # fmt: skip


def pair(change: Callable[[Rows], Rows], count: int = 6000) -> tuple[RetrainState, RetrainState]:
    """Retrains of the rows as they are, and with a change of them."""
    frame = rows(count)
    return retrain(frame), retrain(dated(change(frame)), name="now")


def with_lineage(state: RetrainState, **changes: Any) -> RetrainState:
    """The same with other facts of its lineage."""
    return replace(state, lineage={**state.lineage, **changes})
