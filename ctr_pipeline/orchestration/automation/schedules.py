"""The schedules, in UTC: logs at 01:00, labels as they settle, the model at 04:00; the canary every hour."""

from datetime import date, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.stages import CANARY_JOB


def pipeline_schedules(
    deployment: Deployment, jobs: dict[str, UnresolvedAssetJobDefinition]
) -> list[dg.ScheduleDefinition]:
    """Schedules for yesterday's partition. They run by default only where the log grows."""
    status = dg.DefaultScheduleStatus.STOPPED if deployment.last_day else dg.DefaultScheduleStatus.RUNNING
    return [
        _daily(deployment, jobs["daily_ingest"], "0 1 * * *", status),
        _daily(deployment, jobs["daily_retrain"], "0 4 * * *", status),
        dg.ScheduleDefinition(
            name=f"{CANARY_JOB}_schedule",
            job=jobs[CANARY_JOB],
            cron_schedule="30 * * * *",
            execution_timezone="UTC",
            default_status=status,
            description="Looks at the canary; the limits allow for any number of looks.",
        ),
    ]


def _daily(
    deployment: Deployment,
    job: UnresolvedAssetJobDefinition,
    cron: str,
    status: dg.DefaultScheduleStatus,
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=status,
        description=f"{job.name} of the day that has just ended.",
    )
    def yesterday(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.date() - timedelta(days=1)
        if not _in_log(deployment, day):
            return dg.SkipReason(f"{day} is not among the days of the log.")
        return dg.RunRequest(run_key=day.isoformat(), partition_key=day.isoformat())

    return yesterday


def _in_log(deployment: Deployment, day: date) -> bool:
    return deployment.first_day <= day and (deployment.last_day is None or day <= deployment.last_day)
