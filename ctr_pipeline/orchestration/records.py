"""What Dagster's event log records of the days that were materialised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment

WATERMARK = "watermark"
"""Metadata of a label materialisation: the last arrival day that it has seen."""

EVENTS_VERSION = "outcome_events_version"
"""Metadata of a label materialisation: the version of the table of outcomes that it has read."""

FILES = "files"
"""Metadata of a day of a raw table: the stamp of each file that it was read from."""

EVENT_TYPES = "event_types"
"""Metadata of a day of outcomes: events by type, those that no task uses included."""

REMARKS = "remarks"
"""Metadata of a reading of the logs: what a person should know of it."""


_KNOWN: WeakKeyDictionary[dg.DagsterInstance, dict[str, tuple[int, dict[date, dg.AssetMaterialization]]]] = (
    WeakKeyDictionary()
)
"""By asset, the id of the newest event and what was read with it."""


def newest_materializations(instance: dg.DagsterInstance, asset: str) -> Mapping[date, dg.AssetMaterialization]:
    """The newest materialisation of each day.

    They are read again only when there is a newer one: reading those of years takes seconds.
    """
    last = instance.fetch_materializations(dg.AssetKey(asset), limit=1).records
    if not last:
        return {}
    known = _KNOWN.setdefault(instance, {})
    if asset not in known or known[asset][0] != last[0].storage_id:
        known[asset] = last[0].storage_id, _read_materializations(instance, asset)
    return known[asset][1]


def _read_materializations(instance: dg.DagsterInstance, asset: str) -> dict[date, dg.AssetMaterialization]:
    newest: dict[date, dg.AssetMaterialization] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(dg.AssetKey(asset), limit=1000, cursor=cursor)
        for record in page.records:
            found = record.asset_materialization
            if found is not None and found.partition is not None:
                newest.setdefault(date.fromisoformat(found.partition), found)
        if not page.has_more:
            return newest
        cursor = page.cursor


def newest_metadata(instance: dg.DagsterInstance, asset: str) -> dict[date, dict[str, Any]]:
    """Metadata of the newest materialisation of each day."""
    return {
        day: {key: entry.value for key, entry in found.metadata.items()}
        for day, found in newest_materializations(instance, asset).items()
    }


def event_types_of(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Events by type that the metadata of a day of outcomes records; none for days of earlier versions."""
    found = metadata.get(EVENT_TYPES)
    return {str(kind): int(events) for kind, events in found.items()} if isinstance(found, dict) else {}


def newest_tags(instance: dg.DagsterInstance, asset: str, tag: str) -> dict[date, str]:
    """Value of ``tag`` of the newest materialisation of each day; empty where it has none."""
    return {day: (found.tags or {}).get(tag, "") for day, found in newest_materializations(instance, asset).items()}


def days_with_tag(instance: dg.DagsterInstance, asset: str, days: Sequence[date], tag: str, value: str) -> set[date]:
    """Those of ``days`` whose newest materialisation has ``value`` as its ``tag``."""
    newest = newest_tags(instance, asset, tag)
    return {day for day in days if newest.get(day) == value}


def days_of(instance: dg.DagsterInstance, asset: str, deployment: Deployment) -> set[date]:
    """The days of this deployment that have been materialised."""
    found = {date.fromisoformat(key) for key in instance.get_materialized_partitions(dg.AssetKey(asset))}
    return {day for day in found if deployment.first_day <= day <= (deployment.last_day or date.max)}


def arrivals(instance: dg.DagsterInstance, deployment: Deployment) -> dict[date, int]:
    """Version of the table of outcomes in which each arrival day was last written."""
    days = days_of(instance, "outcome_events", deployment)
    newest = newest_metadata(instance, "outcome_events")
    return {day: int(found.get("delta_version", 0)) for day, found in newest.items() if day in days}


def arrival_day_watermark(arrived: Iterable[date], first_day: date) -> date | None:
    """Last day up to which every arrival day from ``first_day`` on has been read; None when the first has not."""
    days = set(arrived)
    day = first_day
    while day in days:
        day += timedelta(days=1)
    return day - timedelta(days=1) if day > first_day else None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a day's labels were made from: the last arrival day, and the version of the table of outcomes."""

    watermark: date
    version: int


def labels_seen(instance: dg.DagsterInstance) -> dict[date, Seen]:
    """What the newest labels of each day were made from."""
    return {
        day: Seen(date.fromisoformat(found[WATERMARK]), int(found.get(EVENTS_VERSION, 0)))
        for day, found in newest_metadata(instance, "labels").items()
        if WATERMARK in found
    }


def stale_label_days(
    shown: set[date],
    seen: Mapping[date, Seen],
    arrived: Mapping[date, int],
    watermark: date,
    horizon_days: int,
    early_days: int = 0,
) -> set[date]:
    """Days whose labels miss outcomes that have arrived, or have seen outcomes that were read again since.

    Args:
        shown: Days with impressions.
        seen: What each day's labels were made from.
        arrived: Table version that each arrival day was last written in.
        watermark: Last arrival day up to which all are in the lake.
        horizon_days: Days after an impression within which an arrival can still change its label.
        early_days: Days before it within which one can.
    """
    nothing, early = Seen(date.min, -1), timedelta(days=early_days)

    def is_stale(day: date) -> bool:
        known, last = seen.get(day, nothing), min(watermark, day + timedelta(days=horizon_days))
        return known.watermark < last or any(
            version > known.version for arrival, version in arrived.items() if day - early <= arrival <= last
        )

    return {day for day in shown if day <= watermark and is_stale(day)}
