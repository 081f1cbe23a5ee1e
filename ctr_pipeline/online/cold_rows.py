"""New ids in the log of requests: which categories of a row the model's vocabulary did not hold, and whose embedding they had.

A category whose value is unknown has the mean embedding of its parent's values where the model has a cold start with a parent
for it (:class:`~ctr_pipeline.ranker.cold_start.ColdStart`), else the embedding that all unknown values share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import polars as pl

from ctr_pipeline.features import UNKNOWN_ROW, Layout
from ctr_pipeline.features.input_profile import SECOND_BIN, InputProfile
from ctr_pipeline.spec.fields import MICROSECONDS

COLD, COLD_PARENTS = "cold", "cold_parents"
"""Columns of `serving_log`: names of the categories whose values were unknown, and the parent of each, null where it has none."""

EARLIER_DAYS = 7
"""Days before whose shares are shown beside those of a day."""


@dataclass(frozen=True, slots=True)
class ColdPlace:
    """A category of one value that may meet new ones."""

    feature: str
    place: int
    """Column of the id array."""
    parent: str | None
    """Feature from whose values new ones begin; None where they begin as all unknown ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdShare:
    """How many rows had an unknown value of one category."""

    feature: str
    parent: str | None
    rows: int
    """Rows of the day with an unknown value."""
    training: float | None
    """Share among the training rows of the model that answered most; None for a model of before profiles were kept."""
    days: Mapping[date, float] = field(default_factory=dict)
    """Share of the rows by day: the day itself and those before that have requests."""
    hours: Mapping[int, float] = field(default_factory=dict)
    """Share of the rows by hour of the day, UTC."""

    def share(self, day: date) -> float:
        """Share of the rows of ``day``."""
        return self.days.get(day, 0.0)


def cold_places(layout: Layout) -> tuple[ColdPlace, ...]:
    """The categories of one value that are read from a request, but those that are made of its time."""
    return tuple(
        ColdPlace(column.name, places.start, None if column.cold_start is None else column.cold_start.parent)
        for column, places in zip(layout.ids, layout.id_places, strict=True)
        if column.pooled is None and column.from_time is None and column.group != "history"
    )


def with_cold_rows(rows: pl.DataFrame, layouts: Mapping[str, Layout]) -> pl.DataFrame:
    """The rows of `serving_log` with :data:`COLD` and :data:`COLD_PARENTS`, in their order.

    Args:
        rows: With the columns ``model_sha`` and ``ids``.
        layouts: By SHA-256 the layouts of the models; rows of others keep what they have: null where nobody knows.
    """
    columns = [
        pl.lit(None, pl.List(pl.String)).alias(name) for name in (COLD, COLD_PARENTS) if name not in rows.columns
    ]
    cold, parents = pl.col(COLD), pl.col(COLD_PARENTS)
    for sha, layout in layouts.items():
        places = cold_places(layout)
        listed = _listed(places)
        parent_of = pl.element().replace_strict({of.feature: of.parent for of in places}, return_dtype=pl.String)
        theirs = pl.col("model_sha") == sha
        cold = pl.when(theirs).then(listed).otherwise(cold)
        parents = pl.when(theirs).then(listed.list.eval(parent_of)).otherwise(parents)
    return rows.with_columns(columns).with_columns(cold.alias(COLD), parents.alias(COLD_PARENTS))


def _listed(places: Sequence[ColdPlace]) -> pl.Expr:
    """Names of the categories whose value is unknown."""
    if not places:
        return pl.lit([], pl.List(pl.String))
    named = [
        pl.when(pl.col("ids").list.get(of.place, null_on_oob=True) == UNKNOWN_ROW).then(pl.lit(of.feature))
        for of in places
    ]
    return pl.concat_list(named).list.drop_nulls()


def cold_shares(
    rows: pl.DataFrame, day: date, layouts: Mapping[str, Layout], training: Mapping[str, InputProfile | None]
) -> tuple[ColdShare, ...]:
    """Shares of rows with an unknown value, by category: those with a parent, and others that had one.

    Args:
        rows: Of `serving_log`, of ``day`` and up to :data:`EARLIER_DAYS` days before: columns day, ts, model_sha and
            :data:`COLD`. Rows where nobody knows are left out.
        day: The day.
        layouts: By SHA-256 the layouts of the models of ``day``.
        training: By SHA-256 their profiles.
    """
    known = rows.filter(pl.col(COLD).is_not_null() & pl.col("model_sha").is_in(list(layouts)))
    known = known.select("day", "model_sha", COLD, hour=pl.col("ts") // MICROSECONDS["h"] % 24)
    by_model = known.filter(pl.col("day") == day)["model_sha"].value_counts(sort=True)["model_sha"].to_list()
    found = []
    for feature, parent in {
        of.feature: of.parent for sha in reversed(by_model) for of in cold_places(layouts[sha])
    }.items():
        having = [sha for sha in by_model if any(of.feature == feature for of in cold_places(layouts[sha]))]
        own = known.filter(pl.col("model_sha").is_in(having)).with_columns(
            pl.col(COLD).list.contains(feature).alias(COLD)
        )
        of_day = own.filter(pl.col("day") == day)
        share = ColdShare(
            feature=feature,
            parent=parent,
            rows=int(of_day[COLD].sum()),
            training=_share_in_training(training.get(having[0]), feature),
            days=dict(own.group_by("day").agg(pl.col(COLD).mean()).sort("day").iter_rows()),
            hours=dict(of_day.group_by("hour").agg(pl.col(COLD).mean()).sort("hour").iter_rows()),
        )
        if parent is not None or any(share.days.values()):
            found.append(share)
    return tuple(sorted(found, key=lambda one: (one.parent is None, -one.share(day), one.feature)))


def days_looked_at(day: date) -> tuple[date, date]:
    """First and last day of the rows that :func:`cold_shares` compares."""
    return day - timedelta(days=EARLIER_DAYS), day


def _share_in_training(profile: InputProfile | None, feature: str) -> float | None:
    """Share of the training rows whose value is too rare for the vocabulary."""
    for column in profile.columns if profile is not None else ():
        if column.feature == feature and column.is_id:
            return float(column.counts[SECOND_BIN] / max(1.0, sum(column.counts)))
    return None
