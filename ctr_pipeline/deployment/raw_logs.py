"""Finds and reads the raw logs of a deployment, and has the simulator write its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.key import pseudonymiser
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.sources import ListedFile, Listing, Logs, ReadResult, SideRows

SIMULATED = "outcome_events"
"""Name of the simulator's event log."""


def list_logs(deployment: Deployment) -> "Logs":
    """The files of all logs: as they were listed when the deployment was bound, else as they are now.

    Raises:
        SourceError: a log has none.
    """
    from ctr_pipeline.sources import Logs, list_files

    if deployment.logs is not None:
        return deployment.logs
    source, folder = deployment.spec.source, deployment.spec_folder
    if source.simulator is not None:
        root = deployment.simulated_root
        return Logs(impressions=_simulated(root / "impressions"), events={SIMULATED: _simulated(root / "events")})
    return Logs(
        impressions=list_files(source.impressions, folder, deployment.inputs),
        events={
            log.name: list_files(log, folder, deployment.event_inputs.get(log.name, ())) for log in source.outcome_logs
        },
        tables={log.name: list_files(log, folder, deployment.event_inputs.get(log.name, ())) for log in source.tables},
    )


def read_side_tables(deployment: Deployment, logs: "Logs") -> "dict[str, SideRows]":
    """The rows of all side tables, by the table's name.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    from ctr_pipeline.sources import read_side_table

    spec, key = deployment.spec, pseudonymiser(process_environment())
    shown, day = logs.impressions.files, deployment.first_day
    return {
        table.name: read_side_table(spec, table, logs.tables[table.name].files, key, day, shown)
        for table in spec.source.tables
    }


def read_log(
    deployment: Deployment,
    logs: "Logs",
    table: str,
    first: date,
    last: date,
    log_first: date,
    known: "pl.LazyFrame | None" = None,
    tables: "Mapping[str, SideRows] | None" = None,
    shown: "pl.LazyFrame | None" = None,
) -> "ReadResult":
    """The rows of ``table`` of the days ``first`` to ``last``; other arguments as for ``read_impressions``.

    ``shown`` are stored impressions, as for ``read_events``.

    Raises:
        SourceError: a file cannot be read as declared.
    """
    from ctr_pipeline.sources import read_events, read_impressions

    spec, key = deployment.spec, pseudonymiser(process_environment())
    files, rest = logs.impressions.files, (first, last, key, log_first, reading_time(spec), known)
    if table == "impressions":
        return read_impressions(spec, files, *rest, tables)
    return read_events(spec, files, {name: found.files for name, found in logs.events.items()}, *rest, shown)


def files_of(spec: Spec, logs: "Logs", table: str) -> "tuple[ListedFile, ...]":
    """The files that ``table`` is read from."""
    if table == "impressions":
        return logs.impressions.files
    in_impressions = any(task.label.event is None for task in spec.tasks)
    events = (file for listing in logs.events.values() for file in listing.files)
    return (*(logs.impressions.files if in_impressions else ()), *events)


def reading_time(spec: Spec) -> int | None:
    """The present instant in microseconds, after which a log knows nothing; None for simulated logs."""
    return time.time_ns() // 1_000 if spec.source.simulator is None else None


def ensure_logs(deployment: Deployment, last: date, progress: Callable[[str], None]) -> None:
    """Has the simulator write the days up to ``last`` that are not there; nothing to do for a user's own logs."""
    simulator = deployment.spec.source.simulator
    if simulator is None:
        return
    from ctr_pipeline.simulator import write_days

    days = [deployment.first_day + timedelta(days=n) for n in range((last - deployment.first_day).days + 1)]
    missing = [day for day in days if not _written(deployment.simulated_root, day)]
    if not missing:
        return
    progress(f"Simulating {len(missing)} days of logs in {deployment.simulated_root}")
    write_days(simulator, deployment.spec.seed, missing, deployment.simulated_root, progress=_every(missing, progress))


def _simulated(folder: Path) -> "Listing":
    from ctr_pipeline.sources import Listing
    from ctr_pipeline.sources.listed_files import listed_file

    return Listing(files=tuple(listed_file(path) for path in sorted(folder.glob("*.parquet"))))


def _written(root: Path, day: date) -> bool:
    return all((root / kind / f"{day.isoformat()}.parquet").is_file() for kind in ("impressions", "events"))


def _every(days: Sequence[date], progress: Callable[[str], None]) -> Callable[[date], None]:
    step = max(1, len(days) // 10)

    def report(day: date) -> None:
        done = days.index(day) + 1
        if done % step == 0 or done == len(days):
            progress(f"Simulated {done} of {len(days)} days")

    return report
