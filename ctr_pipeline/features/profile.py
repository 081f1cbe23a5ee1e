"""One day of the log in a few thousand numbers: what is compared with the days before it to see that something broke.

A profile is a long table, so that a new measure needs no new column. What each measure counts:

| measure | name | bin | value |
|---|---|---|---|
| ``rows`` | impressions, outcome_events | | rows of the day |
| ``hour_rows`` | impressions | hour 0–23 | impressions shown in that hour |
| ``hour_outcomes`` | task | hour 0–23 | outcomes that arrived in that hour |
| ``outcomes``, ``late`` | task | | outcomes that arrived, and those more than :data:`LATE_US` old |
| ``deliveries``, ``repeats`` | impressions, outcome_events | | rows delivered, and those that repeat an earlier one |
| ``values``, ``missing`` | feature | | rows, and those without a value |
| ``histogram`` | numeric feature | half octave | rows by sign and order of magnitude |
| ``quantile`` | numeric feature | 0.05, 0.5, 0.95 | quantile |
| ``category`` | categorical feature, position, traffic | value | rows, for the :data:`LISTED` most frequent values |
| ``clients`` | user, session | | rows with one |
| ``heaviest`` | user, session | | rows of the :data:`HEAVIEST` that have most |
| ``same_day``, ``suspicious`` | user | | outcomes of the day's own impressions, and those by anomalous users |
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import MICROSECONDS

PROFILE_SCHEMA = {"day": pl.Date, "measure": pl.String, "name": pl.String, "bin": pl.String, "value": pl.Float64}

LATE_US = 6 * MICROSECONDS["h"]
"""An outcome that arrives later than this after it happened is late."""

LISTED = 100
"""Values of a categorical feature whose rows are counted."""

HEAVIEST = 10
ANOMALOUS_OUTCOMES = 5
ANOMALOUS_RATE = 0.3
ANOMALOUS_RATIO = 5.0
"""A user is anomalous who, on one day, has this many outcomes, on this share of their impressions, at this multiple of
the day's rate."""

QUANTILES = (0.05, 0.5, 0.95)
_SMALLEST_OCTAVE, _LARGEST_OCTAVE = -40, 126


def profiled_columns(spec: Spec) -> list[str]:
    """The columns of the impressions table that :func:`profile_days` looks at."""
    features = [*(number.name for number in spec.features.numeric), *(value.name for value in spec.features.embedded)]
    return ["day", "impression_id", "ts", "user", "session", "position", "traffic", *features]


def profile_days(
    spec: Spec, impressions: pl.DataFrame, outcomes: pl.DataFrame, quarantined: pl.DataFrame, days: Sequence[date]
) -> pl.DataFrame:
    """The profiles of ``days``.

    Args:
        spec: Features, tasks and columns.
        impressions: Rows of the impressions table of these days.
        outcomes: Rows of the outcome_events table of these (arrival) days.
        quarantined: Rows of impressions_quarantine of these days: columns ``day`` and ``reason``.
        days: The days; one without impressions gets a row count of 0 and what arrived on it.

    Returns:
        Rows with the columns of :data:`PROFILE_SCHEMA`, in a fixed order.
    """
    happened = outcomes.filter(pl.col("kind") == "outcome")
    calendar = pl.DataFrame({"day": list(days)}, schema={"day": pl.Date})
    parts = [
        _per_day(calendar, impressions, "rows", "impressions"),
        _per_day(calendar, outcomes, "rows", "outcome_events"),
        _hours(impressions.select("day", "ts", name=pl.lit("impressions")), "ts", "hour_rows"),
        _hours(happened.select("day", "ingest_ts", name="event"), "ingest_ts", "hour_outcomes"),
        *_lateness(happened),
        *_repeats(impressions, quarantined, happened),
        *_numbers(spec, impressions),
        *_categories(spec, impressions),
        *_lists(spec, impressions),
        *_clients(spec, impressions, happened),
    ]
    order = ("day", "measure", "name", "bin")
    return pl.concat([part.select(_typed()) for part in parts]).sort(order, nulls_last=True)


