"""Side tables → values of features, joined to each impression as they were before it.

An impression gets the row of its id with the latest time strictly before its own: what is written at the same
microsecond is not yet known. A row that is set aside is not replaced by an older one, which would be a guess: from its
time until that of the next row the values are missing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from ctr_pipeline.sources import values
from ctr_pipeline.sources.clock import TS
from ctr_pipeline.sources.errors import SourceError, listed
from ctr_pipeline.sources.feature_fields import feature_fields, list_columns
from ctr_pipeline.sources.files import Files, LogFile, open_log
from ctr_pipeline.sources.pseudonyms import Pseudonymiser
from ctr_pipeline.sources.quarantine import (
    COLUMN,
    DAY,
    FILE,
    NAME,
    REASON,
    RULE,
    VALUE,
    diagnose,
    quarantine,
    with_malformed,
)
from ctr_pipeline.sources.row_filtering import Filters
from ctr_pipeline.sources.rows import Schema, read_rows, stored_names
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.times import TimeForm
from ctr_pipeline.sources.values import Check, Field
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.log_columns import table_columns
from ctr_pipeline.spec.source import SideTable

MATCHED, BEFORE_FIRST, SET_ASIDE, UNKNOWN_ID, WITHOUT_ID = (
    "matched",
    "before_first_row",
    "row_set_aside",
    "unknown_id",
    "without_id",
)
"""What became of an impression: it got a row; its id has later rows only; the row was set aside; the table lacks the id;
the impression has none."""

_KEY, _FROM, _ASIDE, _FOUND, _KNOWN = "__key", "__from", "__aside", "__found", "__known"


@dataclass(frozen=True, slots=True, kw_only=True)
class SideRows:
    """What was read of one side table."""

    table: SideTable
    rows: pl.DataFrame
    """One row for each id and time: key, time, whether it is set aside, and the values of the features."""
    quarantined: pl.DataFrame
    """Rows set aside; columns QUARANTINE_SCHEMA."""
    rows_in: int
    repeated: int
    """Rows that say again, in every column that is read, what another one says."""

    @property
    def reasons(self) -> pl.DataFrame:
        """Quarantined rows by reason, in the order of the alphabet."""
        return self.quarantined.group_by("reason").len().sort("reason")


def joining_key(table: SideTable) -> str:
    """The column of rows of impressions with their id in ``table``."""
    return f"{_KEY}:{table.name}"


def joining_fields(spec: Spec, schema: Schema, where: str) -> list[Field]:
    """The id of each impression in each side table, under :func:`joining_key`."""
    return [
        Field(
            values.id_text(table.joined_by, schema[table.joined_by], where).alias(joining_key(table)),
            values.exact_id(table.joined_by, schema[table.joined_by]),
        )
        for table in spec.source.tables
    ]


def read_side_table(
    spec: Spec, table: SideTable, files: Files, pseudonymiser: Pseudonymiser, day: date, impressions: Files
) -> SideRows:
    """The rows of ``table`` that can be joined.

    Args:
        spec: Declares the features that read it.
        table: The table.
        files: Its files, all of them.
        pseudonymiser: Hashes values of private columns.
        day: The day that its quarantine is stored under: rows of a table belong to none.
        impressions: The files of the impression log.

    Raises:
        SourceError: a file cannot be read as declared, or the impression log has a column of the table's name.
    """
    _refuse_namesakes(spec, table, impressions)
    opened = open_log(table, files)
    rows = pl.concat([_read_file(spec, table, file, pseudonymiser) for file in opened])
    rows = _mark_conflicts(spec, table, rows).with_columns(pl.lit(day, pl.Date).alias(DAY))
    names = [feature.name for feature, _ in spec.features_of(table)]
    placed = rows.filter(_is_placed(table))
    good = placed.filter(pl.col(REASON).is_null())
    columns = [_KEY, _FROM, *names]
    distinct = good.select(columns).unique(columns).with_columns(pl.lit(False).alias(_ASIDE))
    aside = placed.filter(pl.col(REASON).is_not_null()).select(_KEY, _FROM).unique()
    return SideRows(
        table=table,
        rows=pl.concat([distinct, aside.with_columns(pl.lit(True).alias(_ASIDE))], how="diagonal").sort(_FROM, _KEY),
        quarantined=quarantine(rows, table.name),
        rows_in=rows.height,
        repeated=good.height - distinct.height,
    )


def join_side_tables(
    spec: Spec, rows: pl.DataFrame, tables: Mapping[str, SideRows]
) -> tuple[pl.DataFrame, dict[str, Counter[str]]]:
    """Adds the features of all side tables to impressions, and counts what became of the impressions by table.

    Args:
        spec: Declares the tables.
        rows: Impressions with their time (TS) and the columns of :func:`joining_fields`.
        tables: What was read of each table, by its name.
    """
    counts: dict[str, Counter[str]] = {}
    for table in spec.source.tables:
        side, key = tables[table.name].rows, joining_key(table)
        ids = side.select(pl.col(_KEY).alias(key), pl.lit(True).alias(_KNOWN)).unique(key)
        rows = rows.join(ids, on=key, how="left", maintain_order="left")
        side = side.with_columns(pl.lit(True).alias(_FOUND))
        if table.valid_from is None:
            joined = rows.join(side.drop(_FROM), left_on=key, right_on=_KEY, how="left", maintain_order="left")
        else:
            joined = rows.sort(TS, maintain_order=True).join_asof(
                side.sort(_FROM),
                left_on=TS,
                right_on=_FROM,
                by_left=key,
                by_right=_KEY,
                strategy="backward",
                allow_exact_matches=False,
                check_sortedness=False,
            )
        fate = (
            pl.when(pl.col(key).is_null())
            .then(pl.lit(WITHOUT_ID))
            .when(pl.col(_KNOWN).is_null())
            .then(pl.lit(UNKNOWN_ID))
            .when(pl.col(_FOUND).is_null())
            .then(pl.lit(BEFORE_FIRST))
            .when(_ASIDE)
            .then(pl.lit(SET_ASIDE))
            .otherwise(pl.lit(MATCHED))
        )
        found = joined.select(fate.alias("fate"))["fate"].value_counts()
        counts[table.name] = Counter({str(name): int(number) for name, number in found.iter_rows()})
        rows = joined.drop(_KNOWN, _FOUND, _ASIDE, _FROM, strict=False)
    return rows, counts


def _refuse_namesakes(spec: Spec, table: SideTable, files: Files) -> None:
    """Raises where `items.price` may be a column of the impression log as well as of the side table `items`."""
    for file in open_log(spec.source.impressions, files)[:1]:
        same = [name for name in stored_names(file) if name.startswith(f"{table.name}.")]
        if same:
            raise SourceError(
                f"{file.path}: the impression log has {listed([f'`{name}`' for name in same])}, and the spec declares a "
                f"side table `{table.name}`, whose columns are called alike. Give the table another `name`."
            )


def _read_file(spec: Spec, table: SideTable, file: LogFile, pseudonymiser: Pseudonymiser) -> pl.DataFrame:
    """The rows of a file: key, time, features, and reason, rule, column and value of what is wrong with a row."""
    where, key = str(file.path), table.key
    form = TimeForm(table.time_unit, spec.zone_of(table), table.time_format)
    private = frozenset(name.removeprefix(f"{table.name}.") for name in spec.private_columns)
    filters = Filters(
        declared=tuple(table.rows), section=f"source.tables.{table.name}.rows", form=form, private=private
    )
    columns = table_columns(table, spec.source, spec.features)
    rows = read_rows(file, columns, filters.passing(lambda lazy, _: lazy, where), lists=list_columns(spec, table))
    fields = feature_fields(spec, rows.schema, where, pseudonymiser, table)
    text = values.id_text(key, rows.schema[key], where)
    rule = f"each row of side table {table.name} has an id in `{key}`"
    checks = [
        *filters.checks(rows.schema, where),
        Check(broken=text.is_null(), reason="missing_id", rule=rule, column=key),
    ]
    for check in values.exact_id(key, rows.schema[key]):
        checks.append(check)
        # It may be any of several ids.
        text = pl.when(~check.broken.fill_null(False)).then(text)
    time = pl.lit(None, pl.Int64)
    if (start := table.valid_from) is not None:
        kind = rows.schema[start]
        # Of a local time that occurs twice the later is meant, before which the row may not have been known.
        time = pl.max_horizontal([values.time_value(start, kind, where, form, second) for second in (False, True)])
        checks += values.time_checks(start, kind, time, form)
    checks += [check for field in fields for check in field.checks]
    frame = diagnose(rows, checks, private, where).with_columns(
        text.alias(_KEY), time.alias(_FROM), *(field.value for field in fields)
    )
    frame = with_malformed(frame, rows)
    return frame.select(
        pl.lit(file.index, pl.Int32).alias(FILE),
        pl.lit(file.name).alias(NAME),
        ROW,
        _KEY,
        _FROM,
        *(feature.name for feature, _ in spec.features_of(table)),
        REASON,
        RULE,
        COLUMN,
        VALUE,
    )


def _is_placed(table: SideTable) -> pl.Expr:
    """Whether a row, good or not, has an id and a time."""
    placed = pl.col(_KEY).is_not_null()
    return placed if table.valid_from is None else placed & pl.col(_FROM).is_not_null()


def _mark_conflicts(spec: Spec, table: SideTable, rows: pl.DataFrame) -> pl.DataFrame:
    """Marks the rows of an id and a time that differ: which of them holds cannot be known, whatever their order."""
    content: Sequence[str] = [_KEY, _FROM, *(feature.name for feature, _ in spec.features_of(table)), REASON]
    versions = rows.filter(_is_placed(table)).select(content).unique(content).group_by(_KEY, _FROM).len("__versions")
    rows = rows.join(versions, on=[_KEY, _FROM], how="left", nulls_equal=True, maintain_order="left")
    differs = (pl.col("__versions") > 1).fill_null(False) & pl.col(REASON).is_null()
    same = f"`{table.key}`" if table.valid_from is None else f"`{table.key}` and `{table.valid_from}`"
    rule = f"rows of side table {table.name} with equal {same} are equal in the columns that are read"
    return rows.with_columns(
        pl.when(differs).then(pl.lit("conflicting_row")).otherwise(REASON).alias(REASON),
        pl.when(differs).then(pl.lit(rule)).otherwise(RULE).alias(RULE),
        pl.when(differs).then(pl.lit(table.key)).otherwise(COLUMN).alias(COLUMN),
        pl.when(~differs).then(VALUE).alias(VALUE),
    ).drop("__versions")
