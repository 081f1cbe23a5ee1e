"""What Dagster's instance records of a finished run, for the report: rows read, checks, seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg

from ctr_pipeline.orchestration.checks.newest import newest_checks
from ctr_pipeline.orchestration.in_process import FinishedRun, StepFailure
from ctr_pipeline.orchestration.records import REMARKS, event_types_of, newest_metadata
from ctr_pipeline.orchestration.stages import INGEST_STEP, names


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the report needs of a run."""

    runs: Sequence[FinishedRun]
    """The Dagster runs that were needed."""
    rows: Mapping[str, Mapping[str, int]]
    """By table that is read from logs: rows ``in``, ``kept``, ``filtered``, ``added`` and ``ignored``."""
    remarks: list[str]
    """What a person should know of the reading of the logs."""
    checks: list[dict[str, Any]]
    """The newest result of each check."""
    seconds: Mapping[str, float]
    """Seconds that each asset took."""
    failure: StepFailure | None
    """The step that failed, after which nothing was made; None where everything is up to date."""
    event_types: Mapping[date, Mapping[str, int]] = field(default_factory=dict)
    """Events by day and type, those of types that no task uses included."""


def collect_facts(
    instance: dg.DagsterInstance,
    runs: Sequence[FinishedRun],
    first: date,
    last: date,
    failure: StepFailure | None = None,
) -> RunFacts:
    """The facts of ``runs``, which brought the days ``first`` to ``last`` up to date, or failed to."""
    ingested = {table: newest_metadata(instance, table) for table in names(step=INGEST_STEP)}
    return RunFacts(
        runs=runs,
        rows={table: _rows(found, first, last) for table, found in ingested.items()},
        remarks=_remarks(ingested, first, last),
        checks=newest_checks(instance),
        seconds=_seconds(instance, runs),
        failure=failure,
        event_types={
            day: event_types_of(found) for day, found in ingested["outcome_events"].items() if first <= day <= last
        },
    )


def _remarks(ingested: Mapping[str, Mapping[date, Mapping[str, Any]]], first: date, last: date) -> list[str]:
    """The remarks of all readings of the days, each once."""
    days = [found for of_table in ingested.values() for day, found in of_table.items() if first <= day <= last]
    return list(dict.fromkeys(str(remark) for found in days for remark in found.get(REMARKS, ())))


def _rows(of_table: Mapping[date, Mapping[str, Any]], first: date, last: date) -> dict[str, int]:
    """Rows that the newest reading of each day counted: ``in``, ``kept``, ``filtered``, ``added`` and ``ignored``."""
    days = [found for day, found in of_table.items() if first <= day <= last]
    counted = ("in", "kept", "filtered", "added", "ignored")
    return {name: sum(int(found.get(f"rows_{name}_day", 0)) for found in days) for name in counted}


def _seconds(instance: dg.DagsterInstance, runs: Sequence[FinishedRun]) -> dict[str, float]:
    """Seconds that each asset took."""
    seconds: dict[str, float] = {}
    started, ended = (
        dg.DagsterEventType.STEP_START,
        {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE},
    )
    for run in runs:
        start: dict[str, float] = {}
        # Dagster's own statistics of a run read each event of each day.
        for entry in instance.all_logs(run.run_id, of_type={started, *ended}):
            step = str(entry.step_key)
            if entry.dagster_event_type == started:
                start.setdefault(step, entry.timestamp)
            elif step in start:
                seconds[step] = round(seconds.get(step, 0.0) + entry.timestamp - start.pop(step), 3)
    return seconds
