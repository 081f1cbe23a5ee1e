"""Which columns of each log a spec reads, and the field that names each."""

from collections.abc import Sequence

from ctr_pipeline.spec.features import CategoricalFeature, Features, NumericFeature
from ctr_pipeline.spec.source import EventLog, ImpressionColumns, LogFiles
from ctr_pipeline.spec.tasks import Task


def impression_columns(
    log: LogFiles, declared: ImpressionColumns, features: Features, tasks: Sequence[Task]
) -> dict[str, str]:
    """The columns of the impression log, with the fields that name them."""
    found: dict[str, str] = {}
    if declared.time is not None:
        found[declared.time] = "impression.time"
        if declared.time_offset is not None:
            found[declared.time_offset.column] = "impression.time_offset.column"
        if declared.ingest_time is not None:
            found[declared.ingest_time] = "impression.ingest_time"
    elif declared.order is not None and declared.order.column is not None:
        found[declared.order.column] = "impression.order.column"
    for name in ("id", "user", "session", "position", "propensity", "weight", "shows"):
        column = getattr(declared, name)
        if column is not None:
            found.setdefault(column, f"impression.{name}")
    if declared.traffic is not None:
        found.setdefault(declared.traffic.column, "impression.traffic.column")
    inputs: list[NumericFeature | CategoricalFeature] = [*features.numeric, *features.embedded]
    for feature in inputs:
        if feature.source_column is not None:
            found.setdefault(feature.source_column, f"column of feature {feature.name}")
    for task in tasks:
        for column in task.label.columns:
            found.setdefault(column, f"label of task {task.name}")
    for one in log.rows:
        found.setdefault(one.column, "source.impressions.rows")
    return found


def event_columns(log: EventLog) -> dict[str, str]:
    """The columns of an event log, with the fields that name them."""
    section = f"source.events.{log.name}"
    named = {log.impression_id: "impression_id", log.type: "type", log.time: "time"}
    named |= {log.ingest_time: "ingest_time"} if log.ingest_time else {}
    named |= {one.column: "rows" for one in log.rows if one.column not in named}
    return {column: f"{section}.{field}" for column, field in named.items()}
