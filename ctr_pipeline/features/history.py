"""Aggregates of a key's past, point-in-time on a daily grid.

The values of day d use only what had arrived before d began (00:00 UTC), so every impression of d may use them, and
serving can look them up in one table. Nothing of the current day is in them.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta

import narwhals.stable.v2 as nw
from narwhals.stable.v2.typing import IntoLazyFrameT

from ctr_pipeline.features.daily_grid import (
    HISTORY_COLUMNS,
    NO_ITEM,
    Frame,
    facts_with_keys,
    long_values,
    midnight,
    on_grid,
    start_of,
)
from ctr_pipeline.features.exact_sequences import exact_sequence_values
from ctr_pipeline.features.exact_windows import ExactFeature, exact_values, settled_labels
from ctr_pipeline.features.sequences import sequence_values
from ctr_pipeline.features.top_items import top_values
from ctr_pipeline.labels import held, label_maturity, settles_without_events
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import (
    HistoryCount,
    HistoryFeature,
    HistoryFirstSeen,
    HistoryList,
    HistoryNumber,
    HistoryRate,
    HistoryRecency,
    HistorySequence,
    HistoryTop,
    is_exact,
)

HISTORY_ORDER = ("feature", "key")
"""Order of the rows of a day."""

_ZERO = nw.lit(0).cast(nw.Int64)
_NONE = nw.lit(None).cast(nw.Int64)


def history_reach(spec: Spec) -> int:
    """Days of impressions and events before a day that its history values can depend on; 0 without history."""
    late = {f.name: 1 for f in spec.features.history if is_exact(f)}
    return max(
        (f.days + _lag_days(spec, task) + late.get(f.name, 0) for f in spec.features.history for task in tasks_of(f)),
        default=0,
    )


def tasks_of(feature: HistoryFeature) -> tuple[str | None, ...]:
    """Tasks whose outcomes a feature reads; None for the impressions themselves."""
    return feature.tasks if isinstance(feature, HistorySequence | HistoryTop) else (feature.task,)


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
    - *sequence*: the last of them, by place (:mod:`ctr_pipeline.features.sequences`).
    - *top*: the items of most weight among them (:mod:`ctr_pipeline.features.top_items`).

    Impressions are read once a key, and summed up by key, day and the day on which they became known; what each day's
    values need is small sums of these. Features with ``exact`` look back from the impression instead
    (:mod:`ctr_pipeline.features.exact_windows`, :mod:`ctr_pipeline.features.exact_sequences`); their rows are one an impression, with its id as ``key``.

    A day's values are the same whether it is computed alone or with others, and whatever arrives later.

    Args:
        spec: Features, tasks and ingest lag.
        impressions: Rows of the impressions table, from :func:`history_reach` days before the first of ``days`` on;
            with ``exact`` features up to the last of them, else up to the day before.
        events: Rows of the outcome_events table that arrived from that day on.
        days: The days on which the values will be used, each once.

    Returns:
        Rows with :data:`HISTORY_COLUMNS` in any order, on the engine of the inputs.
    """
    shown = nw.from_native(impressions)
    if not days or not spec.features.history:
        nothing: IntoLazyFrameT = _nothing(shown).to_native()
        return nothing
    features = spec.features.history
    exact = [f for f in features if is_exact(f)]
    first, end = min(days) - timedelta(days=history_reach(spec)), max(days) + timedelta(days=1 if exact else 0)
    shown = shown.filter((nw.col("day") >= nw.lit(first)) & (nw.col("day") < nw.lit(end)))
    known_by = start_of(end) - 1
    tasks = {task for f in features for task in tasks_of(f) if task is not None}
    columns = {f.key for f in features if any(tasks_of(f))}
    columns |= {f.item for f in spec.features.listing if any(f.tasks)}
    facts = facts_with_keys(spec, shown, events, tasks, columns, known_by)
    arrived = shown.filter(nw.col("ingest_ts") <= known_by)
    pieces = []
    on_days = [f for f in features if isinstance(f, HistoryNumber) and f not in exact]
    for key, task in sorted({(f.key, f.task) for f in on_days}, key=str):
        mine = [f for f in on_days if (f.key, f.task) == (key, task)]
        rates = [f for f in mine if isinstance(f, HistoryRate)]
        if rates:
            lag = _lag_days(spec, task)
            near = _looked_at(arrived, days, max(f.days for f in rates), lag)
            cohorts = held(_cohorts(key, _by_time(spec, near, str(task)), facts[str(task)]))
            pieces.append(_rates(cohorts, rates, days, lag * DAY_US))
        others = [f for f in mine if not isinstance(f, HistoryRate)]
        if others:
            near = _looked_at(arrived, days, max(f.days for f in others))
            pieces.append(_aggregates(_moments(near, facts, key, task), others, days))
    for listing in [f for f in spec.features.listing if f not in exact]:
        near = _looked_at(arrived, days, listing.days)
        moments = _listed_moments(near, facts, listing)
        if isinstance(listing, HistorySequence):
            pieces.append(sequence_values(moments, listing, days))
        else:
            pieces.append(top_values(moments, listing, days))
    probes = shown.filter((nw.col("day") >= nw.lit(min(days))) & nw.col("day").is_in(list(days)))
    for feature in exact:
        if isinstance(feature, HistorySequence):
            timely = _listed_moments(arrived, facts, feature, {t: _patience(spec, t) for t in feature.tasks})
            pieces.append(exact_sequence_values(probes, timely, feature, days))
            continue
        assert isinstance(feature, ExactFeature), "the other kinds have no `exact`"
        if isinstance(feature, HistoryRate):
            by_time, told = _by_time(spec, arrived, feature.task), facts[feature.task]
            moments = settled_labels(spec, feature.task, feature.key, by_time, told)
        else:
            moments = _moments(arrived, facts, feature.key, feature.task).with_columns(hit=_ZERO)
        pieces.append(exact_values(probes, moments, feature, days, _patience(spec, feature.task)))
    history: IntoLazyFrameT = nw.concat(pieces, how="vertical").select(HISTORY_COLUMNS).to_native()
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
        if isinstance(feature, HistorySequence | HistoryTop):
            joined = _join_listed(joined, values, feature)
            continue
        key = _joined_by(feature)
        own = values.filter(nw.col("feature") == feature.name).select(
            "day", nw.col("key").alias(key), nw.col("value").alias(feature.name)
        )
        joined = joined.join(own, on=["day", key], how="left")
        value = nw.col(feature.name).cast(nw.Float64)
        if isinstance(feature, HistoryCount):
            missing = nw.when(~nw.col(feature.key).is_null()).then(nw.lit(0.0))
            value = nw.when(value.is_null()).then(missing).otherwise(value)
        elif isinstance(feature, HistoryRecency | HistoryFirstSeen):
            value = _seconds_since(value)
        joined = joined.with_columns(value.alias(feature.name))
    result: IntoLazyFrameT = joined.to_native()
    return result


