"""Events that name no impression → the latest impression with the same ids, at most a while before the event.

Which impression that is depends on the impressions and the event alone: neither on the order of rows and files nor on
what else is read. Of several at the same instant, the one of the greatest position and then of the greatest id is taken.
"""

from datetime import date, timedelta

import polars as pl

from ctr_pipeline.sources import values
from ctr_pipeline.sources.clock import TS
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.rows import Schema
from ctr_pipeline.sources.values import Field
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.attribute import Attribute

ATTRIBUTED, AMBIGUOUS, UNATTRIBUTED, WITHOUT_KEY = "attributed", "ambiguous", "unattributed", "without_key"
"""What became of an event: it has an impression; it has one of several that were equally late; no impression with its ids
is in time; one of its ids is missing."""

FATE = "__fate"
"""One of the above; null for events that need no impression."""

_AT, _FOUND, _TIED, _UNTIL = "__at", "__found_ts", "__tied", "__until"
_EPOCH = date(1970, 1, 1)


def key_column(place: int) -> str:
    """The column of events with their id of the key at ``place`` in `attribute.by`."""
    return f"__by{place}"


def key_fields(
    spec: Spec, attribute: Attribute, schema: Schema, where: str, pseudonymiser: Pseudonymiser
) -> list[Field]:
    """The ids by which events are attributed, as the table `impressions` holds them."""
    fields = []
    for place, (shown, column) in enumerate(attribute.by.items()):
        text = values.id_text(column, schema[column], where)
        text = pseudonymiser.of(text) if shown in spec.private_columns else text
        fields.append(Field(text.alias(key_column(place)), values.exact_id(column, schema[column])))
    return fields


def private_keys(spec: Spec, attribute: Attribute) -> set[str]:
    """Columns of the event log with ids that are never shown."""
    return {column for shown, column in attribute.by.items() if shown in spec.private_columns}


def attribute_events(
    spec: Spec, attribute: Attribute, events: pl.DataFrame, wanted: pl.Expr, impressions: pl.LazyFrame | None
) -> pl.DataFrame:
    """Adds ``impression_id`` and :data:`FATE` to events.

    Args:
        spec: Says which columns of the impressions hold the ids, and how early an event may be.
        attribute: How events find their impression.
        events: Rows with TS and the columns of :func:`key_fields`.
        wanted: Which of them need an impression.
        impressions: Rows of the table `impressions`; None where there are none.

    Returns:
        ``events`` in their order.
    """
    keys = [key_column(place) for place in range(len(attribute.by))]
    numbered = events.with_row_index(_AT)
    needing = numbered.filter(wanted).select(_AT, TS, *keys)
    known = needing.drop_nulls(keys).with_columns((pl.col(TS) + spec.source.max_early).alias(_UNTIL)).sort(_UNTIL)
    touched = known.select(_AT, TS).clear().with_columns(impression_id=pl.lit(None, pl.String), **{_TIED: False})
    if known.height and impressions is not None:
        shown = _latest_at_each_instant(spec, attribute, keys, known, impressions)
        found = known.join_asof(
            shown, left_on=_UNTIL, right_on=_FOUND, by=keys, strategy="backward", check_sortedness=False
        )
        touched = found.filter(pl.col(_FOUND) >= pl.col(TS) - attribute.within)
    fate = (
        pl.when(pl.col("impression_id").is_null())
        .then(pl.lit(UNATTRIBUTED))
        .when(_TIED)
        .then(pl.lit(AMBIGUOUS))
        .otherwise(pl.lit(ATTRIBUTED))
    )
    fates = pl.concat(
        [
            known.select(_AT)
            .join(touched.select(_AT, "impression_id", _TIED), on=_AT, how="left")
            .with_columns(fate.alias(FATE)),
            needing.filter(pl.any_horizontal(pl.col(keys).is_null())).select(_AT, pl.lit(WITHOUT_KEY).alias(FATE)),
        ],
        how="diagonal",
    )
    return numbered.join(fates.drop(_TIED), on=_AT, how="left", maintain_order="left").drop(_AT)


def _latest_at_each_instant(
    spec: Spec, attribute: Attribute, keys: list[str], events: pl.DataFrame, impressions: pl.LazyFrame
) -> pl.DataFrame:
    """The impression of each ids and instant that an event may belong to, in order of time."""
    low, high = int(events[TS].min()) - attribute.within, int(events[_UNTIL].max())  # type: ignore[arg-type]
    stored = [pl.col(str(spec.stored_under(shown))).alias(key) for shown, key in zip(attribute.by, keys, strict=True)]
    return (
        impressions.filter(pl.col("day").is_between(_day(low), _day(high)), pl.col("ts").is_between(low, high))
        .select("impression_id", pl.col("ts").alias(_FOUND), "position", *stored)
        .join(events.lazy().select(keys).unique(), on=keys, how="semi")
        .sort("position", "impression_id", nulls_last=False)
        .group_by(*keys, _FOUND)
        .agg(pl.col("impression_id").last(), (pl.len() > 1).alias(_TIED))
        .sort(_FOUND)
        .collect()
    )


def _day(time: int) -> date:
    return _EPOCH + timedelta(microseconds=time)
