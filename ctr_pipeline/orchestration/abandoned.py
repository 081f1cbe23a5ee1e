"""Runs whose process was killed: nobody else ends them, so the next run does."""

from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

if TYPE_CHECKING:
    from ctr_pipeline.orchestration.resources import TrackingResource

RETRAIN_JOB = "daily_retrain"

COMMAND_TAG = "ctr/command"
"""Tag of the Dagster runs that a command of ours executes in its own process."""

_MESSAGE = "The process of this run ended without a word: it was killed, or the machine went down."


def close_abandoned(instance: dg.DagsterInstance, tracking: "TrackingResource | None") -> list[str]:
    """Marks as failed the runs of earlier `ctr run` commands that are not finished, and their MLflow runs as killed.

    Left alone they would show as running for ever, and each would hold one of the few places that the daemon has for
    runs. A killed training would also keep its slot of the pool `gpu`, for which the next training waits. Runs that a Dagster page or daemon launched have a process of their own and are not touched. Call this only
    with the lock of the data root held: then no other `ctr run` is at work.

    Returns:
        Ids of the Dagster runs that were closed.
    """
    open_runs = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    # One that was launched again from the page has the tag too, but says from where its code is loaded.
    abandoned = [run for run in open_runs if COMMAND_TAG in run.tags and run.remote_job_origin is None]
    for run in abandoned:
        instance.report_run_failed(run, _MESSAGE)
        if run.job_name == RETRAIN_JOB and tracking is not None:
            tracking.close_killed(run.run_id)
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        holder = instance.get_run_by_id(run_id)
        if holder is None or holder.is_finished:
            storage.free_concurrency_slots_for_run(run_id)
    return [run.run_id for run in abandoned]