def _join_listed(rows: Frame, values: Frame, feature: HistoryList) -> Frame:
    """``rows`` with a column for each place of ``feature``: items, and of a sequence ages and kinds."""
    nothing, ages = nw.lit(None).cast(nw.Float64), feature.ages if isinstance(feature, HistorySequence) else ()
    picked = {}
    for name in feature.stored:
        picked[name] = nw.when(nw.col("feature") == name).then(nw.col("item")).otherwise(NO_ITEM).max()
    for item, age in zip(feature.items, ages, strict=False):
        picked[age] = nw.when(nw.col("feature") == item).then(nw.col("value")).otherwise(nothing).max()
    own = values.filter(nw.col("feature").is_in(feature.stored))
    key = _joined_by(feature)
    wide = own.group_by("day", "key").agg(**picked).rename({"key": key})
    joined = rows.join(wide, on=["day", key], how="left")
    return joined.with_columns(**{age: _seconds_since(nw.col(age)) for age in ages}) if ages else joined


def _joined_by(feature: HistoryFeature) -> str:
    """What the history table has as the key of a feature."""
    return "impression_id" if is_exact(feature) else feature.key


def _seconds_since(instant: nw.Expr) -> nw.Expr:
    # Not a division by a literal: engines round it differently.
    return (nw.col("ts").cast(nw.Float64) - instant) * 1e-6


def _looked_at(arrived: Frame, days: Sequence[date], reach: int, lag: int = 0) -> Frame:
    """The impressions that a look of ``reach`` days, from ``lag`` days before the start of any of ``days``, can meet.

    :func:`~ctr_pipeline.features.daily_grid.on_grid` would drop the others one by one, after they were read.
    """
    first, end = min(days) - timedelta(days=reach + lag), max(days) - timedelta(days=lag)
    return arrived.filter((nw.col("day") >= nw.lit(first)) & (nw.col("day") < nw.lit(end)))


def _by_time(spec: Spec, arrived: Frame, task: str) -> Frame | None:
    """The impressions, where time settles those of which nothing is known."""
    return arrived if settles_without_events(spec.tasks, task) else None


def _moments(arrived: Frame, facts: Mapping[str, Frame], key: str, task: str | None, item: str | None = None) -> Frame:
    """Impressions or, of a task, outcomes: key, impression_id, ``shown_ts``, ``moment``, ``known_ts``, maybe ``item``."""
    rows = arrived if task is None else facts[task].filter(~nw.col("known_ts").is_null())
    moment, known = ("ts", "ingest_ts") if task is None else ("event_ts", "known_ts")
    listed = {} if item is None else {"item": nw.col(item)}
    return rows.select(
        "impression_id", key=nw.col(key), shown_ts=nw.col("ts"), moment=nw.col(moment), known_ts=nw.col(known), **listed
    )  # fmt: skip


