"""Failing checks and failed runs reach the notifier.

Dagster has no sensor for checks, and a non-blocking check that fails leaves its run successful. So every finished run
is read for its check results, whatever its outcome.
"""

import time
from typing import Any

import dagster as dg

from ctr_pipeline.orchestration.resources import NotifierResource


def alert_sensors() -> list[dg.SensorDefinition]:
    """One sensor for each way in which a run can end."""
    return [
        _alerts("check_alerts_on_success", dg.DagsterRunStatus.SUCCESS),
        _alerts("check_alerts_on_failure", dg.DagsterRunStatus.FAILURE),
    ]


def alerts_of_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[dict[str, Any]]:
    """The alerts of a finished run: its failing checks, and its failure.

    Returns:
        JSON-able alerts with ``key`` (identifies repeats), ``kind``, ``message``, and where they come from.
    """
    partition = run.tags.get("dagster/partition") or run.tags.get("dagster/asset_partition_range_end") or ""
    alerts: list[dict[str, Any]] = []
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        if entry.dagster_event is None:
            continue
        check = entry.dagster_event.asset_check_evaluation_data
        if check.passed:
            continue
        asset = check.asset_key.to_user_string()
        severity = check.severity.value
        alerts.append(
            {
                "key": f"{asset}:{check.check_name}:{partition}:{severity}",
                "kind": "check",
                "asset": asset,
                "check": check.check_name,
                "severity": severity,
                "partition": partition,
                "run_id": run.run_id,
                "message": f"{severity} {asset}.{check.check_name} [{partition}]: {check.description or 'failed'}",
            }
        )
    if run.status == dg.DagsterRunStatus.FAILURE:
        why = _failed_steps(instance, run.run_id)
        alerts.append(
            {
                "key": f"run:{run.job_name}:{partition}",
                "kind": "run_failure",
                "severity": "ERROR",
                "partition": partition,
                "run_id": run.run_id,
                "steps": why,
                "message": f"ERROR run of {run.job_name} [{partition}] failed: see run {run.run_id}"
                + "".join(f"\n{step}: {text}" for step, text in why.items()),
            }
        )
    return alerts


def _failed_steps(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """By step that failed with a message for people, the message."""
    found = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        assert entry.dagster_event is not None
        data = entry.dagster_event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            found[str(entry.step_key)] = str(data.user_failure_data.description)
    return found


def _alerts(name: str, status: dg.DagsterRunStatus) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        name=name,
        run_status=status,
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        monitor_all_code_locations=False,
        description="Sends failing checks of finished runs to the notifier.",
    )
    def send(context: dg.RunStatusSensorContext, notifier: NotifierResource) -> dg.SkipReason:
        alerts = alerts_of_run(context.instance, context.dagster_run)
        sent = notifier.notify(alerts, now=time.time())
        return dg.SkipReason(f"{sent} of {len(alerts)} alerts sent.")

    return send
