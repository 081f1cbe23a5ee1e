"""Where every row of a log went: kept, quarantined with the reason, or ignored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.event_types import TypeCounts
from ctr_pipeline.sources.files import Files
from ctr_pipeline.sources.listed_files import ListedFile
from ctr_pipeline.sources.rows import ENOUGH_TO_JUDGE, RAW, Rows, raw
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.times import likely_unit
from ctr_pipeline.sources.values import Check, is_given

QUARANTINE_SCHEMA = pl.Schema(
    {
        "day": pl.Date,
        "table": pl.String,
        "reason": pl.String,
        "rule": pl.String,
        "column": pl.String,
        "source_file": pl.String,
        "source_row": pl.Int64,
        "value": pl.String,
    }
)
"""Columns of the quarantine."""

REASON, RULE, COLUMN, VALUE = "__reason", "__rule", "__column", "__value"
"""What is wrong with a row, beside its own columns; null for a good row."""

FILE, NAME = "__file", "__name"
"""Place of a row's file in the log, and the file's name."""

DAY = "__day"
"""The day of the partition to which a row belongs."""

_PROBLEM = "__problem"
_LONGEST_VALUE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResult:
    """What one call read.

    ``rows_in + added == kept.height + quarantined.height + filtered + ignored`` always holds.
    """

    kept: pl.DataFrame
    """Rows of the table, in its column order and sorted."""
    quarantined: pl.DataFrame
    """Rows set aside; columns QUARANTINE_SCHEMA."""
    rows_in: int
    ignored: int
    """Rows that are in order, but of no use to any task."""
    rows_in_by_day: Mapping[date, int]
    """``rows_in`` by day of the partition; days without rows are absent."""
    undated: int
    """Quarantined rows that belong to no day, and are counted with the first day of the log."""
    rows_in_log: int
    """Rows of all days in the files that were read; for outcomes, in the event logs."""
    filtered_by_day: Mapping[date, int] = field(default_factory=dict)
    """Rows of ``rows_in_by_day`` that the spec leaves out."""
    added_by_day: Mapping[date, int] = field(default_factory=dict)
    """Impressions that rows stand for, beyond one each."""
    files: Mapping[date, Collection[str]] = field(default_factory=dict)
    """Paths of the files that rows of each day were found in; those that belong to no day are not counted."""
    notices: Mapping[str, int] = field(default_factory=dict)
    """Number of kept rows by peculiarity: ``clock_skew`` (ingest time before event time; the event time is used for
    both), ``repeated_hour`` (a local time that occurs twice), ``other_traffic`` (neither random nor production),
    ``cut_lists`` (a list is longer than the ``max_length`` that the model reads), ``duplicate_event`` (exact
    repetitions, which no label depends on); and ``empty_file``, the number of files without a row."""
    outcomes: Mapping[date, tuple[int, int]] = field(default_factory=dict)
    """By day, rows that state an outcome or may do so: those of them that were quarantined, and all. Of impressions: the
    label is 1 or unreadable, or an outcome time is given; repetitions are left out. Of outcomes: events of a used type."""
    event_types: TypeCounts = field(default_factory=dict)
    """Events of event logs by day of arrival and type, those that are ignored included."""
    joins: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Kept impressions by side table and by what became of them there: see ``side_tables``."""
    attributions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Events that name no impression by event log and by what became of them: see ``last_touch``."""

    @property
    def added(self) -> int:
        """Impressions that rows stand for, beyond one each."""
        return sum(self.added_by_day.values())

    @property
    def filtered(self) -> int:
        """Rows that the spec leaves out."""
        return sum(self.filtered_by_day.values())


def diagnose(rows: Rows, checks: Sequence[Check], private: Collection[str], where: str) -> pl.DataFrame:
    """Adds REASON, RULE, COLUMN and VALUE of the first broken check to each row of ``rows.frame``; null for good rows.

    Args:
        rows: What was read of one file.
        checks: Reasons to set a row aside, the most important first.
        private: Columns whose values must not be shown.
        where: Names the file in messages.

    Raises:
        SourceError: a column holds nothing that it is declared to hold.
    """
    marks = [pl.when(check.broken).then(pl.lit(number, pl.Int32)) for number, check in enumerate(checks)]
    frame = rows.frame.with_columns((pl.coalesce(marks) if marks else pl.lit(None, pl.Int32)).alias(_PROBLEM))
    broken = frame.filter(pl.col(_PROBLEM).is_not_null())
    if broken.height:
        _refuse_wrong_columns(rows, broken, checks, private, where)
    table = pl.DataFrame(
        {
            _PROBLEM: range(len(checks)),
            REASON: [check.reason for check in checks],
            RULE: [check.rule for check in checks],
            COLUMN: [check.column for check in checks],
        },
        schema={_PROBLEM: pl.Int32, REASON: pl.String, RULE: pl.String, COLUMN: pl.String},
    )
    shown = [
        pl.when(pl.col(_PROBLEM) == number).then(_as_text(check.column, rows.schema[check.column]))
        for number, check in enumerate(checks)
        if check.column is not None and check.column not in private
    ]
    value = pl.coalesce(shown).str.head(_LONGEST_VALUE) if shown else pl.lit(None, pl.String)
    found = broken.select(ROW, _PROBLEM, value.alias(VALUE)).join(table, on=_PROBLEM, how="left", maintain_order="left")
    return frame.drop(_PROBLEM).join(found.drop(_PROBLEM), on=ROW, how="left", maintain_order="left")


def quarantine(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """The quarantine of ``table``: those of ``rows`` that have a REASON."""
    return (
        rows.filter(pl.col(REASON).is_not_null())
        .select(
            pl.col(DAY).alias("day"),
            pl.lit(table).alias("table"),
            pl.col(REASON).alias("reason"),
            pl.col(RULE).alias("rule"),
            pl.col(COLUMN).alias("column"),
            pl.col(NAME).alias("source_file"),
            pl.col(ROW).alias("source_row"),
            pl.col(VALUE).alias("value"),
        )
        .cast(QUARANTINE_SCHEMA)
        .sort("day", "source_file", "source_row", "column", "rule", nulls_last=True, maintain_order=True)
    )


def with_malformed(frame: pl.DataFrame, rows: Rows) -> pl.DataFrame:
    """Adds the malformed lines of ``rows``; their text is not stored."""
    if rows.malformed.is_empty():
        return frame
    lines = rows.malformed.select(ROW, pl.lit("malformed_row").alias(REASON), pl.col("rule").alias(RULE))
    return pl.concat([frame, lines], how="diagonal")


def count_by_day(days: pl.Series) -> dict[date, int]:
    """Number of rows of each day, days ascending."""
    return dict(sorted(days.drop_nulls().value_counts().iter_rows()))


def quarantined_by_day(rows: pl.DataFrame) -> dict[date, tuple[int, int]]:
    """Number of quarantined rows, and of all, of each day; ``rows`` have the columns DAY and REASON."""
    counts = rows.drop_nulls(DAY).group_by(DAY).agg(pl.col(REASON).is_not_null().sum().alias("broken"), pl.len())
    return {day: (int(broken), int(of)) for day, broken, of in counts.sort(DAY).iter_rows()}


def files_of_days(rows: pl.DataFrame, files: Files) -> dict[date, set[str]]:
    """Paths of those of ``files`` that ``rows`` (columns DAY and FILE) of each day are in."""
    found: dict[date, set[str]] = {}
    for day, index in rows.select(DAY, FILE).unique().iter_rows():
        file = files[index]
        found.setdefault(day, set()).add(str(file.path if isinstance(file, ListedFile) else file))
    return found


def _refuse_wrong_columns(
    rows: Rows, broken: pl.DataFrame, checks: Sequence[Check], private: Collection[str], where: str
) -> None:
    """Raises when every value of a column breaks a rule that defines what the column holds."""
    failing = broken[_PROBLEM].value_counts()
    for number, count in failing.iter_rows():
        check = checks[number]
        if check.refused is not None and check.column is not None and rows.frame.select(check.refused).item():
            shown = broken.filter(pl.col(_PROBLEM) == number)
            raise SourceError(
                f"{where}: {count} values of column `{check.column}` cannot be used"
                f"{_example(check.column, shown, rows, private)}: {check.rule}."
            )
        if not check.unreadable or check.column is None or count < ENOUGH_TO_JUDGE:
            continue
        values = rows.frame.filter(is_given(check.column, rows.schema[check.column]))
        # Rows may have failed an earlier check first: count this one by itself.
        if values.height < ENOUGH_TO_JUDGE or not values.select(check.broken.fill_null(False).all()).item():
            continue
        if check.reason in ("bad_time", "inexact_time", "future_time") and rows.total > rows.frame.height:
            # Only unusable times and those of the asked days were read; the others of the file are in order.
            continue
        example = _example(check.column, values, rows, private)
        raise SourceError(
            f"{where}: none of the {values.height} values of column `{check.column}` can be used{example}: {check.rule}. "
            f"{_unit_hint(check, values)}{check.remedy and check.remedy + ' '}Name another column in the spec, or correct the file."
        )


def _example(column: str, values: pl.DataFrame, rows: Rows, private: Collection[str]) -> str:
    """The first of ``values`` in brackets; nothing for a private column."""
    text = _as_text(column, rows.schema[column]).str.head(_LONGEST_VALUE)
    return "" if column in private else f" (such as {values.head(1).select(text).item()!r})"


def _as_text(column: str, kind: pl.DataType) -> pl.Expr:
    """The values of a column as people read them; null for values that are no text."""
    if isinstance(kind, pl.List):
        texts = raw(column).cast(pl.List(pl.String), strict=False)
        return pl.format("{} values: {}", texts.list.len(), texts.list.join(", ", ignore_nulls=True))
    return raw(column).cast(pl.String, strict=False)


def _unit_hint(check: Check, values: pl.DataFrame) -> str:
    unit = likely_unit(values[RAW + str(check.column)]) if check.reason == "bad_time" else None
    return f"As numbers these are times in {unit}: set `time_unit: {unit}`. " if unit else ""
