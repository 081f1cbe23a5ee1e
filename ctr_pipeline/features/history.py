"""Aggregates of a key's past, point-in-time on a daily grid.

The values of day d use only what had arrived before d began (00:00 UTC), so every impression of d may use them, and
serving can look them up in one table. Nothing of the current day is in them.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.labels import label_facts, label_maturity, settles_without_events
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.features import HistoryCount, HistoryFeature, HistoryFirstSeen, HistoryRate, HistoryRecency
from ctr_pipeline.spec.fields import DAY_US

HISTORY_COLUMNS = ("day", "feature", "key", "value")
"""Columns of the history table, in order."""

HISTORY_ORDER = ("feature", "key")
"""Order of the rows of a day."""

Frame: TypeAlias = nw.LazyFrame[Any]

_ZERO = nw.lit(0).cast(nw.Int64)
_NONE = nw.lit(None).cast(nw.Int64)


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
    - *first_seen*: time of the first such impression or outcome of the last ``days`` days, likewise.

    The rows are read once, and summed up by key, day and the day on which they became known; what each day's values
    need is small sums of these.

    A day's values are the same whether it is computed alone or with others, and whatever arrives later.

    Args:
        spec: Features, tasks and ingest lag.
        impressions: Rows of the impressions table, from :func:`history_reach` days before the first of ``days`` on.
        events: Rows of the outcome_events table that arrived from that day on.
        days: The days on which the values will be used, each once.

    Returns:
        Rows with :data:`HISTORY_COLUMNS` in any order, on the engine of the inputs.
    """
    shown = nw.from_native(impressions)
    if not days or not spec.features.history:
        nothing: IntoLazyFrameT = _nothing(shown).to_native()
        return nothing
    first, last = min(days) - timedelta(days=history_reach(spec)), max(days)
    shown = shown.filter((nw.col("day") >= nw.lit(first)) & (nw.col("day") < nw.lit(last)))
    known_by = _start(last) - 1
    facts = _facts_with_keys(spec, shown, events, known_by)
    arrived = shown.filter(nw.col("ingest_ts") <= known_by)
    pieces = []
    for key, task in sorted({(f.key, f.task) for f in spec.features.history}, key=str):
        mine = [f for f in spec.features.history if (f.key, f.task) == (key, task)]
        told = facts.get(task or "")
        rates = [f for f in mine if isinstance(f, HistoryRate)]
        if rates:
            by_time = settles_without_events(spec.tasks, str(task))
            cohorts = _held(_cohorts(key, arrived if by_time else None, told))
            pieces.append(_rates(cohorts, rates, days, _lag_days(spec, task) * DAY_US))
        others = [f for f in mine if not isinstance(f, HistoryRate)]
        if others:
            pieces.append(_aggregates(_moments(key, arrived if task is None else None, told), others, days))
    history: IntoLazyFrameT = nw.concat(pieces, how="vertical").to_native()
    return history


def join_history(
    spec: Spec, impressions: IntoLazyFrameT, history: IntoLazyFrameT, names: Collection[str] | None = None
) -> IntoLazyFrameT:
    """``impressions`` with one float64 column a history feature, the values of the impression's own day.

    A key without a past counts 0; its rate and recency are missing (null), and so is everything where the key itself
    is missing. Recency and first-seen are in seconds before the impression. With ``names``, only these features.
    """
    joined = nw.from_native(impressions)
    values = nw.from_native(history)
    for feature in spec.features.history:
        if names is not None and feature.name not in names:
            continue
        own = values.filter(nw.col("feature") == feature.name).select(
            "day", nw.col("key").alias(feature.key), nw.col("value").alias(feature.name)
        )
        joined = joined.join(own, on=["day", feature.key], how="left")
        value = nw.col(feature.name).cast(nw.Float64)
        if isinstance(feature, HistoryCount):
            missing = nw.when(~nw.col(feature.key).is_null()).then(nw.lit(0.0))
            value = nw.when(value.is_null()).then(missing).otherwise(value)
        elif isinstance(feature, HistoryRecency | HistoryFirstSeen):
            # Not a division by a literal: engines round it differently.
            value = (nw.col("ts").cast(nw.Float64) - value) * 1e-6
        joined = joined.with_columns(value.alias(feature.name))
    result: IntoLazyFrameT = joined.to_native()
    return result


