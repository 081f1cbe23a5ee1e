"""Brings what the tables hold of the last days into a store of events, so that it does not begin empty."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ctr_pipeline.lake import Lake
from ctr_pipeline.online.event_store import EventStore
from ctr_pipeline.serving.history_lookup import IMPRESSION, Event, Stored

if TYPE_CHECKING:
    import polars as pl

_TOGETHER = 1000
"""Events of one commit, so that servers which store events meanwhile wait shortly."""


def fill_from_tables(store: EventStore, lake: Lake, now: int) -> Stored:
    """Stores the impressions and outcomes of the tables that a look-up could still meet.

    What is in the store already stays as it is, and so it may be done at any time, also while servers use the store.

    Args:
        store: The store.
        lake: The tables; there may be none.
        now: Microseconds since 1970 UTC.

    Returns:
        How many events are new, and how many were known before.
    """
    if not lake.exists("impressions") or not lake.exists("outcome_events"):
        return Stored(0, 0)
    accepted = repeated = 0
    batch: list[Event] = []
    for event in _events(store, lake, store.oldest(now)):
        batch.append(event)
        if len(batch) == _TOGETHER:
            found = store.append(batch, now)
            accepted, repeated, batch = accepted + found.accepted, repeated + found.repeated, []
    found = store.append(batch, now)
    return Stored(accepted + found.accepted, repeated + found.repeated)


def _events(store: EventStore, lake: Lake, oldest: int) -> Iterator[Event]:
    """The events of the tables, in the order of their arrival."""
    import polars as pl

    first = datetime.fromtimestamp(max(0, oldest) / 1e6, UTC).date()
    shown = lake.scan("impressions", first=first).filter(pl.col("ts") >= oldest)
    rows = shown.select("impression_id", "ts", "ingest_ts", *store.keys, event=pl.lit(IMPRESSION)).collect()
    happened = lake.scan("outcome_events", first=first)
    happened = happened.filter(
        pl.col("kind") == "outcome", pl.col("event").is_in(list(store.kinds)), pl.col("event_ts") >= oldest
    )
    outcomes = happened.select("impression_id", "event", "ingest_ts", ts="event_ts").collect()
    yield from _in_order(pl.concat([rows, outcomes], how="diagonal").sort("ingest_ts", "ts"), store.keys)


def _in_order(rows: "pl.DataFrame", keys: tuple[str, ...]) -> Iterator[Event]:
    for name, kind, ts, arrived, *values in rows.select("impression_id", "event", "ts", "ingest_ts", *keys).iter_rows():
        yield Event(kind, name, ts, arrived, dict(zip(keys, values, strict=True)) if kind == IMPRESSION else {})
