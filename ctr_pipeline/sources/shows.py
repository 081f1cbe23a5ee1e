"""Rows that stand for several impressions: checked, and made into as many."""

import polars as pl

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.rows import Schema
from ctr_pipeline.sources.values import Check, number
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.tasks import Task

SHOWS = "__shows"
"""How many impressions a row stands for; null where it does not say."""

MOST_IMPRESSIONS = 50_000_000
"""Impressions that are made of the rows that are read at a time, which memory has to hold."""

_PLACE = "__place"
_LARGEST = 2**53


def shows_value(spec: Spec, schema: Schema, where: str) -> pl.Expr:
    """How many impressions a row stands for (int64): 1 in a log without such counts, null where it is no such number."""
    column = spec.impression.shows
    return pl.lit(1, pl.Int64) if column is None else _whole(column, schema, where, smallest=1)


def positives_value(task: Task, schema: Schema, where: str) -> pl.Expr:
    """How many impressions of a row have the outcome of ``task`` (int64); null where that is not known."""
    return _whole(str(task.label.column), schema, where, smallest=0)


def shows_checks(spec: Spec, schema: Schema, where: str) -> tuple[Check, ...]:
    """A row says how many impressions it stands for."""
    column = spec.impression.shows
    if column is None:
        return ()
    return (
        Check(
            broken=_whole(column, schema, where, smallest=1).is_null(),
            reason="bad_shows",
            rule=f"`{column}` is a whole number from 1, the impressions that the row stands for, in each row",
            column=column,
            unreadable=True,
        ),
    )


def positives_checks(task: Task, spec: Spec, schema: Schema, where: str) -> tuple[Check, ...]:
    """No more impressions have an outcome than there are, or than have that of the task before."""
    column = str(task.label.column)
    count, shows = positives_value(task, schema, where), shows_value(spec, schema, where)
    value, no_number = number(column, schema[column], where)
    checks = [
        Check(
            broken=no_number | (value.fill_nan(None).is_not_null() & count.is_null()),
            reason="bad_count",
            rule=f"`{column}` is a whole number from 0, or missing, since `impression.shows` makes it a count",
            column=column,
            unreadable=True,
        ),
        Check(
            broken=count > shows,
            reason="bad_count",
            rule=f"`{column}` is not above `{spec.impression.shows}`: an impression has one outcome or none",
            column=column,
        ),
    ]
    if task.parent is not None:
        parent = spec.task(task.parent)
        checks.append(
            Check(
                broken=count > positives_value(parent, schema, where),
                reason="bad_count",
                rule=f"`{column}` is not above `{parent.label.column}`: {task.name} needs {parent.name}",
                column=column,
            )
        )
    return tuple(checks)


def as_impressions(rows: pl.DataFrame, pseudonymiser: Pseudonymiser, count: pl.Expr) -> pl.DataFrame:
    """Each row as often as ``count`` says, with ids of their own in ``impression_id``.

    The first keeps its id. That of another is made of it and its number, so that the same row gives the same ids again,
    and the first impressions of a row are those with an outcome of every task.

    Raises:
        SourceError: they are more than :data:`MOST_IMPRESSIONS`.
    """
    total = int(rows.select(count.sum()).item() or 0)
    if total > MOST_IMPRESSIONS:
        raise SourceError(
            f"{rows.height} rows stand for {total} impressions, and at most {MOST_IMPRESSIONS} are made at a time. Take "
            "fewer of them: name fewer days in `days`, filter them with `rows`, or divide all counts by one number."
        )
    numbered = rows.with_columns(pl.int_ranges(1, count + 1).alias(_PLACE)).explode(_PLACE)
    own = pseudonymiser.of(pl.format("{}#{}", "impression_id", _PLACE))
    return numbered.with_columns(
        pl.when(pl.col(_PLACE) == 1).then("impression_id").otherwise(own).alias("impression_id")
    ).drop(_PLACE)


def _whole(column: str, schema: Schema, where: str, smallest: int) -> pl.Expr:
    parsed, _ = number(column, schema[column], where)
    known = parsed.fill_nan(None)
    whole = (known == known.floor()) & known.is_between(smallest, _LARGEST)
    return pl.when(whole).then(known).cast(pl.Int64)
