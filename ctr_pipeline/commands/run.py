"""Runs the Dagster definitions in this process, doing only what is missing."""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from ctr_pipeline.deployment.raw_logs import key_has_changed
from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.abandoned import COMMAND_TAG, close_abandoned
from ctr_pipeline.orchestration.automation.alerts import alerts_of_run
from ctr_pipeline.orchestration.automation.jobs import INGEST, REFERENCES, RETRAIN, TABLES
from ctr_pipeline.orchestration.automation.sensors import arrival_day_watermark, arrivals, days_of
from ctr_pipeline.orchestration.fingerprints import (
    fresh_days,
    history_fingerprint,
    ingest_fingerprint,
    label_fingerprint,
    profile_fingerprint,
    reference_fingerprint,
    retrain_fingerprint,
)
from ctr_pipeline.orchestration.resources import NotifierResource, TrackingResource

_log = logging.getLogger(__name__)

INSTANCE_CONFIG = Path(__file__).resolve().parents[2] / "dagster.yaml"


class PipelineError(UserError):
    """A step failed; the message is the one written for the user."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One Dagster run of a pipeline run."""

    run_id: str
    assets: tuple[str, ...]
    first: date
    last: date


def prepare_instance_home(settings: PipelineSettings) -> Path:
    """The folder of Dagster's own storage inside the data root, with its configuration."""
    home = settings.data_root / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    if INSTANCE_CONFIG.is_file():
        shutil.copyfile(INSTANCE_CONFIG, home / "dagster.yaml")
    return home


def run_pipeline(
    settings: PipelineSettings, defs: dg.Definitions, instance: dg.DagsterInstance, first: date, last: date
) -> list[FinishedRun]:
    """Brings every asset up to date for the days ``first`` to ``last``, and the model to the end of ``last``.

    Returns:
        The Dagster runs that were needed; none when everything was up to date.

    Raises:
        PipelineError: a step failed; what came before it is kept.
    """
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    runs: list[FinishedRun] = []

    wanted = ingest_fingerprint(settings)
    ingested = [_fresh(settings, instance, asset, days, wanted) for asset in INGEST]
    _run_days(defs, instance, "daily_ingest", INGEST, [d for d in days if not all(d in f for f in ingested)], runs)

    referenced = _fresh(settings, instance, REFERENCES, days, reference_fingerprint(settings))
    _run_days(defs, instance, "daily_ingest", (REFERENCES,), [d for d in days if d not in referenced], runs)

    profiled = _fresh(settings, instance, "profile", days, profile_fingerprint(settings))
    _run_days(defs, instance, "daily_ingest", ("profile",), [d for d in days if d not in profiled], runs)

    watermark = arrival_day_watermark(arrivals(instance, settings), settings.first_day)
    if watermark is None or watermark < last:
        after = settings.first_day if watermark is None else watermark + timedelta(days=1)
        raise PipelineError(f"the log was not read from {after} on: run again with --from {after}, or without --from.")
    labelled = _fresh(settings, instance, "labels", days, label_fingerprint(settings, watermark))
    _run_days(defs, instance, "label_refresh", ("labels",), [d for d in days if d not in labelled], runs)

    past = history_fingerprint(settings, min(days_of(instance, "impressions", settings)))
    aggregated = _fresh(settings, instance, "history", days, past)
    _run_days(defs, instance, "daily_ingest", ("history",), [d for d in days if d not in aggregated], runs)

    wanted = retrain_fingerprint(settings, instance, last)
    stale = [asset for asset in RETRAIN if not _fresh(settings, instance, asset, [last], wanted)]
    if stale:
        # What follows a stale asset is stale with it.
        _run_days(defs, instance, "daily_retrain", RETRAIN[RETRAIN.index(stale[0]) :], [last], runs)
    return runs


def _fresh(
    settings: PipelineSettings, instance: dg.DagsterInstance, asset: str, days: Sequence[date], fingerprint: str
) -> set[date]:
    """Days of an asset that are up to date: made from the same inputs, and still there."""
    from ctr_pipeline.lake import Lake

    fresh = fresh_days(instance, asset, days, fingerprint)
    if asset in (*INGEST, *TABLES):
        table = f"{asset}_quarantine" if asset == REFERENCES else asset
        return fresh if Lake(settings.lake_root).exists(table) else set()
    return {day for day in fresh if settings.result_file(asset, day.isoformat()).is_file()}


def run_and_report(settings: PipelineSettings, first: date, last: date) -> dict[str, Any]:
    """Runs the pipeline for the days ``first`` to ``last`` and returns its report (see docs/report.md).

    Raises:
        PipelineError: a step failed, or another run is at work on the same data root.
    """
    from ctr_pipeline.commands.report import build_report, save_report
    from ctr_pipeline.orchestration.build import build_definitions

    with exclusive(settings.data_root):
        settings.save()
        if key_has_changed(settings.data_root, os.environ):
            _log.warning(
                "The key of the hashes is another one than that of the tables: every day is read again, and models made "
                "so far know none of the new hashes (docs/privacy.md)."
            )
        os.environ.update(dagster_environment(settings))
        with dg.DagsterInstance.get() as instance:
            defs = build_definitions(settings)
            _close_abandoned(defs, instance)
            runs = run_pipeline(settings, defs, instance, first, last)
            report = build_report(settings, instance, runs, first, last)
    save_report(settings, report)
    return report


@contextmanager
def exclusive(data_root: Path) -> Iterator[None]:
    """Keeps a second pipeline run off the same data root.

    Raises:
        PipelineError: another run is at work there.
    """
    data_root.mkdir(parents=True, exist_ok=True)
    with (data_root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PipelineError(
                f"{data_root}: another run is at work there. Wait for it, or use --data-root."
            ) from error
        yield


def _run_days(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job_name: str,
    assets: Sequence[str],
    days: Sequence[date],
    runs: list[FinishedRun],
) -> None:
    job = defs.resolve_job_def(job_name)
    for first, last in _stretches(days):
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
        if not result.success:
            raise PipelineError(why(result))


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
    """Tells the notifier what a daemon's sensors would: they do not see runs of this process."""
    run = instance.get_run_by_id(run_id)
    notifier = (defs.resources or {}).get("notifier")
    if run is not None and isinstance(notifier, NotifierResource):
        notifier.notify(alerts_of_run(instance, run), now=time.time())


def _stretches(days: Sequence[date]) -> list[tuple[date, date]]:
    """Consecutive days as (first, last) pairs."""
    stretches: list[tuple[date, date]] = []
    for day in sorted(days):
        if stretches and day - stretches[-1][1] == timedelta(days=1):
            stretches[-1] = (stretches[-1][0], day)
        else:
            stretches.append((day, day))
    return stretches


def why(result: dg.ExecuteInProcessResult) -> str:
    """The failed step's own message, or the full error where the failure was not foreseen."""
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return f"{event.step_key}: {data.user_failure_data.description}"
            error = data.error
            return f"{event.step_key} failed unexpectedly; please report this.\n{error.to_string() if error else ''}"
    return f"run {result.run_id} failed before its first step"


def dagster_environment(settings: PipelineSettings) -> dict[str, str]:
    """Environment in which Dagster's processes find this deployment."""
    return {
        **os.environ,
        "DAGSTER_HOME": str(prepare_instance_home(settings)),
        "CTR_DATA_ROOT": str(settings.data_root),
    }
