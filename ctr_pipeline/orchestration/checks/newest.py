"""What the checks last found, from Dagster's event log."""

from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from ctr_pipeline.orchestration.checks.definition import checks_of
from ctr_pipeline.orchestration.stages import STAGES

EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def newest_checks(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """The newest result of each check, in the order of the assets, then of the names.

    Returns:
        ``asset``, ``check``, ``passed``, ``severity`` (``WARN`` or ``ERROR``) and ``description`` of each check that was
        ever evaluated.
    """
    found = []
    for stage in STAGES:
        for name in sorted(definition.name for definition in checks_of(stage.name)):
            key = dg.AssetCheckKey(dg.AssetKey(stage.name), name)
            # A check that was planned, and whose step did not come to it, found nothing.
            records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1, status=EVALUATED)
            if not records or records[0].event is None or records[0].event.dagster_event is None:
                continue
            evaluation = records[0].event.dagster_event.asset_check_evaluation_data
            found.append(
                {
                    "asset": stage.name,
                    "check": name,
                    "passed": evaluation.passed,
                    "severity": evaluation.severity.value,
                    "description": evaluation.description,
                }
            )
    return found
