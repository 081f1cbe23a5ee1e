"""What Dagster's instance records of a finished run, for the report: rows read, checks, seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg

from ctr_pipeline.orchestration.in_process import FinishedRun
from ctr_pipeline.orchestration.records import newest_metadata
from ctr_pipeline.orchestration.stages import INGEST_STEP, STAGES, names


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the report needs of a run."""

    runs: Sequence[FinishedRun]
    """The Dagster runs that were needed."""
    rows: Mapping[str, Mapping[str, int]]
    """By table that is read from logs: rows ``in``, ``kept`` and ``ignored``."""
    checks: list[dict[str, Any]]
    """The newest result of each check."""
    seconds: Mapping[str, float]
    """Seconds that each asset took."""


def collect_facts(
    defs: dg.Definitions, instance: dg.DagsterInstance, runs: Sequence[FinishedRun], first: date, last: date
) -> RunFacts:
    """The facts of ``runs``, which brought the days ``first`` to ``last`` up to date."""
    return RunFacts(
        runs=runs,
        rows={table: _rows(instance, table, first, last) for table in names(step=INGEST_STEP)},
        checks=_newest_checks(defs, instance),
        seconds=_seconds(instance, runs),
    )


def _rows(instance: dg.DagsterInstance, table: str, first: date, last: date) -> dict[str, int]:
    """Rows that the newest reading of each day counted: ``in``, ``kept`` and ``ignored``."""
    days = [found for day, found in newest_metadata(instance, table).items() if first <= day <= last]
    return {name: sum(int(found.get(f"rows_{name}_day", 0)) for found in days) for name in ("in", "kept", "ignored")}


def _newest_checks(defs: dg.Definitions, instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """The newest result of each check, in the order of the assets."""
    keys = sorted(defs.resolve_asset_graph().asset_check_keys, key=lambda key: key.to_user_string())
    order = [stage.name for stage in STAGES]
    found = []
    for key in keys:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        if not records or records[0].event is None or records[0].event.dagster_event is None:
            continue
        evaluation = records[0].event.dagster_event.asset_check_evaluation_data
        found.append(
            {
                "asset": key.asset_key.to_user_string(),
                "check": key.name,
                "passed": evaluation.passed,
                "severity": evaluation.severity.value,
                "description": evaluation.description,
            }
        )
    return sorted(found, key=lambda check: (order.index(str(check["asset"])), str(check["check"])))


def _seconds(instance: dg.DagsterInstance, runs: Sequence[FinishedRun]) -> dict[str, float]:
    """Seconds that each asset took."""
    seconds: dict[str, float] = {}
    for run in runs:
        for stats in instance.get_run_step_stats(run.run_id):
            if stats.start_time and stats.end_time:
                taken = stats.end_time - stats.start_time
                seconds[stats.step_key] = round(seconds.get(stats.step_key, 0.0) + taken, 3)
    return seconds
