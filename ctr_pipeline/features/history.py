"""Aggregates of a key's past, point-in-time on a daily grid.

The values of day d use only what had arrived before d began (00:00 UTC), so every impression of d may use them, and
serving can look them up in one table. Nothing of the current day is in them.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.labels import label_impressions, label_maturity
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.features import HistoryCount, HistoryRate, HistoryRecency
from ctr_pipeline.spec.fields import DAY_US

HISTORY_COLUMNS = ("day", "feature", "key", "value")
"""Columns of the history table, in order."""

Frame: TypeAlias = nw.LazyFrame[Any]
HistoryFeature: TypeAlias = HistoryRate | HistoryCount | HistoryRecency


def history_reach(spec: Spec) -> int:
    """Days of impressions and events before a day that its history values can depend on; 0 without history."""
    return max((feature.days + _lag_days(spec, feature.task) for feature in spec.features.history), default=0)


def history_for_days(
    spec: Spec, impressions: IntoLazyFrameT, events: IntoLazyFrameT, days: Sequence[date]
) -> IntoLazyFrameT:
    """The history features of ``days``: one row a day, feature and key that has a past.

    With D = 00:00 UTC of a day, and L the maturity of a label in days, rounded up:

    - *rate*: over the impressions of the days [D - L - days, D - L), all of them mature at D, whose label was settled
      before D: (outcomes + smoothing · m) / (impressions + smoothing), m being the rate of all those impressions.
      Numerator and denominator are of one cohort, so the young rows, of which only outcomes would show, are out.
    - *count*: impressions, or impressions with an outcome that counts, of the last ``days`` days that had arrived
      before D. An outcome belongs to the time at which it happened.
    - *recency*: time of the last such impression or outcome of the last ``days`` days, in microseconds since
      1970-01-01 UTC (exact in a float64). :func:`join_history` turns it into seconds.

    A day's values are the same whether it is computed alone or with others, and whatever arrives later.

    Args:
        spec: Features, tasks and ingest lag.
        impressions: Rows of the impressions table, from :func:`history_reach` days before the first of ``days`` on.
        events: Rows of the outcome_events table that arrived from that day on.
        days: The days on which the values will be used, each once.

    Returns:
        Rows with :data:`HISTORY_COLUMNS`, sorted by day, feature and key, on the engine of the inputs.
    """
    shown = nw.from_native(impressions)
    if not days or not spec.features.history:
        nothing: IntoLazyFrameT = _nothing(shown).to_native()
        return nothing
    first, last = min(days) - timedelta(days=history_reach(spec)), max(days)
    shown = shown.filter((nw.col("day") >= nw.lit(first)) & (nw.col("day") < nw.lit(last)))
    past = _past(spec, shown, events, _start(last) - 1)
    pieces = [_values(spec, past[f.task], f, day) for day in days for f in spec.features.history]
    history: IntoLazyFrameT = nw.concat(pieces, how="vertical").sort("day", "feature", "key").to_native()
    return history


def join_history(spec: Spec, impressions: IntoLazyFrameT, history: IntoLazyFrameT) -> IntoLazyFrameT:
    """``impressions`` with one float64 column a history feature, the values of the impression's own day.

    A key without a past counts 0; its rate and recency are missing (null), and so is everything where the key itself
    is missing. Recency is in seconds before the impression.
    """
    joined = nw.from_native(impressions)
    values = nw.from_native(history)
    for feature in spec.features.history:
        own = values.filter(nw.col("feature") == feature.name).select(
            "day", nw.col("key").alias(feature.key), nw.col("value").alias(feature.name)
        )
        joined = joined.join(own, on=["day", feature.key], how="left")
        value = nw.col(feature.name).cast(nw.Float64)
        if isinstance(feature, HistoryCount):
            missing = nw.when(~nw.col(feature.key).is_null()).then(nw.lit(0.0))
            value = nw.when(value.is_null()).then(missing).otherwise(value)
        elif isinstance(feature, HistoryRecency):
            value = (nw.col("ts").cast(nw.Float64) - value) / 1e6
        joined = joined.with_columns(value.alias(feature.name))
    result: IntoLazyFrameT = joined.to_native()
    return result


def _past(spec: Spec, shown: Frame, events: IntoLazyFrameT, known_by: int) -> dict[str | None, Frame]:
    """What happened when and when it was known, by task; None holds the impressions themselves.

    Held in memory, because each day and feature reads it again.
    """
    features = spec.features.history
    past: dict[str | None, Frame] = {}
    if any(feature.task is None for feature in features):
        keys = sorted({feature.key for feature in features if feature.task is None})
        arrived = shown.filter(nw.col("ingest_ts") <= known_by)
        past[None] = _held(arrived.select("day", *keys, known_ts=nw.col("ingest_ts"), event_ts=nw.col("ts")))
    counted = {feature.task for feature in features if feature.task is not None}
    if not counted:
        return past
    labels = nw.from_native(label_impressions(shown.to_native(), events, spec.tasks, known_by, spec.split.ingest_lag))
    for task in sorted(counted):
        rates = any(isinstance(feature, HistoryRate) and feature.task == task for feature in features)
        happened = ~nw.col("known_ts").is_null()
        wanted = happened | ~nw.col("settled_ts").is_null() if rates else happened
        facts = labels.filter((nw.col("task") == task) & wanted)
        facts = facts.select("impression_id", "ts", "day", "known_ts", "event_ts", "settled_ts")
        keys = sorted({feature.key for feature in features if feature.task == task})
        joined = facts.join(shown.select("impression_id", "ts", *keys), on=["impression_id", "ts"], how="inner")
        past[task] = _held(joined.drop("impression_id", "ts"))
    return past


def _held(frame: Frame) -> Frame:
    """``frame``, computed now, on its own engine."""
    if frame.implementation.is_duckdb():
        return frame.collect(backend="pyarrow").lazy(backend="duckdb")
    return frame.collect().lazy()


def _values(spec: Spec, past: Frame, feature: HistoryFeature, day: date) -> Frame:
    start = _start(day)
    known = nw.col("known_ts") < start
    if isinstance(feature, HistoryRate):
        values = _rate(past, feature, day - timedelta(days=_lag_days(spec, feature.task)), start)
    else:
        # The day of the impression bounds the files that are read; an outcome may be younger than its impression.
        reach = feature.days + _lag_days(spec, feature.task)
        recent = past.filter(
            (nw.col("day") >= nw.lit(day - timedelta(days=reach))) & (nw.col("day") < nw.lit(day)),
            (nw.col("event_ts") >= start - feature.days * DAY_US) & (nw.col("event_ts") < start) & known,
            ~nw.col(feature.key).is_null(),
        ).group_by(feature.key)
        value = nw.len() if isinstance(feature, HistoryCount) else nw.col("event_ts").max()
        values = recent.agg(value=value)
    return values.select(
        day=nw.lit(day).cast(nw.Date),
        feature=nw.lit(feature.name),
        key=nw.col(feature.key),
        value=nw.col("value").cast(nw.Float64),
    )


def _rate(past: Frame, feature: HistoryRate, end: date, start: int) -> Frame:
    """Smoothed rates of the cohort of the ``feature.days`` days before ``end``, as known before ``start``."""
    known = nw.col("known_ts") < start
    cohort = past.filter(
        (nw.col("day") >= nw.lit(end - timedelta(days=feature.days))) & (nw.col("day") < nw.lit(end)),
        known | (nw.col("settled_ts") < start),
    ).with_columns(outcome=nw.when(known).then(nw.lit(1)).otherwise(nw.lit(0)))
    overall = cohort.select(
        all_outcomes=nw.col("outcome").sum().cast(nw.Int64), all_impressions=nw.col("outcome").count().cast(nw.Int64)
    )
    each = (
        cohort.filter(~nw.col(feature.key).is_null())
        .group_by(feature.key)
        .agg(outcomes=nw.col("outcome").sum().cast(nw.Int64), impressions=nw.col("outcome").count().cast(nw.Int64))
        .join(overall, how="cross")
    )
    rate = nw.col("all_outcomes").cast(nw.Float64) / nw.col("all_impressions").cast(nw.Float64)
    outcomes, rows = nw.col("outcomes").cast(nw.Float64), nw.col("impressions").cast(nw.Float64)
    return each.with_columns(value=(outcomes + rate * feature.smoothing) / (rows + feature.smoothing))


def _nothing(shown: Frame) -> Frame:
    empty = shown.filter(nw.col("ts") != nw.col("ts"))
    return empty.select("day", feature=nw.lit(""), key=nw.col("impression_id"), value=nw.lit(0.0))


def _lag_days(spec: Spec, task: str | None) -> int:
    """Whole days after which every impression of a day has a mature label; 0 for impressions themselves."""
    if task is None:
        return 0
    return -(-(label_maturity(spec.tasks, task) + spec.split.ingest_lag) // DAY_US)


def _start(day: date) -> int:
    """00:00 UTC of ``day`` in microseconds."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return int((datetime(day.year, day.month, day.day, tzinfo=UTC) - epoch) / timedelta(microseconds=1))