def _typed() -> list[pl.Expr]:
    return [pl.col(name).cast(kind) for name, kind in PROFILE_SCHEMA.items()]


def _long(frame: pl.DataFrame, measure: str, name: str, value: str) -> pl.DataFrame:
    """A value a day of ``frame`` (columns day and ``value``) as profile rows."""
    return frame.select("day", measure=pl.lit(measure), name=pl.lit(name), bin=pl.lit(None, pl.String), value=value)


def _per_day(calendar: pl.DataFrame, rows: pl.DataFrame, measure: str, name: str) -> pl.DataFrame:
    counts = calendar.join(rows.group_by("day").len(), on="day", how="left").with_columns(pl.col("len").fill_null(0))
    return _long(counts, measure, name, "len")


def _hours(rows: pl.DataFrame, time: str, measure: str) -> pl.DataFrame:
    hour = (pl.col(time) // MICROSECONDS["h"]) % 24
    counts = rows.group_by("day", "name", hour.alias("bin")).agg(value=pl.len())
    return counts.with_columns(measure=pl.lit(measure))


def _lateness(happened: pl.DataFrame) -> list[pl.DataFrame]:
    late = (pl.col("ingest_ts") - pl.col("event_ts")) > LATE_US
    by_task = happened.group_by("day", name="event").agg(outcomes=pl.len(), late=late.sum())
    empty = pl.lit(None, pl.String).alias("bin")
    return [
        by_task.select("day", "name", empty, measure=pl.lit(measure), value=measure) for measure in ("outcomes", "late")
    ]


def _repeats(impressions: pl.DataFrame, quarantined: pl.DataFrame, happened: pl.DataFrame) -> list[pl.DataFrame]:
    """Deliveries of the day's impressions and of their outcomes of the same day, and how many are repeats.

    Outcomes of earlier days' impressions are left out: they repeat because their impression once did.
    """
    twice = quarantined.filter(pl.col("reason") == "duplicate_id").group_by("day").agg(repeats=pl.len())
    shown = impressions.group_by("day").agg(kept=pl.len()).join(twice, on="day", how="full", coalesce=True)
    shown = shown.with_columns(pl.col("kept", "repeats").fill_null(0)).with_columns(
        deliveries=pl.col("kept") + pl.col("repeats")
    )
    own = happened.join(impressions.select("day", "impression_id"), on=["day", "impression_id"], how="semi")
    events = own.group_by("day", "impression_id", "event", "event_ts").len().group_by("day").agg(
        deliveries=pl.col("len").sum(), repeats=(pl.col("len") - 1).sum()
    )  # fmt: skip
    return [
        _long(frame, measure, name, measure)
        for name, frame in (("impressions", shown), ("outcome_events", events))
        for measure in ("deliveries", "repeats")
    ]


def _numbers(spec: Spec, impressions: pl.DataFrame) -> list[pl.DataFrame]:
    names = [feature.name for feature in spec.features.numeric if not feature.holds_lists]
    if not names:
        return []
    values = {name: pl.col(name).fill_nan(None) for name in names}
    quantiles = impressions.group_by("day").agg(
        *(value.count().alias(f"count {name}") for name, value in values.items()),
        *(value.quantile(q).alias(f"{q} {name}") for name, value in values.items() for q in QUANTILES),
        pl.len().alias("rows"),
    )
    parts = []
    for name, value in values.items():
        count = pl.col(f"count {name}")
        parts += [
            _long(quantiles, "values", name, "rows"),
            _long(quantiles.select("day", missing=pl.col("rows") - count), "missing", name, "missing"),
            *(
                _long(quantiles, "quantile", name, f"{q} {name}").with_columns(bin=pl.lit(str(q)))
                for q in QUANTILES
            ),
        ]  # fmt: skip
        known = impressions.select("day", bin=half_octave(value)).filter(pl.col("bin").is_not_null())
        counts = known.group_by("day", "bin").agg(value=pl.len())
        parts.append(counts.with_columns(measure=pl.lit("histogram"), name=pl.lit(name)))
    return [part.filter(pl.col("value").is_not_null()) for part in parts]


def half_octave(value: pl.Expr) -> pl.Expr:
    """The bin of a number by sign and magnitude: 0 for 0; neighbouring bins differ by a factor of √2.

    Bins are whole numbers in the order of the values they hold. Fixed bins let profiles of different days be compared
    whatever unit a column may come in.
    """
    magnitude = (2 * value.abs().log(2)).floor().clip(_SMALLEST_OCTAVE, _LARGEST_OCTAVE) - _SMALLEST_OCTAVE + 1
    return pl.when(value == 0).then(0.0).otherwise(value.sign() * magnitude).cast(pl.Int16)


def _categories(spec: Spec, impressions: pl.DataFrame) -> list[pl.DataFrame]:
    names = list(spec.features.single)
    columns = spec.impression
    names += [name for name in ("position", "traffic") if getattr(columns, name) is not None]
    parts = []
    for name in names:
        counts = impressions.group_by("day", pl.col(name).cast(pl.String).alias("bin")).agg(value=pl.len())
        known, rows = (
            counts.filter(pl.col("bin").is_not_null()),
            counts.group_by("day").agg(value=pl.col("value").sum()),
        )
        missing = counts.group_by("day").agg(value=pl.col("value").filter(pl.col("bin").is_null()).sum())
        listed = known.sort("day", "value", "bin", descending=[False, True, False]).group_by("day").head(LISTED)
        parts += [
            _long(rows, "values", name, "value"),
            _long(missing, "missing", name, "value"),
            listed.with_columns(measure=pl.lit("category"), name=pl.lit(name)),
        ]
    return parts


def _lists(spec: Spec, impressions: pl.DataFrame) -> list[pl.DataFrame]:
    """Of lists and vectors, how many are missing."""
    names = [feature.name for feature in spec.features.numeric if feature.holds_lists]
    names += [feature.name for feature in spec.features.embedded if feature.holds_lists]
    counts = impressions.group_by("day").agg(pl.len(), *(pl.col(name).null_count() for name in names))
    return [
        part for name in names for part in (_long(counts, "values", name, "len"), _long(counts, "missing", name, name))
    ]


def _clients(spec: Spec, impressions: pl.DataFrame, happened: pl.DataFrame) -> list[pl.DataFrame]:
    """How much of the day few users and sessions have, and how many outcomes users have that no person would."""
    parts = []
    for client in ("user", "session"):
        if getattr(spec.impression, client) is None:
            continue
        rows = impressions.filter(pl.col(client).is_not_null()).group_by("day", client).agg(rows=pl.len())
        totals = rows.group_by("day").agg(
            clients=pl.col("rows").sum(), heaviest=pl.col("rows").top_k(HEAVIEST).sum()
        )  # fmt: skip
        parts += [_long(totals, measure, client, measure) for measure in ("clients", "heaviest")]
        if client != "user":
            continue
        roots = [task.name for task in spec.tasks if task.parent is None]
        first = happened.filter(pl.col("event").is_in(roots)).unique(["day", "impression_id", "event"])
        own = impressions.select("day", "impression_id", client).join(
            first.group_by("day", "impression_id").agg(outcomes=pl.len()), on=["day", "impression_id"]
        )
        by_user = own.filter(pl.col(client).is_not_null()).group_by("day", client).agg(pl.col("outcomes").sum())
        by_user = by_user.join(rows, on=["day", client]).join(totals.select("day", "clients"), on="day")
        rate = pl.col("outcomes") / pl.col("rows")
        day_rate = pl.col("outcomes").sum().over("day") / pl.col("clients")
        anomalous = (
            (pl.col("outcomes") >= ANOMALOUS_OUTCOMES) & (rate >= ANOMALOUS_RATE) & (rate >= ANOMALOUS_RATIO * day_rate)
        )
        found = by_user.with_columns(anomalous=anomalous).group_by("day").agg(
            same_day=pl.col("outcomes").sum(), suspicious=pl.col("outcomes").filter(pl.col("anomalous")).sum()
        )  # fmt: skip
        parts += [_long(found, measure, client, measure) for measure in ("same_day", "suspicious")]
    return parts
