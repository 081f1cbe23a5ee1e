"""Runs the assets in this process, doing only what is missing."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.automation.alerts import alerts_of_run
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.instance import COMMAND_TAG, close_abandoned
from ctr_pipeline.orchestration.records import arrival_day_watermark, arrivals, days_with_tag
from ctr_pipeline.orchestration.resources import NotifierResource, TrackingResource
from ctr_pipeline.orchestration.stages import RETRAIN_JOB, RETRAIN_STEP, STAGES, AssetStage


@dataclass(frozen=True, slots=True)
class StepFailure:
    """A step that failed."""

    step: str
    """Name of its asset; empty where the run failed before its first step."""
    message: str
    """What is written for the user, beginning with the step."""


class PipelineError(UserError):
    """A step failed; the message is the one written for the user."""

    def __init__(self, failure: StepFailure, runs: "Sequence[FinishedRun]" = ()) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.runs = tuple(runs)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One Dagster run of a pipeline run."""

    run_id: str
    assets: tuple[str, ...]
    first: date
    last: date


def run_pipeline(
    deployment: Deployment, defs: dg.Definitions, instance: dg.DagsterInstance, first: date, last: date
) -> tuple[list[FinishedRun], StepFailure | None]:
    """Brings every asset up to date for the days ``first`` to ``last``, and the model to the end of ``last``.

    Runs that a killed command left open are closed first.

    Returns:
        The Dagster runs that were needed, none when everything was up to date; and the step that failed, after which
        no other was run.

    Raises:
        PipelineError: the log was not read up to ``last``.
    """
    _close_abandoned(defs, instance)
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    runs: list[FinishedRun] = []
    for step, of_step in groupby(STAGES, key=lambda stage: stage.step):
        stages = list(of_step)
        inputs = FingerprintInputs(
            deployment=deployment,
            instance=instance,
            last=last,
            watermark=_watermark(deployment, instance, last) if step == "labels" else None,
        )
        wanted = [last] if step == RETRAIN_STEP else days
        fresh = {stage.name: _fresh(stage, inputs, wanted) for stage in stages}
        stale = {name: [day for day in wanted if day not in found] for name, found in fresh.items()}
        if step == RETRAIN_STEP:
            # What follows a stale asset is stale with it.
            names = [stage.name for stage in stages]
            missing = [name for name in names if stale[name]]
            names = names[names.index(missing[0]) :] if missing else []
        else:
            names = [stage.name for stage in stages]
        of_any = sorted({day for found in stale.values() for day in found})
        try:
            runs += run_days(defs, instance, stages[0].job, names, of_any)
        except PipelineError as error:
            return [*runs, *error.runs], error.failure
    return runs, None


def execute_retrain(defs: dg.Definitions, instance: dg.DagsterInstance, assets: Sequence[str], day: str) -> None:
    """Materialises ``assets`` of the retrain of ``day``, whatever they were made from before.

    Raises:
        PipelineError: a step failed.
    """
    result = defs.resolve_job_def(RETRAIN_JOB).execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        partition_key=day,
        raise_on_error=False,
        run_config={"loggers": {"console": {}}},
    )
    if _was_interrupted(result):
        raise KeyboardInterrupt
    if not result.success:
        raise PipelineError(failure_of(result))