def _facts_with_keys(spec: Spec, shown: Frame, events: IntoLazyFrameT, known_by: int) -> dict[str, Frame]:
    """What is known of the outcomes of each counted task, beside the keys of the impression."""
    features = [feature for feature in spec.features.history if feature.task is not None]
    if not features:
        return {}
    keys = sorted({feature.key for feature in features})
    tasks = sorted({str(feature.task) for feature in features})
    found = nw.from_native(label_facts(shown.to_native(), events, spec.tasks, known_by, spec.split.ingest_lag))
    wanted = found.filter(nw.col("task").is_in(tasks))
    wanted = wanted.select("impression_id", "ts", "ingest_ts", "task", "event_ts", "known_ts", "settled_ts")
    joined = _held(wanted.join(shown.select("impression_id", "ts", *keys), on=["impression_id", "ts"], how="inner"))
    return {task: joined.filter(nw.col("task") == task) for task in tasks}


def _moments(key: str, arrived: Frame | None, told: Frame | None) -> Frame:
    """Impressions, or outcomes where there are none of those, by the day on which they happened and became known.

    Columns: key, ``at`` and ``known`` (00:00 UTC of those days), ``n`` moments, the ``first`` and ``last`` of them.
    """
    if arrived is not None:
        rows = arrived.select(key=key, moment="ts", known_ts="ingest_ts")
    else:
        assert told is not None, "outcomes have facts"
        rows = told.filter(~nw.col("known_ts").is_null()).select(key=key, moment="event_ts", known_ts="known_ts")
    by_day = rows.filter(~nw.col("key").is_null()).with_columns(at=_midnight("moment"), known=_midnight("known_ts"))
    cells = by_day.group_by("key", "at", "known").agg(
        n=nw.len(), first=nw.col("moment").min(), last=nw.col("moment").max()
    )
    return cells.with_columns(n=nw.col("n").cast(nw.Int64))


def _aggregates(moments: Frame, features: Sequence[HistoryFeature], days: Sequence[date]) -> Frame:
    """Counts, recencies and first sights of one key and task on each of ``days``."""
    longest = max(feature.days for feature in features) * DAY_US
    since, start = nw.col("at") + longest, nw.col("start")
    past = moments.join(_grid(moments, days), how="cross").filter(
        since >= start, nw.col("at") < start, nw.col("known") < start
    )
    values = {}
    for feature in features:
        inside = nw.col("at") + feature.days * DAY_US >= start
        if isinstance(feature, HistoryCount):
            values[feature.name] = nw.when(inside).then(nw.col("n")).otherwise(_ZERO).sum().cast(nw.Int64)
        elif isinstance(feature, HistoryRecency):
            values[feature.name] = nw.when(inside).then(nw.col("last")).otherwise(_NONE).max()
        else:
            values[feature.name] = nw.when(inside).then(nw.col("first")).otherwise(_NONE).min()
    summed = past.group_by("key", "start").agg(**values)
    # A count of 0 is the same as no past; an instant is never 0.
    return _long(summed, {name: nw.col(name).cast(nw.Float64) for name in values}, nw.col("value") > 0, days)


def _cohorts(key: str, arrived: Frame | None, told: Frame | None) -> Frame:
    """How the impressions and outcomes of a day grow as they become known.

    Columns: key (null included: those rows are part of the overall rate), ``at`` (00:00 UTC of the impression's day),
    ``known`` (00:00 UTC of the day from whose end on it counts), ``impressions`` and ``outcomes`` to be added.

    Args:
        key: Column of the key.
        arrived: The impressions, where time settles those of which nothing is known; else None.
        told: What is known of the others.
    """
    assert told is not None, "a rate has a task"
    facts = told.with_columns(decided_ts=nw.min_horizontal("known_ts", "settled_ts"))
    changes = [("decided_ts", 1, 0), ("known_ts", 0, 1)]
    parts = []
    if arrived is not None:
        # Every impression as if nothing were known of it; those of which something is are taken out again.
        base = arrived.select(key=key, at=_midnight("ts"), known=_midnight("ingest_ts")).group_by("key", "at", "known")
        parts = [base.agg(impressions=nw.len()).with_columns(nw.col("impressions").cast(nw.Int64), outcomes=_ZERO)]
        changes.append(("ingest_ts", -1, 0))
    for instant, impressions, outcomes in changes:
        rows = facts.filter(~nw.col(instant).is_null()).select(key=key, at=_midnight("ts"), known=_midnight(instant))
        summed = rows.group_by("key", "at", "known").agg(n=nw.len()).with_columns(n=nw.col("n").cast(nw.Int64))
        parts.append(
            summed.select("key", "at", "known", impressions=nw.col("n") * impressions, outcomes=nw.col("n") * outcomes)
        )
    return nw.concat(
        [part.select("key", "at", "known", "impressions", "outcomes") for part in parts], how="vertical"
    )  # fmt: skip


