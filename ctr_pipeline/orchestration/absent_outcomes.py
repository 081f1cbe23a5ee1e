"""A task whose event never occurs is refused before anything is trained: all its labels would be negative."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.raw_logs import list_logs
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.records import event_types_of, newest_metadata

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from ctr_pipeline.lake import Lake

_SHOWN_TYPES = 20


class AbsentOutcomesError(UserError):
    """A task has no outcome in the whole log."""


def require_outcomes(instance: "DagsterInstance", deployment: Deployment, store: "Lake", last: date) -> None:
    """Refuses a training where the event of a task never occurred up to the day ``last``.

    Raises:
        AbsentOutcomesError: names the tasks, their events, the files, and the types of events that there are.
    """
    import polars as pl

    tasks = {task.name: task.label.event for task in deployment.spec.tasks if task.label.event is not None}
    if not tasks:
        return
    stored = store.scan("outcome_events", first=deployment.first_day, last=last).filter(pl.col("kind") == "outcome")
    found = set(stored.select("event").unique().collect()["event"])
    absent = {name: event for name, event in tasks.items() if name not in found}
    if absent:
        recorded = newest_metadata(instance, "outcome_events")
        counts = {day: event_types_of(of_day) for day, of_day in recorded.items() if day <= last}
        files = {
            name: [file.path.name for file in listing.files]
            for name, listing in list_logs(deployment).events.items()
            if name not in {log.name for log in deployment.spec.source.labels}
        }
        raise AbsentOutcomesError(absent_text(absent, files, counts, deployment.first_day, last))


def absent_text(
    absent: Mapping[str, str],
    files: Mapping[str, Sequence[str]],
    counts: Mapping[date, Mapping[str, int]],
    first: date,
    last: date,
) -> str:
    """The message of :class:`AbsentOutcomesError`.

    Args:
        absent: The event of each task that never occurs, by the task's name.
        files: Names of the files of each event log.
        counts: Events by day and type.
        first: First day of the log.
        last: Last day that was read.
    """
    from ctr_pipeline.sources.errors import listed, near_miss
    from ctr_pipeline.sources.event_types import UNNAMED, ignored_types

    types = ignored_types(counts, ())
    named = [kind for kind in types if kind != UNNAMED]
    logs = "; ".join(f"`{name}` (files: {listed(of_log)})" for name, of_log in files.items())
    texts = [
        f"task {name}: its event `{event}` does not occur from {first} to {last} in event log {logs}, so that all its "
        f"labels would be negative.{near_miss(event, [kind for kind in named if kind != event])}"
        for name, event in absent.items()
    ]
    shown = ", ".join(f"`{kind}` {types[kind]}" for kind in named[:_SHOWN_TYPES])
    more = sum(types.values()) - sum(types[kind] for kind in named[:_SHOWN_TYPES])
    if shown:
        texts.append(f"Types found, with their events: {shown}{f' and {more} events of other types' if more else ''}.")
    texts.append("Correct `tasks[].label.event` or the event log's `type`, or leave the task out.")
    return " ".join(texts)
