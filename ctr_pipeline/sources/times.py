"""Time columns in every spelling that logs use → microseconds since 1970-01-01 UTC."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.source import TimeUnit

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = date(1970, 1, 1)


def day_start(day: date) -> int:
    """The first microsecond of ``day`` (UTC)."""
    return (day - _EPOCH).days * DAY_US


EARLIEST = day_start(date(1980, 1, 1))
LATEST = day_start(date(2200, 1, 1))
"""Times outside [EARLIEST, LATEST) are taken for a wrong unit, not for a date."""

READABLE = (
    "a date and time such as 2026-01-31T08:15:00Z, or a number since 1970 in `time_unit`, or a text as `time_format` "
    "describes it (such as '%d/%m/%Y %H:%M')"
)
"""What a time column may hold without a declared format, for messages."""

# A text with an offset, one without, and each without seconds; a date alone comes last.
_WITH_OFFSET = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_WITHOUT_OFFSET = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")


@dataclass(frozen=True, slots=True)
class TimeForm:
    """How the time columns of a log are written."""

    unit: TimeUnit = "us"
    """Unit of numbers since 1970."""
    zone: str = "UTC"
    """Zone of times without an offset."""
    formats: str | Mapping[str, str] | None = None
    """The strftime format of texts, for all columns or by column."""

    def format_of(self, column: str) -> str | None:
        """The declared format of ``column``."""
        return self.formats.get(column) if isinstance(self.formats, Mapping) else self.formats

    def expected(self, column: str) -> str:
        """What the column may hold, for messages."""
        declared = self.format_of(column)
        return READABLE if declared is None else f"times that are written as {declared!r} (`time_format`)"


def is_time_type(kind: pl.DataType) -> bool:
    """Whether a column of type ``kind`` can hold times."""
    return kind in (pl.String, pl.Date, pl.Datetime, pl.Null) or kind.is_numeric()


def parse_time(
    column: pl.Expr, kind: pl.DataType, unit: TimeUnit, zone: str, form: str | None = None, second: bool = False
) -> pl.Expr:
    """Microseconds since 1970-01-01 UTC (int64); null where the value is missing, unreadable or implausible.

    Times without an offset are local times of ``zone``. Of a local time that occurs twice, the first is meant; one
    that a change of clocks skips is read with the offset from before the change.

    Args:
        column: The values.
        kind: Their type.
        unit: Unit of numbers since 1970.
        zone: Zone of times without an offset.
        form: The strftime format of texts and numbers that are no number since 1970; None for the usual spellings.
        second: Take the other reading of a local time that occurs twice, or not at all.
    """
    if form is not None and not isinstance(kind, pl.Date | pl.Datetime):
        parsed = _from_format(_digits(column, kind), form, zone, second)
    elif kind == pl.String:
        parsed = _from_text(column, unit, zone, second)
    elif kind == pl.Date:
        parsed = from_local(column.cast(pl.Datetime("us")), zone, second)
    elif isinstance(kind, pl.Datetime):
        parsed = column.dt.epoch("us") if kind.time_zone else from_local(column.dt.cast_time_unit("us"), zone, second)
    elif kind.is_integer():
        parsed = _from_integer(column.cast(pl.Int64, strict=False), unit)
    else:
        parsed = _from_float(column.cast(pl.Float64), unit)
    return plausible(parsed)


def plausible(time: pl.Expr) -> pl.Expr:
    """``time`` (microseconds); null outside the years that a log can be of."""
    return pl.when((time >= EARLIEST) & (time < LATEST)).then(time).cast(pl.Int64)


def in_zone(time: pl.Expr, zone: str) -> pl.Expr:
    """The local date and time of an instant (microseconds)."""
    return (
        pl.from_epoch(time, time_unit="us")
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone(zone)
        .dt.replace_time_zone(None)
    )


def from_local(naive: pl.Expr, zone: str, second: bool = False) -> pl.Expr:
    """The instant (microseconds) of a local date and time; see :func:`parse_time`."""
    if zone == "UTC":
        return naive.dt.epoch("us")

    def instant(local: pl.Expr) -> pl.Expr:
        ambiguous = pl.lit("latest" if second else "earliest")
        return local.dt.replace_time_zone(zone, ambiguous=ambiguous, non_existent="null").dt.epoch("us")

    # A skipped time has the offset of the day before, or, by its second reading, of the day after.
    shift = DAY_US if second else -DAY_US
    beside = instant(naive + pl.duration(microseconds=shift))
    return pl.coalesce(instant(naive), beside - shift)


def within(
    column: pl.Expr, kind: pl.DataType, unit: TimeUnit, start: int, end: int, form: str | None = None
) -> pl.Expr | None:
    """A condition on the stored values that holds for every time in [start, end), and for unusable ones.

    It is loose by a day on each side and exists so that Parquet row groups of other days are not read; None for
    types that have no such condition.
    """
    low, high = max(start - DAY_US, EARLIEST), min(end + DAY_US, LATEST)
    if isinstance(kind, pl.Datetime):
        zone = kind.time_zone
        bounds = [pl.lit(_moment(us, zone)).cast(kind) for us in (low, high, EARLIEST, LATEST)]
    elif kind.is_integer() and form is None:
        per_second = _PER_SECOND[unit]
        bounds = [pl.lit(us * per_second // 1_000_000, pl.Int64) for us in (low, high, EARLIEST, LATEST)]
    else:
        return None
    return column.is_between(bounds[0], bounds[1]) | column.is_null() | (column < bounds[2]) | (column >= bounds[3])


def likely_unit(values: pl.Series) -> TimeUnit | None:
    """The unit in which most of these numbers are plausible times, if there is one."""
    numbers = values.cast(pl.Float64, strict=False).drop_nulls()
    units: tuple[TimeUnit, ...] = ("s", "ms", "us", "ns")
    for unit in units:
        scaled = numbers * (1_000_000 / _PER_SECOND[unit])
        if len(numbers) and scaled.is_between(EARLIEST, LATEST).mean() > 0.5:  # type: ignore[operator]
            return unit
    return None


def _moment(us: int, zone: str | None) -> datetime:
    moment = datetime.fromtimestamp(us // 1_000_000, UTC)
    return moment if zone else moment.replace(tzinfo=None)


def _from_integer(number: pl.Expr, unit: TimeUnit) -> pl.Expr:
    if unit == "ns":
        return number // 1_000
    factor = 1_000_000 // _PER_SECOND[unit]
    # Guarded, so that an absurd number becomes null and does not wrap around to a plausible time.
    return pl.when(number.is_between(-(LATEST // factor), LATEST // factor)).then(number * factor)


def _from_float(number: pl.Expr, unit: TimeUnit) -> pl.Expr:
    scaled = number * (1_000_000 / _PER_SECOND[unit])
    return pl.when(scaled.is_between(EARLIEST, LATEST)).then(scaled.round(0)).cast(pl.Int64, strict=False)


def _from_text(column: pl.Expr, unit: TimeUnit, zone: str, second: bool) -> pl.Expr:
    stripped = column.str.strip_chars()
    text = (
        stripped.str.replace(r"^(\d{4}-\d{2}-\d{2})[ t]", "${1}T")
        .str.replace(r"\s*(?:Z|z|UTC)$", "+00:00")
        .str.replace(r"\s+([+-]\d{2}:?\d{2})$", "${1}")
        .str.replace(r"([+-]\d{2})$", "${1}:00")
        .str.replace(",", ".", literal=True)
    )
    # A bare date also ends in a sign and two digits, so it is taken from the untouched text.
    bare_date = stripped.str.to_datetime("%Y-%m-%d", time_unit="us", strict=False)
    absolute = [text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in _WITH_OFFSET]
    local = [text.str.to_datetime(form, time_unit="us", strict=False) for form in _WITHOUT_OFFSET]
    integer = _from_integer(stripped.cast(pl.Int64, strict=False), unit)
    fractional = _from_float(stripped.cast(pl.Float64, strict=False), unit)
    return pl.coalesce(
        pl.coalesce(absolute).dt.epoch("us"),
        from_local(pl.coalesce([*local, bare_date]), zone, second),
        integer,
        fractional,
    )


_WIDTHS = {"Y": 4, "y": 2, "m": 2, "d": 2, "H": 2, "I": 2, "M": 2, "S": 2, "j": 3}
_HOUR, _MINUTE = re.compile("%[HIkl]"), re.compile("%[MRTrcXs+]")
_ABSOLUTE = re.compile("%(?:[:#]?z|[+s])")


def _from_format(text: pl.Expr, form: str, zone: str, second: bool) -> pl.Expr:
    directives = re.findall("%(.)", form)
    if form == "".join(f"%{directive}" for directive in directives) and set(directives) <= _WIDTHS.keys():
        # As a number, a time loses its leading zero.
        width = sum(_WIDTHS[directive] for directive in directives)
        text = pl.when(text.str.len_bytes() == width - 1).then(text.str.zfill(width)).otherwise(text)
    form = form.replace(".%f", "%.f")
    if _HOUR.search(form) and not _MINUTE.search(form):
        # The reader wants minutes.
        text, form = text + "@00", form + "@%M"
    absolute = _ABSOLUTE.search(form) is not None
    parsed = text.str.to_datetime(form, time_unit="us", time_zone="UTC" if absolute else None, strict=False)
    return parsed.dt.epoch("us") if absolute else from_local(parsed, zone, second)


def _digits(column: pl.Expr, kind: pl.DataType) -> pl.Expr:
    """A value as text; a whole float without its point."""
    whole = pl.when(column == column.floor()).then(column).cast(pl.Int64, strict=False) if kind.is_float() else column
    return whole.cast(pl.String).str.strip_chars()
