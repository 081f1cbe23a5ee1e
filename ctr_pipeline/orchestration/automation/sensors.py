"""Labels are made again when outcomes arrive late."""

from collections.abc import Mapping
from datetime import date, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ctr_pipeline.orchestration.partitions import window_days
from ctr_pipeline.orchestration.settings import PipelineSettings

WATERMARK = "watermark"
"""Metadata of a label materialisation: the last arrival day that it has seen."""

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
        arrived = days_of(instance, "outcome_events")
        shown = days_of(instance, "impressions")
        if not arrived or not shown:
            return dg.SkipReason("No outcomes have been read yet.")
        watermark = max(arrived)
        stale = stale_label_days(shown, label_watermarks(instance), watermark, window_days(settings) + LATE_DAYS)
        if not stale:
            return dg.SkipReason(f"Labels have seen everything up to {watermark}.")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=f"{day}:{watermark}", partition_key=day.isoformat()) for day in sorted(stale)
            ]
        )

    return late_labels


def stale_label_days(shown: set[date], seen: Mapping[date, date], watermark: date, horizon_days: int) -> set[date]:
    """Days whose labels miss outcomes that have arrived.

    Args:
        shown: Days with impressions.
        seen: Last arrival day that each day's labels have seen.
        watermark: Last arrival day in the lake.
        horizon_days: Days after an impression within which an arrival can still change its label.
    """
    return {
        day
        for day in shown
        if day <= watermark and seen.get(day, date.min) < min(watermark, day + timedelta(days=horizon_days))
    }


def days_of(instance: dg.DagsterInstance, asset: str) -> set[date]:
    """The days of a table that have been materialised."""
    return {date.fromisoformat(key) for key in instance.get_materialized_partitions(dg.AssetKey(asset))}


def label_watermarks(instance: dg.DagsterInstance) -> dict[date, date]:
    """For each day, the last arrival day that its newest labels have seen."""
    found: dict[date, date] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(dg.AssetKey("labels"), limit=1000, cursor=cursor)
        for record in page.records:
            materialization = record.asset_materialization
            if materialization is None or materialization.partition is None:
                continue
            value = materialization.metadata.get(WATERMARK)
            if value is not None:
                found.setdefault(date.fromisoformat(materialization.partition), date.fromisoformat(str(value.value)))
        if not page.has_more:
            return found
        cursor = page.cursor