def _listed_moments(
    arrived: Frame,
    facts: Mapping[str, Frame],
    feature: HistoryList,
    patience: Mapping[str | None, int] | None = None,
) -> Frame:
    """What a feature lists, as :func:`_moments`; of several kinds of events with the place of the kind, ``kind``.

    With ``patience``, only what became known so many microseconds, by task, after the impression was shown, or earlier.
    """
    parts = [_moments(arrived, facts, feature.key, task, feature.item) for task in feature.tasks]
    if patience is not None:
        late = [nw.col("known_ts") - nw.col("shown_ts") > patience[task] for task in feature.tasks]
        parts = [part.filter(~is_late) for part, is_late in zip(parts, late, strict=True)]
    if len(parts) == 1:
        return parts[0]
    return nw.concat(
        [part.with_columns(kind=nw.lit(code).cast(nw.Int64)) for code, part in enumerate(parts)], how="vertical"
    )


def _aggregates(moments: Frame, features: Sequence[HistoryNumber], days: Sequence[date]) -> Frame:
    """Counts, recencies and first sights of one key and task on each of ``days``."""
    by_day = moments.filter(~nw.col("key").is_null()).with_columns(at=midnight("moment"), known=midnight("known_ts"))
    cells = by_day.group_by("key", "at", "known").agg(
        n=nw.len(), first=nw.col("moment").min(), last=nw.col("moment").max()
    )
    cells = cells.with_columns(n=nw.col("n").cast(nw.Int64))
    past = on_grid(cells, days, max(feature.days for feature in features) * DAY_US)
    values = {}
    for feature in features:
        inside = nw.col("at") + feature.days * DAY_US >= nw.col("start")
        if isinstance(feature, HistoryCount):
            values[feature.name] = nw.when(inside).then(nw.col("n")).otherwise(_ZERO).sum().cast(nw.Int64)
        elif isinstance(feature, HistoryRecency):
            values[feature.name] = nw.when(inside).then(nw.col("last")).otherwise(_NONE).max()
        else:
            values[feature.name] = nw.when(inside).then(nw.col("first")).otherwise(_NONE).min()
    summed = past.group_by("key", "start").agg(**values)
    # A count of 0 is the same as no past; an instant is never 0.
    return long_values(summed, {name: nw.col(name).cast(nw.Float64) for name in values}, nw.col("value") > 0, days)


def _cohorts(key: str, arrived: Frame | None, told: Frame) -> Frame:
    """How the impressions and outcomes of a day grow as they become known.

    Columns: key (null included: those rows are part of the overall rate), ``at`` (00:00 UTC of the impression's day),
    ``known`` (00:00 UTC of the day from whose end on it counts), ``impressions`` and ``outcomes`` to be added.

    Args:
        key: Column of the key.
        arrived: The impressions, where time settles those of which nothing is known; else None.
        told: What is known of the others.
    """
    facts = told.with_columns(decided_ts=nw.min_horizontal("known_ts", "settled_ts"))
    changes = [("decided_ts", 1, 0), ("known_ts", 0, 1)]
    parts = []
    if arrived is not None:
        # Every impression as if nothing were known of it; those of which something is are taken out again.
        base = arrived.select(key=key, at=midnight("ts"), known=midnight("ingest_ts")).group_by("key", "at", "known")
        parts = [base.agg(impressions=nw.len()).with_columns(nw.col("impressions").cast(nw.Int64), outcomes=_ZERO)]
        changes.append(("ingest_ts", -1, 0))
    for instant, impressions, outcomes in changes:
        rows = facts.filter(~nw.col(instant).is_null()).select(key=key, at=midnight("ts"), known=midnight(instant))
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
    longest = max(feature.days for feature in features) * DAY_US
    totals = [nw.col(name).sum().cast(nw.Int64) for name in ("impressions", "outcomes")]
    by_day = cohorts.group_by("at", "known").agg(*totals)
    overall = (
        on_grid(by_day, days, longest, lag)
        .group_by("start")
        .agg(**{f"all_{name}": total for name, total in sums.items()})
    )
    each = on_grid(cohorts.filter(~nw.col("key").is_null()), days, longest, lag).group_by("key", "start").agg(**sums)
    return long_values(each.join(overall, on="start", how="inner"), values, ~nw.col("value").is_null(), days)


def _nothing(shown: Frame) -> Frame:
    empty = shown.filter(nw.col("ts") != nw.col("ts"))
    return empty.select("day", feature=nw.lit(""), key=nw.col("impression_id"), value=nw.lit(0.0), item=NO_ITEM)


def _patience(spec: Spec, task: str | None) -> int:
    """Microseconds after an impression beyond which what becomes known of it is not in an exact feature."""
    return (_lag_days(spec, task) + 1) * DAY_US


def _lag_days(spec: Spec, task: str | None) -> int:
    """Whole days after which every impression of a day has a mature label; 0 for impressions themselves."""
    if task is None:
        return 0
    return -(-(label_maturity(spec.tasks, task) + spec.split.ingest_lag) // DAY_US)
