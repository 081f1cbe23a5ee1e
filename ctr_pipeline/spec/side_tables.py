"""What a spec may not say about side tables, beyond the fields of each."""

from collections.abc import Collection, Sequence

from ctr_pipeline.spec.features import Features
from ctr_pipeline.spec.log_columns import logged_features
from ctr_pipeline.spec.source import ImpressionColumns, Source
from ctr_pipeline.spec.tasks import Task


def refuse_wrong_tables(
    source: Source,
    declared: ImpressionColumns,
    features: Features,
    tasks: Sequence[Task],
    hashed: Collection[str],
) -> None:
    """Raises ValueError where a side table is of no use, cannot be joined, or has a column that is no feature."""
    answers = {column for task in tasks if task.label.log is None for column in task.label.columns}
    filtered = {one.column for one in source.impressions.rows}
    for column in sorted(answers | filtered | declared.id_columns | declared.value_columns):
        if found := source.in_table(column):
            raise ValueError(
                f"column {column!r} is one of side table {found[0].name!r}, and only features read those: name a "
                "column of the impression log, or rename the table"
            )
    for table in source.tables:
        column = table.joined_by
        if not logged_features(source, features, table):
            raise ValueError(
                f"no feature reads a column of side table {table.name!r}: name one as `{table.name}.<column>` in a "
                "feature's `column`, or remove the table"
            )
        if table.valid_from is not None and declared.time is None:
            raise ValueError(
                f"side table {table.name!r} has times (`valid_from`), but the days of an `order` are artificial: set "
                "`valid_from: null` if its rows hold for every impression, or name `impression.time`"
            )
        if f"{table.name}.{table.valid_from}" in hashed:
            raise ValueError(
                f"`privacy.pseudonymise` names {table.name}.{table.valid_from}, which `valid_from` reads as a time: only ids "
                "and categories can be hashed"
            )
        if source.in_table(column):
            raise ValueError(
                f"side table {table.name!r} is joined by {column!r}, a column of a side table: name one of the "
                "impression log in `impression_column`"
            )
        if column in answers:
            raise ValueError(
                f"side table {table.name!r} is joined by {column!r}, which holds the outcome of a task: its columns "
                "would tell the outcome; name another `impression_column`"
            )
        if column in features.lists:
            raise ValueError(
                f"side table {table.name!r} is joined by {column!r}, which holds lists: an impression has one row of a "
                "table; name a column of single ids in `impression_column`"
            )
