"""Feature replay: the inputs of logged requests, made again from the lake by the code that makes training rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.datasets.view import model_inputs, refuse_other_features
from ctr_pipeline.features import Layout, gather_lists, join_history
from ctr_pipeline.features.local_time import time_part_of
from ctr_pipeline.lake import Lake
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import MICROSECONDS

SAME_INSTANT_US = MICROSECONDS["m"]
"""A request and its impression may be so far apart: what depends on the time is then that of the request. Beyond, the time of
one of them is wrong, and that of the impression counts."""

STALE_DAYS = 14
"""How many days back a stale snapshot is looked for."""

ROW = "__row"
"""Column with the place of a logged row."""

_QUARTER_US = 15 * MICROSECONDS["m"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTables:
    """What the lake holds around the days of the requests."""

    impressions: pl.DataFrame
    """The impressions that requests name."""
    history: pl.DataFrame
    """From :data:`STALE_DAYS` days before, of their keys."""


@dataclass(frozen=True, slots=True)
class RecomputedInputs:
    """K of N logged rows whose impressions are in the lake."""

    rows: NDArray[np.intp]
    """[K] which of the N, ascending."""
    numeric: NDArray[np.float32]
    """[K, D]"""
    ids: NDArray[np.int32]
    """[K, F]"""


def read_replay_tables(spec: Spec, lake: Lake, impression_ids: pl.Series, days: Sequence[date]) -> ReplayTables:
    """The impressions of requests of ``days``, and the history of their keys.

    Raises:
        LakeError: a table does not exist.
    """
    first, last = min(days) - timedelta(days=1), max(days) + timedelta(days=1)
    wanted = impression_ids.drop_nulls().unique()
    shown = (
        lake.scan("impressions", first=first, last=last)
        .filter(pl.col("impression_id").is_in(wanted.implode()))
        .collect()
    )
    history = _history(lake, first - timedelta(days=STALE_DAYS), last, _keys_of(spec, shown))
    return ReplayTables(impressions=shown.unique("impression_id", keep="first", maintain_order=True), history=history)


def sampled_impressions(spec: Spec, lake: Lake, days: Sequence[date], most: int) -> ReplayTables | None:
    """Some impressions of each of ``days``, spread evenly, with the history of their keys; None where there are none."""
    counts = lake.rows_by_day("impressions")
    scans = [
        lake.scan("impressions", first=day, last=day).gather_every(max(1, counts[day] // most))
        for day in days
        if counts.get(day)
    ]
    if not scans:
        return None
    shown = pl.concat(scans).collect()
    history = _history(lake, min(days), max(days), _keys_of(spec, shown))
    return ReplayTables(impressions=shown, history=history)


def _keys_of(spec: Spec, shown: pl.DataFrame) -> pl.Series:
    """The keys of history that impressions have, their own ids among them."""
    names = {"impression_id", *(feature.key for feature in spec.features.history)} & set(shown.columns)
    return pl.concat([shown[name].cast(pl.String).rename("key") for name in sorted(names)]).unique()


def _history(lake: Lake, first: date, last: date, keys: pl.Series) -> pl.DataFrame:
    if not lake.exists("history"):
        return pl.DataFrame(schema={"day": pl.Date, "feature": pl.String, "key": pl.String, "value": pl.Float64})
    return lake.scan("history", first=first, last=last).filter(pl.col("key").is_in(keys.implode())).collect()


def recomputed_inputs(
    spec: Spec,
    tables: ReplayTables,
    impression_ids: pl.Series,
    ts: NDArray[np.int64],
    layout: Layout,
    vocabulary: pl.DataFrame,
    stale_days: int = 0,
) -> RecomputedInputs:
    """The inputs of a model for logged rows, as of their instants.

    Args:
        spec: The features.
        tables: Of :func:`read_replay_tables`.
        impression_ids: [N] of the rows; null where one is not known.
        ts: [N] their times, microseconds.
        layout: The model's.
        vocabulary: The model's: columns feature, key and row.
        stale_days: How many days older the history is that is looked up.

    Raises:
        KeyError: the model needs a feature that the spec does not have.
    """
    refuse_other_features(spec, layout)
    made = replay_rows(spec, tables, impression_ids, ts, layout, stale_days)
    numeric, ids = model_inputs(spec, made, layout, vocabulary)
    return RecomputedInputs(made[ROW].to_numpy().astype(np.intp), numeric, ids)


def replay_rows(
    spec: Spec,
    tables: ReplayTables,
    impression_ids: pl.Series,
    ts: NDArray[np.int64],
    layout: Layout,
    stale_days: int = 0,
) -> pl.DataFrame:
    """The impressions of logged rows with their history, before they are encoded; column :data:`ROW` is the row.

    The arguments are those of :func:`recomputed_inputs`.
    """
    logged = pl.DataFrame({ROW: np.arange(len(ts)), "impression_id": impression_ids, "logged_ts": ts})
    near = (pl.col("logged_ts") - pl.col("ts")).abs() <= SAME_INSTANT_US
    rows = (
        logged.join(tables.impressions, on="impression_id", how="inner")
        .sort(ROW)
        .with_columns(shown_ts="ts", ts=pl.when(near).then("logged_ts").otherwise("ts"))
        .with_columns(day=pl.from_epoch("ts", time_unit="us").dt.date())
    )
    rows = _with_time_parts(rows, layout)
    history = (
        tables.history.with_columns(pl.col("day") + pl.duration(days=stale_days)) if stale_days else tables.history
    )
    return gather_lists(spec, join_history(spec, rows.lazy(), history.lazy())).sort(ROW).collect()


def _with_time_parts(rows: pl.DataFrame, layout: Layout) -> pl.DataFrame:
    """The features that are made of the time, of that of the request where it lies in another quarter of an hour."""
    made = {column.name: column.from_time for column in layout.ids if column.from_time is not None}
    times, shown = rows["ts"].to_numpy(), rows["shown_ts"].to_numpy()
    moved = np.flatnonzero(times // _QUARTER_US != shown // _QUARTER_US)
    if not made or not len(moved):
        return rows
    changed = {}
    for name, form in made.items():
        values = rows[name].to_list()
        for at in moved:
            values[at] = time_part_of(int(times[at]), form.part, form.zone)
        changed[name] = pl.Series(name, values, dtype=pl.String).cast(rows[name].dtype)
    return rows.with_columns(**changed)


def age_features(spec: Spec) -> frozenset[str]:
    """Features that are times in seconds before the impression."""
    found = {feature.name for feature in spec.features.history if feature.kind in ("recency", "first_seen")}
    return frozenset(found)


def history_features(spec: Spec) -> frozenset[str]:
    """Features that are made of the past, as the model's inputs call them."""
    numbers = {name.partition("[")[0] for name, _ in spec.features.history_numbers}
    return frozenset(numbers | {made.feature.name for made in spec.features.history_embedded})
