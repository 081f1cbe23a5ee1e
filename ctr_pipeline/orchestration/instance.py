"""Dagster's instance in the data root: its folder, its environment, and the runs that it has open."""

from typing import TYPE_CHECKING

import dagster as dg
import yaml
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, NOT_FINISHED_STATUSES

from ctr_pipeline.deployment.bundled import bundled_file
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.orchestration.event_storage import BATCH_EVENTS, BATCH_VARIABLE, BatchedEventLogStorage
from ctr_pipeline.orchestration.stages import RETRAIN_JOB
from ctr_pipeline.orchestration.step_output import StepOutputManager

if TYPE_CHECKING:
    from pathlib import Path

    from ctr_pipeline.orchestration.resources import TrackingResource

COMMAND_TAG = "ctr/command"
"""Tag of the Dagster runs that a command of `ctr` executes in its own process."""

_MESSAGE = "The process of this run ended without a message: it was killed, or the machine stopped."


def prepare_home(paths: DataRoot) -> "Path":
    """The folder of Dagster's own storage inside the data root, with its configuration."""
    home = paths.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    own = {
        section: {
            "module": kept.__module__,
            "class": kept.__name__,
            "config": {"base_dir": str(home.resolve() / folder)},
        }
        for section, kept, folder in (
            ("event_log_storage", BatchedEventLogStorage, "history/runs"),
            ("compute_logs", StepOutputManager, "storage"),
        )
    }
    settings = bundled_file("dagster.yaml").read_text(encoding="utf-8")
    (home / "dagster.yaml").write_text(f"{settings}\n{yaml.safe_dump(own)}", encoding="utf-8")
    return home


def dagster_variables(paths: DataRoot) -> dict[str, str]:
    """Variables by which Dagster's processes find this data root."""
    return {
        BATCH_VARIABLE: BATCH_EVENTS,
        **process_environment().variables,
        "DAGSTER_HOME": str(prepare_home(paths)),
        "CTR_DATA_ROOT": str(paths.root),
    }


def launched_runs(paths: DataRoot) -> list[str]:
    """Ids of the runs at work that a Dagster page or daemon launched, each in a process of its own."""
    with dg.DagsterInstance.from_config(str(prepare_home(paths))) as instance:
        running = instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))
        return [run.run_id for run in running if run.remote_job_origin is not None]


def close_abandoned(instance: dg.DagsterInstance, tracking: "TrackingResource | None") -> list[str]:
    """Marks as failed the runs of earlier `ctr run` commands that are not finished, and their MLflow runs as killed.

    Nothing else ends runs whose process was killed. They would stay running for ever, and each would hold
    one of the few places that the daemon has for runs. A killed training would also keep its slot of the pool `gpu`,
    for which the next training waits. Runs that a Dagster page or daemon launched have a process of their own and are
    not touched. Call this only with the lock of the data root held: then no other `ctr run` is at work.

    Returns:
        Ids of the Dagster runs that were closed.
    """
    open_runs = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    # One that was launched again from the page has the tag too, but records from where its code is loaded.
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
