"""Labels are made again when outcomes arrive late."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.partitions import early_days, window_days
from ctr_pipeline.orchestration.records import arrival_day_watermark, arrivals, days_of, labels_seen, stale_label_days

LATE_DAYS = 7
"""Days past its window for which a day's labels are still made again, to catch late outcomes."""


def late_label_sensor(deployment: Deployment, job: UnresolvedAssetJobDefinition) -> dg.SensorDefinition:
    """Requests the label days whose outcomes have changed.

    The trigger compares states, not events: for each day it compares the last arrival day that is in the lake with
    the one that the day's labels have seen. An arrival that comes while a request runs is therefore seen at the next
    tick. The run key holds the watermark, so a day is requested once for each.
    """

    @dg.sensor(
        name="late_labels",
        job=job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED if deployment.last_day else dg.DefaultSensorStatus.RUNNING,
        description="Labels days again when outcomes arrived since.",
    )
    def late_labels(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        instance = context.instance
        arrived = arrivals(instance, deployment)
        watermark = arrival_day_watermark(arrived, deployment.first_day)
        if watermark is None:
            return dg.SkipReason("No outcomes have been read yet.")
        shown = days_of(instance, "impressions", deployment)
        stale = stale_label_days(
            shown,
            labels_seen(instance),
            arrived,
            watermark,
            window_days(deployment.spec) + LATE_DAYS,
            early_days(deployment.spec).days,
        )
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