def _rates(cohorts: Frame, features: Sequence[HistoryRate], days: Sequence[date], lag: int) -> Frame:
    """Smoothed rates of one key and task on each of ``days``, of cohorts that end ``lag`` microseconds before it."""
    sums, values = {}, {}
    for feature in features:
        since = nw.col("at") + (feature.days * DAY_US + lag) >= nw.col("start")
        for name in ("impressions", "outcomes"):
            sums[f"{name}:{feature.name}"] = nw.when(since).then(nw.col(name)).otherwise(_ZERO).sum().cast(nw.Int64)
        rows, outcomes, all_rows, all_outcomes = (
            nw.col(f"{name}:{feature.name}").cast(nw.Float64)
            for name in ("impressions", "outcomes", "all_impressions", "all_outcomes")
        )
        rate = (outcomes + all_outcomes / all_rows * feature.smoothing) / (rows + feature.smoothing)
        values[feature.name] = nw.when(rows > 0).then(rate).otherwise(nw.lit(None).cast(nw.Float64))
    longest = max(feature.days for feature in features) * DAY_US + lag
    grid = _grid(cohorts, days)

    def on_days(cells: Frame) -> Frame:
        start = nw.col("start")
        return cells.join(grid, how="cross").filter(
            nw.col("at") + longest >= start, nw.col("at") + lag < start, nw.col("known") < start
        )

    totals = [nw.col(name).sum().cast(nw.Int64) for name in ("impressions", "outcomes")]
    by_day = cohorts.group_by("at", "known").agg(*totals)
    overall = on_days(by_day).group_by("start").agg(**{f"all_{name}": total for name, total in sums.items()})
    each = on_days(cohorts.filter(~nw.col("key").is_null())).group_by("key", "start").agg(**sums)
    return _long(each.join(overall, on="start", how="inner"), values, ~nw.col("value").is_null(), days)


def _long(wide: Frame, values: Mapping[str, nw.Expr], there: nw.Expr, days: Sequence[date]) -> Frame:
    """One row a feature, day and key of which a value is ``there``, of one row a day and key."""
    rows = wide.with_columns(**{f"value:{name}": value for name, value in values.items()})
    rows = rows.with_columns(feature=nw.lit(",".join(values)).str.split(",")).explode("feature")
    value, day = nw.lit(None).cast(nw.Float64), nw.lit(None).cast(nw.Date)
    for name in values:
        value = nw.when(nw.col("feature") == name).then(nw.col(f"value:{name}")).otherwise(value)
    for one in days:
        day = nw.when(nw.col("start") == _start(one)).then(nw.lit(one)).otherwise(day)
    return rows.with_columns(value=value).filter(there).select(
        day=day, feature="feature", key="key", value="value"
    )  # fmt: skip


def _grid(beside: Frame, days: Sequence[date]) -> Frame:
    """00:00 UTC of each of ``days``, on the engine of ``beside``."""
    starts = nw.lit(",".join(str(_start(day)) for day in days)).str.split(",")
    # The maximum of nothing is still one row.
    one = beside.select(nw.col("at").max())
    return one.with_columns(start=starts).explode("start").select(start=nw.col("start").cast(nw.Int64))


def _midnight(instant: str) -> nw.Expr:
    """00:00 UTC of the day of an instant."""
    return nw.col(instant) - nw.col(instant) % DAY_US


def _held(frame: Frame) -> Frame:
    """``frame``, computed once, on its own engine, because it is read more than once."""
    native: Any = frame.to_native()
    if frame.implementation.is_duckdb():
        # A table of the relation's own connection: it can be spilled to disk, and goes with the connection.
        name = f"held_{uuid.uuid4().hex}"
        native.create(name)
        held = native.query("held", f"SELECT * FROM {name}")
    elif frame.implementation.is_pyspark():
        held = native.persist()
    else:
        held = native.collect(engine="streaming").lazy()
    found: Frame = nw.from_native(held)
    return found


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
