"""Aggregates of a key's past over a window that ends at the impression itself.

Everything is placed at the instant at which it became known, so nothing that arrived at the impression's instant or
later is in them. A window over a range of instants is the one step that Narwhals cannot express on all engines: it is one
SQL text, in DuckDB's dialect.
"""

import uuid
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from typing import Any

import narwhals.stable.v2 as nw

from ctr_pipeline.features.daily_grid import NO_ITEM, Frame, day_of_start, midnight, on_grid
from ctr_pipeline.labels import mature_ts
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistoryCount, HistoryRate, HistoryRecency

ExactFeature = HistoryRate | HistoryCount | HistoryRecency

_ZERO = nw.lit(0).cast(nw.Int64)
_NONE = nw.lit(None).cast(nw.Int64)
_SQL = files("ctr_pipeline.features").joinpath("exact_windows.sql").read_text(encoding="utf-8")


def exact_values(probes: Frame, moments: Frame, feature: ExactFeature, days: Sequence[date], patience: int) -> Frame:
    """The feature for each impression of ``days`` whose key has something in its window.

    For an impression at t, over what became known in [t - ``feature.days``, t), no later than ``patience`` after it was
    shown (so that an interval of the past suffices):

    - *count*: the number of impressions or outcomes.
    - *recency*: the time of the last of them.
    - *rate*: over the impressions whose label was settled then, (outcomes + smoothing · m) / (impressions +
      smoothing), m being the rate of all impressions settled in the ``feature.days`` days before t's day began.

    Args:
        probes: Impressions of ``days``: day, impression_id, ts, and the key's column.
        moments: ``key``, ``shown_ts``, ``known_ts``, ``moment``, ``hit`` (:func:`settled_labels` for a rate).
        feature: The feature.
        days: The days.
        patience: Microseconds.

    Returns:
        Rows with :data:`~ctr_pipeline.features.daily_grid.HISTORY_COLUMNS`; ``key`` is the impression's id.
    """
    asked = probes.filter(~nw.col(feature.key).is_null()).select(
        "day", "impression_id", key=nw.col(feature.key), instant=nw.col("ts"), n=_ZERO, hit=_ZERO, moment=_NONE
    )
    timely = moments.filter(nw.col("known_ts") - nw.col("shown_ts") <= patience)
    known = timely.filter(~nw.col("key").is_null()).select(
        day=nw.lit(None).cast(nw.Date), impression_id=NO_ITEM, key="key", instant="known_ts",
        n=nw.lit(1).cast(nw.Int64), hit="hit", moment="moment",
    )  # fmt: skip
    seen = _over_window(nw.concat([asked, known.select(asked.collect_schema().names())], how="vertical"), feature.days)
    seen = seen.filter(nw.col("n") > 0)
    if isinstance(feature, HistoryCount):
        value = nw.col("n").cast(nw.Float64)
    elif isinstance(feature, HistoryRecency):
        value = nw.col("latest").cast(nw.Float64)
    else:
        seen = seen.join(_overall(timely, feature, days), on="day", how="left")
        # Nothing was settled before the day began: no overall rate to lean on.
        overall = nw.when(nw.col("all_n") > 0).then(
            nw.col("all_hits").cast(nw.Float64) / nw.col("all_n").cast(nw.Float64)
        )
        lean = nw.when(overall.is_null()).then(nw.lit(0.0)).otherwise(overall * feature.smoothing)
        weight = nw.when(overall.is_null()).then(nw.lit(0.0)).otherwise(nw.lit(feature.smoothing))
        value = (nw.col("hits").cast(nw.Float64) + lean) / (nw.col("n").cast(nw.Float64) + weight)
    return seen.select(
        day="day", feature=nw.lit(feature.name), key="impression_id", value=value.cast(nw.Float64), item=NO_ITEM
    )  # fmt: skip


def settled_labels(spec: Spec, task: str, key: str, by_time: Frame | None, told: Frame) -> Frame:
    """Each impression at the instant at which its label was settled and mature; ``hit`` = whether it was 1 then.

    Args:
        spec: Tasks and ingest lag.
        task: The task.
        key: Column of the key.
        by_time: The impressions, where time settles those of which nothing is known; else None.
        told: What is known of the others.
    """
    ready = told.with_columns(mature_ts=mature_ts(spec.tasks, task, spec.split.ingest_lag))
    decided = nw.min_horizontal("known_ts", "settled_ts")
    when = nw.when(~decided.is_null()).then(nw.max_horizontal(decided, nw.col("mature_ts"))).otherwise(_NONE)
    ready = ready.with_columns(decided_ts=when)
    positive = nw.when(nw.col("known_ts") <= nw.col("decided_ts")).then(nw.lit(1)).otherwise(nw.lit(0))
    parts = [ready.select(key=key, shown_ts="ts", known_ts="decided_ts", moment=_NONE, hit=positive.cast(nw.Int64))]
    if by_time is not None:
        others = by_time.join(told.select("impression_id", "ts"), on=["impression_id", "ts"], how="anti")
        mature = mature_ts(spec.tasks, task, spec.split.ingest_lag)
        parts.append(others.select(key=key, shown_ts="ts", known_ts=mature, moment=_NONE, hit=_ZERO))
    return nw.concat(parts, how="vertical")


def _overall(moments: Frame, feature: HistoryRate, days: Sequence[date]) -> Frame:
    """Settled impressions and outcomes among them, of all keys, in the window before each day began."""
    settled = moments.with_columns(at=midnight("known_ts"))
    cells = settled.group_by("at").agg(n=nw.len(), hits=nw.col("hit").sum())
    cells = cells.with_columns(nw.col("n").cast(nw.Int64), nw.col("hits").cast(nw.Int64), known=nw.col("at"))
    summed = on_grid(cells, days, feature.days * DAY_US).group_by("start")
    totals = summed.agg(all_n=nw.col("n").sum().cast(nw.Int64), all_hits=nw.col("hits").sum().cast(nw.Int64))
    return totals.select("all_n", "all_hits", day=day_of_start(days))


def _over_window(rows: Frame, days: int) -> Frame:
    """Runs the SQL on the engine of ``rows``; Polars' rows are handed to DuckDB and back."""
    sql = _SQL.replace("window_us", str(days * DAY_US))
    native: Any = rows.to_native()
    if rows.implementation.is_duckdb():
        found = native.query("probes_and_moments", sql)
    elif rows.implementation.is_pyspark():
        from sqlglot import transpile

        view = f"probes_and_moments_{uuid.uuid4().hex}"
        native.createOrReplaceTempView(view)
        text = transpile(sql.replace("probes_and_moments", view), read="duckdb", write="spark")[0]
        found = native.sparkSession.sql(text)
    else:
        import duckdb

        with duckdb.connect() as connection:
            relation = connection.from_arrow(native.collect(engine="streaming").to_arrow())
            result: Any = relation.query("probes_and_moments", sql)
            found = result.pl().lazy()
    seen: Frame = nw.from_native(found)
    return seen
