"""Which columns of each log a spec reads, and the field that names each."""

from collections.abc import Sequence

from ctr_pipeline.spec.features import CategoricalFeature, Features, NumericFeature
from ctr_pipeline.spec.source import EventLog, ImpressionColumns, LabelLog, SideTable, Source
from ctr_pipeline.spec.tasks import Task


def impression_columns(
    source: Source, declared: ImpressionColumns, features: Features, tasks: Sequence[Task]
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
    if declared.arm is not None:
        found.setdefault(declared.arm.column, "impression.arm.column")
    for feature, column in logged_features(source, features, None):
        found.setdefault(column, f"column of feature {feature.name}")
    for table in source.tables:
        field = "key" if table.impression_column is None else "impression_column"
        found.setdefault(table.joined_by, f"source.tables.{table.name}.{field}")
    for task in tasks:
        for column in task.label.columns:
            found.setdefault(column, f"label of task {task.name}")
    for one in source.impressions.rows:
        found.setdefault(one.column, "source.impressions.rows")
    return found


def label_columns(log: LabelLog, tasks: Sequence[Task]) -> dict[str, str]:
    """The columns of a log of labels, with the fields that name them."""
    section = f"source.labels.{log.name}"
    found = {log.impression_id: f"{section}.impression_id"}
    for field, column in (("time", log.time), ("ingest_time", log.ingest_time)):
        if column is not None:
            found.setdefault(column, f"{section}.{field}")
    for task in tasks:
        if task.label.log == log.name:
            found.setdefault(str(task.label.column), f"label of task {task.name}")
    for one in log.rows:
        found.setdefault(one.column, f"{section}.rows")
    return found


def table_columns(table: SideTable, source: Source, features: Features) -> dict[str, str]:
    """The columns of a side table that are read, with the fields that name them."""
    section = f"source.tables.{table.name}"
    found = {table.key: f"{section}.key"}
    if table.valid_from is not None:
        found[table.valid_from] = f"{section}.valid_from"
    for feature, column in logged_features(source, features, table):
        found.setdefault(column, f"column of feature {feature.name}")
    for one in table.rows:
        found.setdefault(one.column, f"{section}.rows")
    return found


def logged_features(
    source: Source, features: Features, table: SideTable | None
) -> list[tuple[NumericFeature | CategoricalFeature, str]]:
    """The features read from ``table``, or where it is None from the impression log, each with its column there."""
    inputs: list[NumericFeature | CategoricalFeature] = [*features.numeric, *features.embedded]
    found = []
    for feature in inputs:
        inside = source.in_table(feature.source_column)
        owner, column = inside if inside is not None else (None, feature.source_column)
        if column is not None and owner == table:
            found.append((feature, column))
    return found


def event_columns(log: EventLog) -> dict[str, str]:
    """The columns of an event log, with the fields that name them."""
    section = f"source.events.{log.name}"
    named = {} if log.impression_id is None else {log.impression_id: "impression_id"}
    named |= {log.type: "type", log.time: "time"}
    named |= {log.ingest_time: "ingest_time"} if log.ingest_time else {}
    named |= {} if log.attribute is None else dict.fromkeys(log.attribute.by.values(), "attribute.by")
    named |= {one.column: "rows" for one in log.rows if one.column not in named}
    return {column: f"{section}.{field}" for column, field in named.items()}


def stored_under(column: str, declared: ImpressionColumns, features: Features) -> str | None:
    """The column of the table `impressions` that holds the single ids or categories of a column of the log."""
    named = {declared.session: "session", declared.user: "user"}
    single = {feature.source_column: feature.name for feature in features.embedded if not feature.holds_lists}
    return named.get(column) or single.get(column)


def refuse_ids_as_values(
    source: Source, declared: ImpressionColumns, tasks: Sequence[Task], hashed: frozenset[str]
) -> None:
    """An id is read as nothing else: what is said of a wrong value would show it.

    Args:
        source: The logs.
        declared: The columns of the impressions.
        tasks: The tasks.
        hashed: The columns of the impressions whose values are replaced by a keyed hash.

    Raises:
        ValueError: a column is both.
    """
    values = declared.value_columns - ({declared.order.column} if declared.order else set())
    answers = {column for task in tasks if task.label.log is None for column in task.label.columns}
    plain = sorted((values | answers) & hashed)
    if plain:
        raise ValueError(
            f"column {plain[0]!r} is an id (`impression.id`, `user` or `session`, or `privacy.pseudonymise`), and named as a "
            "time, slot, number, kind of traffic or outcome too: only ids and categories can be hashed; name another column"
        )
    for log in source.events:
        if log.type in hashed:
            raise ValueError(
                f"event log {log.name!r}: its `type` is column {log.type!r}, which is an id of the impressions: name the "
                "column that says what happened"
            )
