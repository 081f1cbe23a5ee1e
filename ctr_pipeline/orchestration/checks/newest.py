"""What the checks last found, and what they found of one day, from Dagster's event log."""

from collections.abc import Iterable
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ctr_pipeline.orchestration.checks.definition import checks_of
from ctr_pipeline.orchestration.stages import LIVE_ASSETS, STAGES

EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def newest_checks(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """The newest result of each check, in the order of the assets, then of the names.

    Returns:
        ``asset``, ``check``, ``passed``, ``severity`` (``WARN`` or ``ERROR``) and ``description`` of each check that was
        ever evaluated.
    """
    found = []
    for asset in (*(stage.name for stage in STAGES), *LIVE_ASSETS):
        for name in sorted(definition.name for definition in checks_of(asset)):
            key = dg.AssetCheckKey(dg.AssetKey(asset), name)
            # A check that was planned, and whose step did not come to it, found nothing.
            records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1, status=EVALUATED)
            if not records or records[0].event is None or records[0].event.dagster_event is None:
                continue
            evaluation = records[0].event.dagster_event.asset_check_evaluation_data
            found.append(
                {
                    "asset": asset,
                    "check": name,
                    "passed": evaluation.passed,
                    "severity": evaluation.severity.value,
                    "description": evaluation.description,
                }
            )
    return found


def errors_of_day(instance: dg.DagsterInstance, day: str, assets: Iterable[str]) -> dict[str, str]:
    """What failed with an error in the runs that made the newest content of a day, whatever other days have found since.

    Args:
        instance: Holds the event log.
        day: Partition, YYYY-MM-DD.
        assets: Names of the assets to look at.

    Returns:
        By ``asset.check``, what the check describes.
    """
    errors: dict[str, str] = {}
    for asset in assets:
        key = dg.AssetKey(asset)
        made = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[day]), limit=1
        ).records
        if not made:
            continue
        found = {}
        for entry in instance.all_logs(made[0].run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            assert entry.dagster_event is not None
            evaluation = entry.dagster_event.asset_check_evaluation_data
            if evaluation.asset_key == key:
                # A step that was tried again has evaluated its checks again.
                found[evaluation.check_name] = evaluation
        for name, evaluation in found.items():
            if not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.ERROR:
                errors[f"{asset}.{name}"] = evaluation.description or "it failed."
    return errors
