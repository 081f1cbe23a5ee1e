"""From when to when a log reaches."""

from collections.abc import Mapping, Sequence
from datetime import date
from statistics import median

import polars as pl

from ctr_pipeline.sources.clock import TS, Clock, Ranks
from ctr_pipeline.sources.errors import SourceError, listed
from ctr_pipeline.sources.files import Files, LogFile, open_log
from ctr_pipeline.sources.impressions import clock_or_ranks, impression_filters
from ctr_pipeline.sources.listed_files import ListedFile
from ctr_pipeline.sources.row_filtering import Filters
from ctr_pipeline.sources.rows import RAW, Schema, raw, read_rows
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.times import likely_unit
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US, LONGEST_DURATION_US

_LONGEST_LOG_DAYS = LONGEST_DURATION_US // DAY_US


def log_range(spec: Spec, impression_files: Files, now: int | None = None) -> tuple[date, date]:
    """The first and last day (UTC) of the impressions that have a usable time.

    Args:
        spec: Declares which columns mean what.
        impression_files: The files of the impression log, all of them.
        now: As for :func:`~ctr_pipeline.sources.impressions.read_impressions`.

    Raises:
        SourceError: a file cannot be read, no row has a usable time, or the days are more than ten years.
    """
    files = open_log(spec.source.impressions, impression_files)
    clock, filters = clock_or_ranks(spec, files, now), impression_filters(spec)
    if isinstance(clock, Ranks):
        if clock.rows == 0:
            filters.refuse_nothing_left(files, spec.impression_columns)
            column = clock.order.column
            raise _no_rows(files, f"`{column}`" if column else "one of the declared columns", [])
        return clock.order.first_day, clock.last_day
    bounds: list[tuple[int | None, int | None]] = []
    malformed = []
    for file in files:
        low, high, lines = _time_bounds(file, clock, filters, spec.impression_columns)
        bounds.append((low, high))
        malformed += lines
    known = [(low, high) for low, high in bounds if low is not None and high is not None]
    if not known:
        filters.refuse_nothing_left(files, spec.impression_columns)
        columns = [f"`{column}`" for column in clock.event_columns]
        raise _no_rows(files, " and ".join(columns), malformed)
    low, high = min(low for low, _ in known), max(high for _, high in known)
    days = pl.Series([low, high]).cast(pl.Datetime("us")).dt.date()
    first, last = spec.days.first or days[0], spec.days.last or days[1]
    if (last - first).days > _LONGEST_LOG_DAYS:
        # A single wrong time; the one that lies farther from the middle of the log.
        early = spec.days.first is None and (spec.days.last is not None or _is_early(known, low, high))
        place = [ends[0 if early else 1] for ends in bounds].index(low if early else high)
        raise _too_long(files[place], clock, filters, low if early else high, days[0], days[1])
    return days[0], days[1]


def _time_bounds(
    file: LogFile, clock: Clock, filters: Filters, declared: Mapping[str, str]
) -> tuple[int | None, int | None, list[str]]:
    """The earliest and latest usable time in a file, and the rule that each malformed line breaks."""

    def select(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
        unusable = clock.is_given(schema) & pl.col(TS).is_null()
        return clock.timed(lazy, schema, str(file.path)).select(
            pl.col(TS).min().alias("low"),
            pl.col(TS).max().alias("high"),
            unusable.sum().alias("unusable"),
            clock.of_future.sum().alias("future"),
            raw(clock.time).filter(unusable).first().alias(RAW + clock.time),
        )

    columns = filters.columns | clock.columns("impression")
    rows = read_rows(file, columns, filters.passing(select, str(file.path)), declared)
    low, high = rows.frame["low"].min(), rows.frame["high"].max()
    unusable, future = int(rows.frame["unusable"].sum()), int(rows.frame["future"].sum())
    if low is None and future and future == unusable:
        raise SourceError(
            f"{file.path}: all {future} times of column `{clock.time}` lie in the future: more than a day after this "
            "reading, or after their ingest time by more than `source.max_clock_skew`. Is the clock of this machine "
            "right? Else name another column in `impression.time`, set `time_zone`, or correct the file. Made-up times may "
            "go up to `days.last`: set it."
        )
    if low is None and unusable:
        examples = rows.frame[RAW + clock.time].drop_nulls()
        example = "" if clock.time in filters.private else f" (such as {examples.cast(pl.String)[0]!r})"
        unit = likely_unit(examples)
        hint = f"As a number that is a time in {unit}: set `impression.time_unit: {unit}`. " if unit else ""
        raise SourceError(
            f"{file.path}: none of the {unusable} values of column `{clock.time}` is a usable time{example}; "
            f"expected {clock.form.expected(clock.time)}, between 1980 and 2200. {hint}"
            "Set `impression.time_format`, name another column in `impression.time`, or correct the file."
        )
    return low, high, rows.malformed["rule"].to_list()  # type: ignore[return-value]


def _is_early(known: Sequence[tuple[int, int]], low: int, high: int) -> bool:
    """Whether the earliest time of a log is the outlier, rather than the latest; by the middle of the files."""
    middle = median(time for ends in known for time in ends)
    return middle - low >= high - middle


def _too_long(file: LogFile, clock: Clock, filters: Filters, time: int, first: date, last: date) -> SourceError:
    """Names the row that makes the log so long."""

    def select(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
        return clock.timed(lazy, schema, str(file.path)).filter(pl.col(TS) == time).select(ROW)

    columns = filters.columns | clock.columns("impression")
    row = int(read_rows(file, columns, filters.passing(select, str(file.path))).frame[ROW][0])
    day = pl.Series([time]).cast(pl.Datetime("us")).dt.date()[0]
    return SourceError(
        f"{file.path}: row {row} of column `{clock.time}` is of {day}, so that the log reaches from {first} to {last}, "
        f"more than {_LONGEST_LOG_DAYS // 366} years. Correct that row (a clock that was never set?), or set "
        "`days.first` and `days.last` to the days to be read: rows of other days are then left out."
    )


def _no_rows(files: Sequence[LogFile], columns: str, malformed: Sequence[str]) -> SourceError:
    names = listed([file.name for file in files])
    lines = f", but {len(malformed)} lines that are none ({malformed[0]})" if malformed else ""
    return SourceError(
        f"the impression log has no row with a value in {columns}{lines} (files: {names}). "
        "Check that the paths in `source.impressions` lead to the right files, and that they have rows."
    )


_INTERVAL_BYTES = 200e6
"""Compressed bytes of Parquet that are read in one go: two to three million rows of forty columns."""


def days_at_a_time(spec: Spec, table: str, files: Sequence[ListedFile], days_in_log: int) -> int | None:
    """Days of a log to read in one go, which bounds memory; None for all of them.

    A log in Parquet is read in intervals, each of which reads little else. Text has to be read from its first line each
    time, so it is read in one go. So are 0/1 columns: which of two rows with one id counts follows only from both
    together.
    """
    by_column = table == "outcome_events" and any(task.label.column is not None for task in spec.tasks)
    if by_column or any(file.path.suffix not in (".parquet", ".pq") for file in files):
        return None
    size = sum(file.size for file in files) / days_in_log
    return max(1, int(_INTERVAL_BYTES // max(1.0, size)))