def execute_job(defs: dg.Definitions, instance: dg.DagsterInstance, job: str) -> None:
    """Runs a job without partitions, and sends its alerts.

    Raises:
        PipelineError: a step failed.
    """
    result = defs.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, run_config={"loggers": {"console": {}}}, tags={COMMAND_TAG: "release"}
    )
    _alert(defs, instance, result.run_id)
    if _was_interrupted(result):
        raise KeyboardInterrupt
    if not result.success:
        raise PipelineError(failure_of(result))


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a signal ended the run. Dagster turns it into an error of the step, or cancels the run between steps."""
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.RUN_CANCELED:
            return True
        error = getattr(event.event_specific_data, "error", None)
        while error is not None:
            if error.cls_name in (dg.DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__):
                return True
            error = error.cause or error.context
    return False


def failure_of(result: dg.ExecuteInProcessResult) -> StepFailure:
    """The step that failed with its own message, or with the full error where the failure was not foreseen."""
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return StepFailure(str(event.step_key), f"{event.step_key}: {data.user_failure_data.description}")
            text = data.error.to_string() if data.error else ""
            message = f"{event.step_key} failed unexpectedly; please report this.\n{text}"
            return StepFailure(str(event.step_key), message)
    return StepFailure("", f"run {result.run_id} failed before its first step")


def _watermark(deployment: Deployment, instance: dg.DagsterInstance, last: date) -> date:
    """Last arrival day up to which all outcomes were read, at least ``last``."""
    watermark = arrival_day_watermark(arrivals(instance, deployment), deployment.first_day)
    if watermark is None or watermark < last:
        after = deployment.first_day if watermark is None else watermark + timedelta(days=1)
        message = f"the log was not read from {after} on: run again with --from {after}, or without --from."
        raise PipelineError(StepFailure("labels", message))
    return watermark


def _fresh(stage: AssetStage, inputs: FingerprintInputs, days: Sequence[date]) -> set[date]:
    """Days of an asset that are up to date: made from the same inputs, and still there."""
    from ctr_pipeline.lake import Lake

    paths = inputs.deployment.paths
    fresh = days_with_tag(inputs.instance, stage.name, days, TAG, stage.fingerprint(inputs))
    if stage.table is not None:
        return fresh if Lake(paths.lake).exists(stage.table) else set()
    if stage.file is not None:
        return fresh if stage.file(paths).is_file() else set()
    assert stage.result is not None
    result = stage.result
    return {day for day in fresh if result(paths.retrain(day.isoformat())).is_file()}


def run_days(
    defs: dg.Definitions, instance: dg.DagsterInstance, job_name: str, assets: Sequence[str], days: Sequence[date]
) -> list[FinishedRun]:
    """Materialises ``assets`` of ``days`` in this process: one run for each interval of consecutive days.

    Raises:
        PipelineError: a step failed.
        KeyboardInterrupt: the process was told to stop.
    """
    job = defs.resolve_job_def(job_name)
    runs = []
    for first, last in _intervals(days):
        one_day = first == last
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            raise_on_error=False,
            run_config={"loggers": {"console": {}}},
            partition_key=first.isoformat() if one_day else None,
            tags={COMMAND_TAG: "run"} | ({} if one_day else _range_tags(first, last)),
        )
        runs.append(FinishedRun(result.run_id, tuple(assets), first, last))
        _alert(defs, instance, result.run_id)
        if _was_interrupted(result):
            raise KeyboardInterrupt
        if not result.success:
            raise PipelineError(failure_of(result), runs)
    return runs


def _range_tags(first: date, last: date) -> dict[str, str]:
    return {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }


def _close_abandoned(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """Ends what an earlier command, whose process was killed, left open."""
    tracking = (defs.resources or {}).get("tracking")
    for run_id in close_abandoned(instance, tracking if isinstance(tracking, TrackingResource) else None):
        _alert(defs, instance, run_id)


def _alert(defs: dg.Definitions, instance: dg.DagsterInstance, run_id: str) -> None:
    """Sends the alerts that a daemon's sensors would send: they do not see runs of this process."""
    run = instance.get_run_by_id(run_id)
    notifier = (defs.resources or {}).get("notifier")
    if run is not None and isinstance(notifier, NotifierResource):
        notifier.notify(alerts_of_run(instance, run), now=time.time())


def _intervals(days: Sequence[date]) -> list[tuple[date, date]]:
    """Consecutive days as (first, last) pairs."""
    intervals: list[tuple[date, date]] = []
    for day in sorted(days):
        if intervals and day - intervals[-1][1] == timedelta(days=1):
            intervals[-1] = (intervals[-1][0], day)
        else:
            intervals.append((day, day))
    return intervals
