"""Labels are made again when outcomes arrive late."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.metadata import newest_metadata
from ctr_pipeline.orchestration.partitions import window_days

WATERMARK = "watermark"
"""Metadata of a label materialisation: the last arrival day that it has seen."""

EVENTS_VERSION = "outcome_events_version"
"""Metadata of a label materialisation: the version of the table of outcomes that it has read."""

LATE_DAYS = 7
"""Days past its window for which a day's labels are still made again, to catch late outcomes."""


def late_label_sensor(settings: PipelineSettings, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """Requests the label days whose outcomes have moved on.

    The trigger looks at levels, not at events: for each day it compares the last arrival day that is in the lake with
    the one that the day's labels have seen. An arrival that comes while a request runs is therefore seen at the next
    tick. The run key holds the watermark, so a day is requested once for each.
    """

    @dg.sensor(
        name="late_labels",
        job=job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED if settings.last_day else dg.DefaultSensorStatus.RUNNING,
        description="Labels days again when outcomes arrived since.",
    )
    def late_labels(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        instance = context.instance
        arrived = arrivals(instance, settings)
        watermark = arrival_day_watermark(arrived, settings.first_day)
        if watermark is None:
            return dg.SkipReason("No outcomes have been read yet.")
        shown = days_of(instance, "impressions", settings)
        stale = stale_label_days(shown, labels_seen(instance), arrived, watermark, window_days(settings) + LATE_DAYS)
        if not stale:
            return dg.SkipReason(f"Labels have seen everything up to {watermark}.")
        newest = max(arrived.values())
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=f"{day}:{watermark}:{newest}", partition_key=day.isoformat())
                for day in sorted(stale)
            ]
        )

    return late_labels


@dataclass(frozen=True, slots=True)
class Seen:
    """What a day's labels were made from: the last arrival day, and the version of the table of outcomes."""

    watermark: date
    version: int


def stale_label_days(
    shown: set[date], seen: Mapping[date, Seen], arrived: Mapping[date, int], watermark: date, horizon_days: int
) -> set[date]:
    """Days whose labels miss outcomes that have arrived, or have seen outcomes that were read anew since.

    Args:
        shown: Days with impressions.
        seen: What each day's labels were made from.
        arrived: Table version that each arrival day was last written in.
        watermark: Last arrival day up to which all are in the lake.
        horizon_days: Days after an impression within which an arrival can still change its label.
    """
    nothing = Seen(date.min, -1)

    def is_stale(day: date) -> bool:
        known, last = seen.get(day, nothing), min(watermark, day + timedelta(days=horizon_days))
        return known.watermark < last or any(
            version > known.version for arrival, version in arrived.items() if day <= arrival <= last
        )

    return {day for day in shown if day <= watermark and is_stale(day)}


def arrival_day_watermark(arrived: Iterable[date], first_day: date) -> date | None:
    """Last day up to which every arrival day from ``first_day`` on has been read; None when the first has not."""
    days = set(arrived)
    day = first_day
    while day in days:
        day += timedelta(days=1)
    return day - timedelta(days=1) if day > first_day else None


def days_of(instance: dg.DagsterInstance, asset: str, settings: PipelineSettings) -> set[date]:
    """The days of this deployment that have been materialised."""
    found = {date.fromisoformat(key) for key in instance.get_materialized_partitions(dg.AssetKey(asset))}
    return {day for day in found if settings.first_day <= day <= (settings.last_day or date.max)}


def arrivals(instance: dg.DagsterInstance, settings: PipelineSettings) -> dict[date, int]:
    """Version of the table of outcomes in which each arrival day was last written."""
    days = days_of(instance, "outcome_events", settings)
    newest = newest_metadata(instance, "outcome_events")
    return {day: int(found.get("delta_version", 0)) for day, found in newest.items() if day in days}


def labels_seen(instance: dg.DagsterInstance) -> dict[date, Seen]:
    """What the newest labels of each day were made from."""
    return {
        day: Seen(date.fromisoformat(found[WATERMARK]), int(found.get(EVENTS_VERSION, 0)))
        for day, found in newest_metadata(instance, "labels").items()
        if WATERMARK in found
    }
