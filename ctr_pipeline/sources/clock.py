"""When each row happened: read from a time column, or made up from the order of a log without a clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from ctr_pipeline.sources.canonical import is_rounded, lacks_digits
from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.files import LogFile
from ctr_pipeline.sources.row_filtering import Filters
from ctr_pipeline.sources.rows import Schema, Select, raw, read_rows
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.sources.time_offsets import moved, offset_checks
from ctr_pipeline.sources.times import LATEST, TimeForm, day_start, within
from ctr_pipeline.sources.values import Check, future_check, is_given, time_checks, time_value
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US, format_duration
from ctr_pipeline.spec.source import EventLog, LabelLog, Order, TimeOffset

TS = "__ts"
INGEST = "__ingest"
"""Event and ingest time of a row in microseconds; null where unusable. Ingest is never before the event."""

SKEWED = "__skewed"
"""Whether the log gave an ingest time before the event time, by no more than the tolerance."""

TWICE = "__twice"
"""Whether the event time is a local time that occurs twice, as clocks are set back."""

_OTHER_TS, _OTHER_INGEST = "__other_ts", "__other_ingest"
_FUTURE = "__future"
"""Why a row's time is taken for none (one of the codes below); null where it is not of the future."""

_AFTER_NOW, _INGEST_AFTER_NOW, _AFTER_INGEST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Scope:
    """The days that one call reads, and whether rows without a usable time are among its rows."""

    first: date
    last: date
    with_undated: bool

    @classmethod
    def of(cls, first: date, last: date, log_first: date) -> "Scope":
        """Undated rows belong to the first day of the log, so that each is counted once.

        Raises:
            SourceError: the days are not in order.
        """
        if last < first:
            raise SourceError(f"the last day {last} is before the first day {first}. Swap them.")
        return cls(first, last, first <= log_first <= last)

    @property
    def start(self) -> int:
        """First microsecond."""
        return day_start(self.first)

    @property
    def end(self) -> int:
        """First microsecond after the last day."""
        return day_start(self.last) + DAY_US

    def holds(self, time: pl.Expr) -> pl.Expr:
        """Whether a row with this time (microseconds) is in scope."""
        inside = time.is_between(self.start, self.end, closed="left")
        return (inside | time.is_null()) if self.with_undated else inside.fill_null(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The time columns of a log."""

    time: str
    ingest: str | None
    form: TimeForm
    offset: TimeOffset | None = None
    """What lies between the time in the log and the one that is meant."""
    max_skew: int
    """How long before the event the log may have received it, by the two clocks, in microseconds."""
    latest: int | None
    """Last instant that the log can know; None for no limit."""

    def columns(self, section: str) -> dict[str, str]:
        """Columns to read, with the fields of the spec that name them."""
        named = {self.time: f"{section}.time"}
        if self.offset is not None:
            named[self.offset.column] = f"{section}.time_offset.column"
        return named | ({self.ingest: f"{section}.ingest_time"} if self.ingest else {})

    def selection(self, scope: Scope, by: str, where: str) -> Select:
        """Keeps the rows whose time ``by`` (TS or INGEST) is in ``scope``, and adds TS, INGEST and SKEWED."""

        def select(lazy: pl.LazyFrame, schema: Schema) -> pl.LazyFrame:
            coarse = self._coarse(scope, schema, by)
            if coarse is not None:
                lazy = lazy.filter(coarse)
            return self.timed(lazy, schema, where).filter(scope.holds(pl.col(by)))

        return select

    def checks(self, schema: Schema) -> tuple[Check, ...]:
        """Each time column that the log declares has a usable time, which is not of the future."""
        columns = [(self.time, TS)] if self.ingest is None else [(self.time, TS), (self.ingest, INGEST)]
        usable = [c for name, parsed in columns for c in time_checks(name, schema[name], pl.col(parsed), self.form)]
        offset = () if self.offset is None else offset_checks(self.offset, schema[self.offset.column])
        return (*self._future_checks(), *offset, *usable)

    def timed(self, lazy: pl.LazyFrame, schema: Schema, where: str) -> pl.LazyFrame:
        """Adds TS, INGEST, SKEWED and TWICE to raw rows. A row of the future has neither time, and so no day."""
        lazy = lazy.with_columns(self._event(schema, where).alias(TS))
        codes = [pl.when(self.is_future(pl.col(TS))).then(_AFTER_NOW)]
        lazy = lazy.with_columns(pl.col(TS).alias(INGEST) if self.ingest is None else self._ingest(schema, where))
        if self.form.zone == "UTC":
            lazy = lazy.with_columns(pl.lit(False).alias(TWICE))
        else:
            lazy = self._ordered(lazy, schema, where)
        if self.ingest is not None:
            codes.append(pl.when(self.is_future(pl.col(INGEST))).then(_INGEST_AFTER_NOW))
            codes.append(pl.when(self._early(TS, INGEST)).then(_AFTER_INGEST))
        lazy = lazy.with_columns(pl.coalesce(codes).cast(pl.Int8).alias(_FUTURE))
        lazy = lazy.with_columns(pl.when(pl.col(_FUTURE).is_null()).then(pl.col(TS, INGEST)))
        skewed = (pl.col(INGEST) < pl.col(TS)).fill_null(False)
        return lazy.with_columns(skewed.alias(SKEWED), pl.when(skewed).then(TS).otherwise(INGEST).alias(INGEST))

    def _event(self, schema: Schema, where: str, second: bool = False) -> pl.Expr:
        stored = time_value(self.time, schema[self.time], where, self.form, second)
        if self.offset is None:
            return stored
        return moved(stored, self.offset, schema[self.offset.column], where, self.form.zone)

    def _ingest(self, schema: Schema, where: str, second: bool = False) -> pl.Expr:
        column = str(self.ingest)
        return time_value(column, schema[column], where, self.form, second).alias(INGEST)

    def _early(self, event: str, ingest: str) -> pl.Expr:
        """Whether the log received a row before it happened, by more than the clocks may differ."""
        return (pl.col(event) - pl.col(ingest) > self.max_skew).fill_null(False)

    def _ordered(self, lazy: pl.LazyFrame, schema: Schema, where: str) -> pl.LazyFrame:
        """Adds TWICE, and reads a local time the other way where only then a row is received after it happened."""
        lazy = lazy.with_columns(self._event(schema, where, second=True).alias(_OTHER_TS))
        lazy = lazy.with_columns((pl.col(_OTHER_TS) > pl.col(TS)).fill_null(False).alias(TWICE))
        if self.ingest is not None:
            lazy = lazy.with_columns(self._ingest(schema, where, second=True).alias(_OTHER_INGEST))
            for event, ingest, place in ((TS, _OTHER_INGEST, INGEST), (_OTHER_TS, INGEST, TS)):
                better = self._early(TS, INGEST) & ~self._early(event, ingest)
                other = ingest if place == INGEST else event
                lazy = lazy.with_columns(pl.when(better).then(other).otherwise(place).alias(place))
        return lazy.drop(_OTHER_TS, _OTHER_INGEST, strict=False)

    @property
    def event_columns(self) -> tuple[str, ...]:
        """The columns that make the event time."""
        return (self.time,) if self.offset is None else (self.time, self.offset.column)

    def is_given(self, schema: Schema) -> pl.Expr:
        """Whether a row has what makes its event time."""
        return pl.all_horizontal([is_given(column, schema[column]) for column in self.event_columns])

    @property
    def of_future(self) -> pl.Expr:
        """Whether a row that :meth:`timed` has seen is of the future."""
        return pl.col(_FUTURE).is_not_null()

    def is_future(self, time: pl.Expr) -> pl.Expr:
        """Whether a time (microseconds) is later than the log can know."""
        return pl.lit(False) if self.latest is None else (time > self.latest).fill_null(False)

    def _future_checks(self) -> tuple[Check, ...]:
        found = [future_check(self.time, pl.col(_FUTURE) == _AFTER_NOW)]
        if self.ingest is not None:
            rule = (
                f"`{self.time}` is at most {format_duration(self.max_skew)} after `{self.ingest}`, as "
                "`source.max_clock_skew` declares (are both in one time zone and unit?)"
            )
            found += [
                future_check(self.ingest, pl.col(_FUTURE) == _INGEST_AFTER_NOW),
                future_check(self.time, pl.col(_FUTURE) == _AFTER_INGEST, rule),
            ]
        return tuple(found)

    def _coarse(self, scope: Scope, schema: Schema, by: str) -> pl.Expr | None:
        """A condition on stored values that loses no row in scope, for Parquet's statistics."""
        if scope.with_undated and self.ingest is not None:
            # Any time may turn out to be of the future beside its ingest time, and then belongs to this scope.
            return None
        if self.offset is not None:
            return None
        # With clock skew the ingest time is the event time, so either column may put a row in scope.
        columns = [self.time] if by == TS or self.ingest is None else [self.time, self.ingest]
        conditions = [self._within(name, schema, scope.start, scope.end) for name in columns]
        if self.latest is not None:
            late = [self._within(name, schema, self.latest, LATEST) for name in columns]
            conditions += late if scope.with_undated else []
        known = [condition for condition in conditions if condition is not None]
        return pl.any_horizontal(known) if len(known) == len(conditions) else None

    def _within(self, column: str, schema: Schema, start: int, end: int) -> pl.Expr | None:
        return within(raw(column), schema[column], self.form.unit, start, end, self.form.format_of(column))


def clock_of(spec: Spec, now: int | None) -> Clock | None:
    """The clock of the impression log; None when it has an order instead.

    Args:
        spec: Names the columns that hold times.
        now: The instant of reading in microseconds; None where the log's times are made up.
    """
    declared = spec.impression
    if declared.time is None:
        return None
    return _clock(spec, declared.time, declared.ingest_time, impression_form(spec), now, declared.time_offset)


def impression_form(spec: Spec) -> TimeForm:
    """How times are written in the impression log."""
    return TimeForm(spec.impression.time_unit, spec.zone_of(spec.source.impressions), spec.impression.time_format)


def event_clock(spec: Spec, log: EventLog, now: int | None) -> Clock:
    """The clock of an event log; arguments as for :func:`clock_of`."""
    form = TimeForm(log.time_unit, spec.zone_of(log), log.time_format)
    return _clock(spec, log.time, log.ingest_time, form, now)


def label_clock(spec: Spec, log: LabelLog, now: int | None) -> Clock | None:
    """The clock of a log of labels, None where it has none; arguments as for :func:`clock_of`."""
    if log.time is None:
        return None
    form = TimeForm(log.time_unit, spec.zone_of(log), log.time_format)
    return _clock(spec, log.time, log.ingest_time, form, now)


def _clock(
    spec: Spec, time: str, ingest: str | None, form: TimeForm, now: int | None, offset: TimeOffset | None = None
) -> Clock:
    return Clock(
        time=time,
        ingest=ingest,
        form=form,
        offset=offset,
        max_skew=spec.source.max_clock_skew,
        latest=None if now is None else _latest(spec, now),
    )


def _latest(spec: Spec, now: int) -> int:
    """A day of grace, since a time zone that was left out makes up to 14 hours; or the end of the declared days."""
    declared = spec.days.last
    return max(now + DAY_US, day_start(declared) + DAY_US - 1) if declared is not None else now + DAY_US


@dataclass(frozen=True, slots=True)
class Ranks:
    """Made-up times of a log without a clock: row ``r`` in order has day ``r // rows_per_day``, evenly spaced."""

    order: Order
    rows: int
    """Rows that have a usable place in the order."""
    times: Mapping[int, pl.DataFrame]
    """By index of the file: ROW and TS of each row with a usable place."""

    @property
    def last_day(self) -> date:
        """The day of the last row."""
        return date.fromordinal(self.order.first_day.toordinal() + (self.rows - 1) // self.order.rows_per_day)

    def selection(self, file: LogFile, scope: Scope) -> Select:
        """Keeps the rows of ``file`` in ``scope``, and adds TS, INGEST and SKEWED."""

        def select(lazy: pl.LazyFrame, _: Schema) -> pl.LazyFrame:
            timed = lazy.join(self.times[file.index].lazy(), on=ROW, how="left", maintain_order="left")
            never = [pl.lit(False).alias(name) for name in (SKEWED, TWICE)]
            return timed.with_columns(pl.col(TS).alias(INGEST), *never).filter(scope.holds(pl.col(TS)))

        return select

    def checks(self, schema: Schema) -> tuple[Check, ...]:
        """Each row has a value that orders it."""
        column = self.order.column
        if column is None:
            return ()
        given = is_given(column, schema[column])
        return (
            Check(broken=~given, reason="missing_time", rule=f"each row has a value in `{column}`", column=column),
            Check(
                broken=pl.col(TS).is_null(),
                reason="bad_time",
                rule=f"`{column}` holds values that order the rows, like its other values",
                column=column,
            ),
        )


def rank_rows(order: Order, files: Sequence[LogFile], declared: Mapping[str, str], filters: Filters) -> Ranks:
    """Reads the order column of all files and gives each row its day and time.

    Args:
        order: Names the column that orders the rows; where it names none, they stand in order, file by file.
        files: The files of the log.
        declared: All columns that the spec names in this log.
        filters: Which rows have a place in the order.

    Raises:
        SourceError: the column cannot order rows, or a file cannot be read.
    """
    column = order.column
    parts = [
        _stored_order(file, declared, filters) if column is None else _by_column(file, column, declared, filters)
        for file in files
    ]
    ranked = _sorted([part for part in parts if part.height] or parts[:1])
    place = pl.int_range(pl.len(), dtype=pl.Int64)
    day, slot = place // order.rows_per_day, place % order.rows_per_day
    time = day_start(order.first_day) + day * DAY_US + slot * DAY_US // order.rows_per_day
    timed = ranked.select("file", ROW, time.alias(TS))
    by_file = {file.index: timed.filter(pl.col("file") == file.index).drop("file") for file in files}
    return Ranks(order, timed.height, by_file)


def _all_rows(lazy: pl.LazyFrame, _: Schema) -> pl.LazyFrame:
    return lazy


def _stored_order(file: LogFile, declared: Mapping[str, str], filters: Filters) -> pl.DataFrame:
    """``file``, ROW and an equal ``value`` of each row. Any column will do: what a row is does not depend on it."""
    column = next(iter(declared))
    select = filters.passing(_all_rows, str(file.path))
    rows = read_rows(file, {column: declared[column], **filters.columns}, select, declared)
    return rows.frame.select(pl.lit(file.index, pl.Int32).alias("file"), ROW, pl.lit(0).alias("value"))


def _by_column(file: LogFile, column: str, declared: Mapping[str, str], filters: Filters) -> pl.DataFrame:
    """``file``, ROW and ``value`` of each row that has a value in the column that orders them."""
    select = filters.passing(_all_rows, str(file.path))
    rows = read_rows(file, {**filters.columns, column: "impression.order.column"}, select, declared)
    kind = rows.schema[column]
    if kind.is_nested() or kind in (pl.Boolean, pl.Object):
        raise SourceError(
            f"{file.path}: column `{column}` has type {kind}, which orders nothing. "
            "Name a column of numbers, times or text in `impression.order.column`."
        )
    rounded = rows.frame.filter(_is_rounded(column, kind)).height
    if rounded:
        raise SourceError(
            f"{file.path}: {rounded} values of column `{column}` are rounded (32-bit floats from 16777216 on, or "
            "texts such as 1.7721e+09), so the order of their rows is lost. Write the column as integers, 64-bit "
            "floats or texts with all digits."
        )
    return rows.frame.select(pl.lit(file.index, pl.Int32).alias("file"), ROW, raw(column).alias("value")).filter(
        _is_ordering(kind)
    )


def _is_rounded(column: str, kind: pl.DataType) -> pl.Expr:
    if kind == pl.String:
        return lacks_digits(raw(column))
    # Whole numbers that a 64-bit float rounds are microseconds and less apart from each other, as times.
    rounded = is_rounded(raw(column), kind) if kind in (pl.Float16, pl.Float32) else None
    return pl.lit(False) if rounded is None else rounded


def _is_ordering(kind: pl.DataType) -> pl.Expr:
    value = pl.col("value")
    if kind == pl.String:
        return (value.str.strip_chars() != "").fill_null(False)
    return (value.is_not_null() & value.is_not_nan()) if kind.is_float() else value.is_not_null()


def _sorted(parts: list[pl.DataFrame]) -> pl.DataFrame:
    kinds = {part.schema["value"] for part in parts}
    if len(kinds) > 1:
        # Files of several formats: their texts decide.
        parts = [part.with_columns(pl.col("value").cast(pl.String)) for part in parts]
    rows = pl.concat(parts)
    if rows.schema["value"] == pl.String:
        exact = pl.col("value").str.strip_chars().cast(pl.Int64, strict=False)
        close = pl.col("value").str.strip_chars().cast(pl.Float64, strict=False).fill_nan(None)
        numeric = rows.select(close.is_not_null().mean()).item() or 0.0
        if numeric > 0.5:
            # Whole numbers beyond 2^53 keep their order: the exact value settles ties of the rounded one.
            rows = rows.with_columns(close.alias("value"), exact.alias("exact")).drop_nulls("value")
            return rows.sort("value", "exact", "file", ROW)
    return rows.sort("value", "file", ROW)
