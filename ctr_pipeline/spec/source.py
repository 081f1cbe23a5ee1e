"""Where the logs lie and which of their columns mean what."""

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from ctr_pipeline.spec.addresses import is_address, parse_address
from ctr_pipeline.spec.attribute import Attribute
from ctr_pipeline.spec.exposure import Arm, Traffic
from ctr_pipeline.spec.fields import (
    DAY_US,
    MICROSECONDS,
    Column,
    Duration,
    Name,
    Section,
    TimeZone,
    added_field,
    format_duration,
)
from ctr_pipeline.spec.null_values import NullValues
from ctr_pipeline.spec.row_filters import RowFilters
from ctr_pipeline.spec.simulator import SimulatorSettings
from ctr_pipeline.spec.time_formats import TimeFormats

TimeUnit = Literal["s", "ms", "us", "ns"]


class LogFiles(Section):
    """A set of files that together are one log."""

    paths: list[str] = Field(
        default=[],
        description="Files, folders or globs, relative to the folder of the spec, or addresses such as s3://bucket/logs. A folder means every log file below it.",
    )
    format: Literal["parquet", "csv", "ndjson"] | None = Field(
        default=None,
        description="File format; by default each file's ending decides (.parquet, .csv, .tsv, .ndjson, .jsonl, each also with .gz).",
    )
    separator: str = Field(
        default=",", min_length=1, max_length=1, description="Column separator of CSV files (.tsv files use a tab)."
    )
    null_values: NullValues = Field(
        default=[""], description="Values that mean a missing one: for all columns, and by the name of a column."
    )
    time_zone: TimeZone | None = added_field(
        None, "Zone of this log's time stamps that carry none; by default that of the spec."
    )
    quote: str | None = added_field(
        None, "What encloses texts in CSV files; empty where nothing does, as by default in tab-separated files."
    )
    escape: str | None = added_field(
        None, "What precedes a quote within a quoted text of CSV files; by default it is written twice."
    )

    columns: list[str] = added_field(
        [], "Names of the columns of CSV files without a header line, in their order; an empty one is not read."
    )

    rows: RowFilters = added_field(
        [], "Which rows are of interest, by the values of columns; the others are counted as filtered."
    )

    @model_validator(mode="after")
    def _names_of_columns(self) -> Self:
        named = [name for name in self.columns if name]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"`columns` has {twice!r} more than once: each column has a name of its own, or an empty one where it is "
                "not read"
            )
        if self.columns and not named:
            raise ValueError("`columns` has no name: give one to each column that is read")
        if self.columns and self.format not in (None, "csv"):
            raise ValueError(
                f"`columns` names those of CSV files without a header, and the format is {self.format}: remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _addresses_that_are_read(self) -> Self:
        for address in [parse_address(path) for path in self.paths if is_address(path)]:
            if address.query:
                raise ValueError(
                    f"{address}: this address in `paths` goes on with a query, which may be a signature, and specs are stored with "
                    "each run: take it out of the spec, and pass the whole address by --input"
                )
        return self

    @model_validator(mode="after")
    def _one_meaning_a_character(self) -> Self:
        used = {"separator": self.separator}
        for name, value in (("quote", self.quote), ("escape", self.escape)):
            if not value:
                if name == "escape" and value is not None:
                    raise ValueError("`escape` is one character; remove it where a quote is written twice")
                continue
            if len(value) > 1 or not value.isascii() or value.isalnum() or value.isspace():
                raise ValueError(f"`{name}` is one ASCII character, no letter, digit, blank or line break")
            other = next((field for field, taken in used.items() if taken == value), None)
            if other is not None:
                raise ValueError(f"`{name}` and `{other}` are both {value!r}: each character means one of them")
            used[name] = value
        if self.escape and self.quote == "":
            raise ValueError("`escape` holds within quoted texts, and `quote` is empty: remove one of them")
        if self.escape == '"' and self.quote is None:
            raise ValueError("`escape` is the quote itself: remove it, a quote written twice needs none")
        return self


class EventLog(LogFiles):
    """A log of outcomes: a row records that something happened to an impression."""

    name: Name = Field(
        default="outcome_events", description="Name of this log, for `--input NAME=PATH` and in messages."
    )
    impression_id: Column | None = Field(
        default="impression_id",
        description="Column with the id of the impression that the event belongs to; null where events name none (then `attribute` says which it is).",
    )
    attribute: Attribute | None = added_field(
        None, "For a log whose events name no impression: to which one each belongs."
    )
    type: Column = Field(default="event_type", description="Column with what happened; tasks name its values.")
    time: Column = Field(default="event_ts", description="Column with the time at which it happened.")
    ingest_time: Column | None = Field(
        default=None,
        description="Column with the time at which the log received the event; without one, the event's own time.",
    )
    time_unit: TimeUnit = Field(
        default="us", description="Unit of time columns that hold numbers since 1970-01-01 UTC."
    )
    time_format: TimeFormats = added_field(
        None, "How times are written that are no usual spelling, by the directives of strftime."
    )

    @model_validator(mode="after")
    def _one_way_to_an_impression(self) -> Self:
        if self.attribute is not None and self.impression_id is not None:
            raise ValueError(
                f"`attribute` is for events that name no impression, and `impression_id` is {self.impression_id!r}: set "
                "`impression_id: null`, or remove `attribute`"
            )
        if self.attribute is None and self.impression_id is None:
            raise ValueError(
                "with `impression_id: null` say in `attribute` to which impression an event belongs, such as "
                "{by: [user, item], within: 7d}"
            )
        ids = self.attribute.by.values() if self.attribute is not None else ()
        both = next((column for column in ids if column in (self.type, self.time, self.ingest_time)), None)
        if both is not None:
            raise ValueError(
                f"column {both!r} is an id in `attribute.by`, and the type or a time of the event too: name another column"
            )
        return self


class LabelLog(LogFiles):
    """A log of labels: a row has the outcomes of one impression in columns."""

    name: Name = Field(default="labels", description="Name of this log, for `label.log` and `--input NAME=PATH`.")
    impression_id: Column = Field(
        default="impression_id", description="Column with the id of the impression that the labels belong to."
    )
    time: Column | None = Field(
        default=None,
        description="Column with the time at which the outcome happened or the case was closed; by default, that of the impression.",
    )
    ingest_time: Column | None = Field(
        default=None, description="Column with the time at which the log received the labels; without one, `time`."
    )
    time_unit: TimeUnit = Field(
        default="us", description="Unit of time columns that hold numbers since 1970-01-01 UTC."
    )
    time_format: TimeFormats = Field(
        default=None, description="How times are written that are no usual spelling, by the directives of strftime."
    )

    @model_validator(mode="after")
    def _timed_as_a_whole(self) -> Self:
        if self.time is None and self.ingest_time is not None:
            raise ValueError(
                "`ingest_time` goes with `time`, and without that labels have the times of their impressions"
            )
        return self


class SideTable(LogFiles):
    """A table about users, items or advertisers: each impression gets the row that was valid before it."""

    name: Name = Field(description="Name of the table; features name its columns as `name.column`.")
    key: Column = Field(description="Column of the table with the id of what a row is about.")
    impression_column: Column | None = Field(
        default=None, description="Column of the impression log with the same ids; by default called as `key`."
    )
    valid_from: Column | None = Field(
        description="Column with the time from which a row was known and took the place of earlier ones of its key; null when the table has none, and its rows then hold for every impression, whenever it was."
    )
    time_unit: TimeUnit = Field(
        default="us", description="Unit of time columns that hold numbers since 1970-01-01 UTC."
    )
    time_format: TimeFormats = Field(
        default=None, description="How times are written that are no usual spelling, by the directives of strftime."
    )

    @model_validator(mode="after")
    def _two_columns(self) -> Self:
        if self.valid_from == self.key:
            raise ValueError(f"`key` and `valid_from` are both {self.key!r}: an id is no time")
        if isinstance(self.time_format, dict) and set(self.time_format) - {self.valid_from}:
            raise ValueError(f"`time_format` names a column that is not `valid_from` ({self.valid_from})")
        return self

    @property
    def joined_by(self) -> str:
        """The column of the impression log with the ids of this table."""
        return self.impression_column or self.key


class Source(Section):
    """Where the raw logs come from: the user's files, or the built-in simulator."""

    impressions: LogFiles = Field(default=LogFiles(), description="The impression log.")
    events: list[EventLog] = Field(
        default=[], description="Logs of outcome events, where outcomes are not columns of the impressions."
    )
    labels: list[LabelLog] = added_field(
        [], "Logs of labels: files with the outcomes of impressions in columns, a row an impression."
    )
    tables: list[SideTable] = added_field(
        [], "Tables about users, items or advertisers, joined to the impressions as of their time."
    )
    simulator: SimulatorSettings | None = Field(
        default=None,
        description="Simulated marketplace instead of files; then `impressions` and `events` have no paths.",
    )
    max_clock_skew: Duration = Field(
        default=5 * MICROSECONDS["m"],
        description="How far a row's own time may lie after its ingest time; a row beyond it is quarantined.",
    )

    max_early: Duration = added_field(
        0,
        "How long before its impression an outcome may happen by the clocks and still count, as at the impression; at most 1d.",
    )

    @property
    def outcome_logs(self) -> list[EventLog | LabelLog]:
        """The logs beside that of the impressions."""
        return [*self.events, *self.labels]

    @model_validator(mode="after")
    def _early_by_a_day_at_most(self) -> Self:
        if self.max_early > DAY_US:
            raise ValueError(
                f"`max_early` is {format_duration(self.max_early)}, and clocks do not differ by more than 1d: correct the times "
                "of the logs, such as their `time_zone`"
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        paths = [path for log in (self.impressions, *self.outcome_logs) for path in log.paths]
        if self.simulator and paths:
            raise ValueError(f"`simulator` and file paths exclude each other: remove it, or the paths {paths}")
        if self.simulator and self.tables:
            raise ValueError(
                f"`simulator` has no side tables: remove `tables` ({self.tables[0].name}), or the simulator"
            )
        names = [log.name for log in self.outcome_logs]
        if len(set(names)) < len(names):
            raise ValueError(f"logs of outcomes need different names, found {names}: give each a `name`")
        names += [table.name for table in self.tables]
        if len(set(names)) < len(names) or (self.tables and "impressions" in names):
            raise ValueError(
                f"side tables and event logs need names of their own, other than impressions; found {names}: rename one"
            )
        return self

    def in_table(self, column: str | None) -> tuple[SideTable, str] | None:
        """The side table that ``column`` of a feature belongs to, and its name there; None for one of the log."""
        head, point, tail = (column or "").partition(".")
        found = next((table for table in self.tables if table.name == head), None)
        return (found, tail) if found is not None and point and tail else None


class Order(Section):
    """A log that has an order but no clock: rows get artificial days."""

    column: Column | None = added_field(
        None, "Column whose ascending values give the order of the rows; without it, they stand in order in the files."
    )
    rows_per_day: int = Field(gt=0, description="Number of consecutive rows that make one artificial day.")
    first_day: date = Field(default=date(2024, 1, 1), description="The artificial day of the first row.")


class TimeOffset(Section):
    """The distance between the time in the log and the time of the impression."""

    column: Column = Field(description="Column with a number: how far apart the two are.")
    unit: Literal["us", "ms", "s", "m", "h", "d"] = Field(description="Unit of that number.")
    subtract: bool = Field(
        default=True, description="Whether the impression comes before the time in `impression.time`, or after it."
    )


class ImpressionColumns(Section):
    """The columns of the impression log that carry identity, time and exposure."""

    id: Column | None = Field(
        description="Column that identifies an impression; null when the log has none (then file and row number identify it, and outcomes must be columns of the impression)."
    )
    time: Column | None = Field(default=None, description="Column with the time of the impression.")
    order: Order | None = Field(default=None, description="For a log without a clock: the column that orders it.")
    time_unit: TimeUnit = Field(
        default="us", description="Unit of time columns that hold numbers since 1970-01-01 UTC."
    )
    time_format: TimeFormats = added_field(
        None, "How times are written that are no usual spelling, by the directives of strftime."
    )
    time_offset: TimeOffset | None = added_field(
        None, "For a log that gives the time of the impression by another time (`time`) and the distance to it."
    )
    ingest_time: Column | None = Field(
        default=None,
        description="Column with the time at which the log received the impression; without one, the impression's own time.",
    )
    user: Column | None = Field(
        default=None, description="Column with the user id; replaced by a keyed hash before anything is written."
    )
    session: Column | None = Field(default=None, description="Column with the session id; hashed like the user id.")
    position: Column | None = Field(default=None, description="Column with the slot, 1 for the first.")
    first_position: int = added_field(1, "What `position` holds for the first slot: 1, or 0.", ge=0)
    traffic: Traffic | None = Field(default=None, description="Which traffic is randomised and which is production.")
    propensity: Column | None = Field(
        default=None, description="Column with the logged probability, in (0, 1], that the logging policy showed this."
    )
    weight: Column | None = added_field(
        None, "Column with the row's weight in the training loss: a finite number of at least 0 in each row."
    )

    shows: Column | None = added_field(
        None, "Column with the number of impressions that a row stands for; label columns then count those with it."
    )

    arm: Arm | None = added_field(
        None, "Which impressions belong to which arm of an experiment, for `ctr experiment read`."
    )

    @model_validator(mode="after")
    def _one_clock(self) -> Self:
        if (self.time is None) == (self.order is None):
            found = "neither" if self.time is None else "both"
            raise ValueError(
                f"declare exactly one of `time` (a clock) and `order` (a log without a clock); found {found}"
            )
        if self.first_position != 1 and self.position is None:
            raise ValueError(f"`first_position` {self.first_position} says how `position` counts: name that column")
        if self.time_offset is not None and self.time is None:
            raise ValueError("`time_offset` moves the time in `time`: name that column")
        return self

    @property
    def id_columns(self) -> frozenset[str]:
        """Columns whose values are always replaced by a keyed hash."""
        return frozenset(column for column in (self.id, self.user, self.session) if column is not None)

    @property
    def value_columns(self) -> frozenset[str]:
        """Columns whose values the pipeline reads as times, slots, kinds of traffic, probabilities, weights or counts."""
        columns = (
            self.time,
            self.time_offset.column if self.time_offset else None,
            self.ingest_time,
            self.order.column if self.order else None,
            self.position,
            self.traffic.column if self.traffic else None,
            self.arm.column if self.arm else None,
            self.propensity,
            self.weight,
            self.shows,
        )
        return frozenset(column for column in columns if column is not None)
