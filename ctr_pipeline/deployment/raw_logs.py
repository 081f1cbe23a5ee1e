"""Finds the raw logs of a deployment, and has the simulator write its own."""

import time
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.spec import Spec


def impression_files(deployment: Deployment) -> tuple[Path, ...]:
    """The files of the impression log.

    Raises:
        SourceError: there are none.
    """
    from ctr_pipeline.sources import log_files

    source = deployment.spec.source
    if source.simulator is not None:
        return tuple(sorted((deployment.simulated_root / "impressions").glob("*.parquet")))
    return log_files(source.impressions, deployment.spec_folder, deployment.inputs)


def outcome_files(deployment: Deployment) -> dict[str, tuple[Path, ...]]:
    """The files of each event log, by the log's name.

    Raises:
        SourceError: a declared log has none.
    """
    from ctr_pipeline.sources import log_files

    source = deployment.spec.source
    if source.simulator is not None:
        return {"outcome_events": tuple(sorted((deployment.simulated_root / "events").glob("*.parquet")))}
    return {
        log.name: log_files(log, deployment.spec_folder, deployment.event_inputs.get(log.name, ()))
        for log in source.events
    }


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


def _written(root: Path, day: date) -> bool:
    return all((root / kind / f"{day.isoformat()}.parquet").is_file() for kind in ("impressions", "events"))


def _every(days: Sequence[date], progress: Callable[[str], None]) -> Callable[[date], None]:
    step = max(1, len(days) // 10)

    def report(day: date) -> None:
        done = days.index(day) + 1
        if done % step == 0 or done == len(days):
            progress(f"Simulated {done} of {len(days)} days")

    return report
