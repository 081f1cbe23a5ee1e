"""One content written as CSV in any dialect, as NDJSON and as Parquet, with what reading it must give.

A value of the content is a cell: how Parquet stores it, how text files write it, and what it means. What a format cannot
express is left out of the content:

- a separator or a line break in a CSV file without quotes; a zero character; a line break in the first column;
- one of the declared ``null_values`` as a text, which Parquet would keep;
- NaN and infinity as a category, which text files hold as words;
- floats below 0.0001 as a category, and decimals with trailing zeros: programs spell them differently;
- decimals of more than 15 digits with a fraction as a category: as numbers of JSON, and from 2**53 on in any text, they
  are floats.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import polars as pl
from hypothesis import strategies as st

from ctr_pipeline.serving.request_values import category_text


class Cell(NamedTuple):
    """One value of a log."""

    stored: Any
    """What a Parquet column holds."""
    text: str | None
    """What a CSV file holds; None where the value is missing."""
    json: str
    """What an NDJSON file holds."""
    meaning: Any
    """The text, number or instant that must come of it; None where it is missing."""
    reason: str | None = None
    """Why the row must be set aside, if it must."""


@dataclass(frozen=True)
class Written:
    """A column of a log: its type in Parquet, and its values."""

    kind: Any
    cells: list[Cell]


@dataclass(frozen=True)
class Dialect:
    """How text files are written."""

    separator: str
    quote: str
    escape: str
    quotes_all: bool
    null_values: tuple[str, ...]
    line_end: str
    ends_with_line: bool
    packed: bool
    byte_order_mark: bool
    ascii_json: bool
    leaves_out_nulls: bool

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the log in the spec."""
        declared: dict[str, Any] = {"separator": self.separator, "null_values": list(self.null_values)}
        declared |= {"escape": self.escape} if self.escape else {}
        default = "" if self.separator == "\t" and not self.escape else '"'
        return declared | ({"quote": self.quote} if self.quote != default else {})

    @property
    def unwritable(self) -> str:
        """Characters that no text of the content may have."""
        return "\0" if self.quote else f"\0\r\n{self.separator}"


@st.composite
def dialects(draw: st.DrawFn) -> Dialect:
    """Every declared way to write text files."""
    quote = draw(st.sampled_from(['"', '"', '"', "'", "`", ""]))
    return Dialect(
        separator=draw(st.sampled_from([",", ";", "|", "\t"])),
        quote=quote,
        escape=draw(st.sampled_from(["", "", "\\", "^"])) if quote else "",
        quotes_all=draw(st.booleans()),
        null_values=draw(st.sampled_from([("",), ("", "NA"), ("\\N",), ("-", "null")])),
        line_end=draw(st.sampled_from(["\n", "\n", "\r\n", "\r"])),
        ends_with_line=draw(st.booleans()),
        packed=draw(st.booleans()),
        byte_order_mark=draw(st.booleans()),
        ascii_json=draw(st.booleans()),
        leaves_out_nulls=draw(st.booleans()),
    )


MISSING = Cell(None, None, "null", None)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ODD = ["", " ", "007", "1e5", "3.0", "-0", "+3", " TRUE", "False", '"', "'", "''", '""', "\\", 'a"b', 'a" b', "a\\", '\\"',
        "\\N", "NA", "nan", "null", "NULL", "None", "1.10", "é", "e\u0301", "\u00a0", "\u00a0x", "\ufeff", "\u2028", "\x85",
        "\x1c", "#", "=1", "-", "🙂", "a\nb", "\n", "a\r\nb", "\r", "{}", "[1]", "1,5", "x;y", "x|y", "x\ty", "\t3.0 "]  # fmt: skip


def texts(dialect: Dialect, first: bool = False) -> st.SearchStrategy[Cell]:
    """Texts of all kinds; those of the first column have no line breaks."""
    unwritable = dialect.unwritable + ("\r\n" if first else "")
    free = st.text(st.characters(codec="utf-8", exclude_characters=unwritable), max_size=5)
    sharp = st.text(
        st.sampled_from([c for c in "a\"'\\^` ,;|\t\r\n0.é" if c not in unwritable]), min_size=1, max_size=5
    )
    odd = st.sampled_from([text for text in _ODD if not set(text) & set(unwritable)])

    def cell(text: str) -> Cell:
        return Cell(
            text, text, json.dumps(text, ensure_ascii=dialect.ascii_json), category_text(text, "here"), rounded(text)
        )

    return (free | sharp | odd).filter(lambda text: text not in dialect.null_values).map(cell)


def rounded(text: str) -> str | None:
    """The reason to set a text aside that is a float with less digits than it stands for, such as 1e+20."""
    number = text.strip(" \t\r\n\v\f").lower()
    spelt = number.lstrip("+-")
    if not spelt.isascii() or not spelt[:1].isdigit() or not ("e+" in spelt or ("." in spelt and "e" in spelt)):
        return None
    try:
        return "inexact_id" if abs(float(number)) >= 2**53 else None
    except ValueError:
        return None


def _plain(stored: Any, text: str, as_json: str | None = None, reason: str | None = None) -> Cell:
    return Cell(stored, text, text if as_json is None else as_json, category_text(stored, "here"), reason)


def integers(low: int, high: int) -> st.SearchStrategy[Cell]:
    """Whole numbers, the largest ones often."""
    edges = st.sampled_from(
        [n for n in (0, 1, -1, 2**53 - 1, 2**53, 2**53 + 1, low, high - 1, high) if low <= n <= high]
    )
    return (edges | st.integers(low, high)).map(lambda n: _plain(n, str(n)))


def floats() -> st.SearchStrategy[Cell]:
    """Floats as categories; from 2**53 on they are no categories."""
    large = st.sampled_from([2.0**53, 1.5e16, 1e18, 1.2345678901234567e18])
    usual = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) >= 1e-3)
    whole = st.integers(-(2**53) + 1, 2**53 - 1).map(float)
    return (usual | whole | large).map(
        lambda x: _plain(x, repr(x), None, "inexact_id" if abs(x) >= 2**53 else None)
    ) | st.just(Cell(float("nan"), None, "null", None))


def decimals(scale: int) -> st.SearchStrategy[Cell]:
    """Decimals of up to 30 digits, or 15 with a fraction, written without trailing zeros."""
    largest = 10**15 if scale else 10**30

    def cell(digits: int) -> Cell:
        value = Decimal(digits).scaleb(-scale)
        text = f"{value:f}"
        return _plain(value, text.rstrip("0").rstrip(".") if "." in text else text)

    return (st.integers(-largest, largest) | st.integers(-999_999, 999_999)).map(cell)


def booleans() -> st.SearchStrategy[Cell]:
    """True and false in their spellings."""
    spelt = st.sampled_from([(True, "true"), (True, "True"), (True, "TRUE"), (False, "false"), (False, "FALSE")])
    return spelt.map(lambda pair: _plain(pair[0], pair[1], pair[1].lower()))


def calendar_days() -> st.SearchStrategy[Cell]:
    """Dates as categories."""
    return st.dates(date(1900, 1, 1), date(2199, 1, 1)).map(
        lambda day: _plain(day, day.isoformat(), f'"{day.isoformat()}"')
    )


def missing_or(cells: st.SearchStrategy[Cell]) -> st.SearchStrategy[Cell]:
    """Values, some of them missing."""
    return st.integers(0, 4).flatmap(lambda n: st.just(MISSING) if n == 0 else cells)


@st.composite
def categories(draw: st.DrawFn, dialect: Dialect, rows: int, first: bool = False, exact: bool = False) -> Written:
    """A column of ids or categories of one of the types that logs have; ``exact`` without dates and truth values."""
    whole = {
        pl.Int64: integers(-(2**63), 2**63 - 1),
        pl.UInt64: integers(0, 2**64 - 1),
        pl.Int32: integers(-(2**31), 2**31 - 1),
        pl.Float64: floats(),
        pl.Decimal(38, 0): decimals(0),
    }
    other = {pl.Decimal(38, 3): decimals(3), pl.Boolean: booleans(), pl.Date: calendar_days()}
    numbers: dict[Any, st.SearchStrategy[Cell]] = whole if exact else whole | other
    as_text = texts(dialect, first)
    kind = draw(st.sampled_from([pl.String, pl.String, pl.Categorical, pl.Binary, *numbers]))
    cells = numbers.get(kind, as_text)
    return Written(kind, draw(st.lists(missing_or(cells), min_size=rows, max_size=rows)))


def measure(stored: Any, text: str, as_json: str | None = None) -> Cell:
    """A value of a dense feature."""
    value = float(stored)
    known = None if value != value else value
    reason = "non_finite" if known is not None and abs(known) > 3.4e38 else None
    return Cell(stored, text, text if as_json is None else as_json, known, reason)


@st.composite
def numbers(draw: st.DrawFn, rows: int) -> Written:
    """A column of a dense feature."""
    spelt = [("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-inf")]
    words = st.sampled_from(spelt).map(lambda pair: measure(float(pair[0]), pair[1], f'"{pair[1]}"'))
    finite = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: measure(x, repr(x)))
    kinds: dict[Any, st.SearchStrategy[Cell]] = {
        pl.Float64: finite | finite | finite | words,
        pl.Int64: st.integers(-(2**63), 2**63 - 1).map(lambda n: measure(n, str(n))),
        pl.UInt64: st.integers(0, 2**64 - 1).map(lambda n: measure(n, str(n))),
        pl.Decimal(38, 4): st.integers(-(10**30), 10**30).map(
            lambda n: measure(Decimal(n).scaleb(-4), f"{Decimal(n).scaleb(-4):f}")
        ),
        pl.Boolean: booleans().map(lambda cell: measure(cell.stored, cell.text or "", cell.json)),
    }
    kind = draw(st.sampled_from(list(kinds)))
    return Written(kind, draw(st.lists(missing_or(kinds[kind]), min_size=rows, max_size=rows)))


@st.composite
def labels(draw: st.DrawFn, rows: int) -> Written:
    """A column of 0 and 1, with a few other values."""
    kinds: dict[Any, list[Cell]] = {
        pl.Int64: [Cell(n, str(n), str(n), n) for n in (0, 1)] + [Cell(2, "2", "2", None, "bad_label")],
        pl.Float64: [Cell(x, repr(x), repr(x), int(x)) for x in (0.0, 1.0, -0.0)]
        + [Cell(0.5, "0.5", "0.5", None, "bad_label"), Cell(float("nan"), "nan", '"nan"', None)],
        pl.Boolean: [Cell(b, text, text.lower(), int(b)) for b, text in ((True, "True"), (False, "false"))],
        pl.String: [Cell(text, text, f'"{text}"', n) for text, n in ((" 1", 1), ("0.0", 0), ("true", 1))]
        + [Cell("yes", "yes", '"yes"', None, "bad_label"), Cell(" ", " ", '" "', None)],
    }
    kind = draw(st.sampled_from(list(kinds)))
    cells = missing_or(st.sampled_from(kinds[kind]))
    return Written(kind, draw(st.lists(cells, min_size=rows, max_size=rows)))


def microseconds(moment: datetime) -> int:
    """Since 1970 UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


@st.composite
def times(draw: st.DrawFn, rows: int, zone: str) -> Written:
    """A column of times with and without a zone, in each type that logs have."""
    moments = st.datetimes(datetime(2026, 1, 5), datetime(2026, 4, 5))
    blank, digits = draw(st.sampled_from(["T", " "])), draw(st.sampled_from(["auto", "microseconds"]))
    unit = draw(st.sampled_from(["us", "ms", "ns"]))
    step = timedelta(microseconds=1000 if unit == "ms" else 1)

    def local(moment: datetime) -> Cell:
        moment = moment.min + (moment - moment.min) // step * step
        # Of a local time that occurs twice the first is meant; one that is skipped has the offset from before.
        instant = microseconds(moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC))
        text = moment.isoformat(blank, digits)
        return Cell(moment, text, f'"{text}"', instant)

    def absolute(moment: datetime) -> Cell:
        moment = moment.min + (moment - moment.min) // step * step
        aware = moment.replace(tzinfo=UTC).astimezone(ZoneInfo(abroad))
        text = aware.isoformat(blank, digits) if abroad != "UTC" else f"{moment.isoformat(blank, digits)}Z"
        return Cell(aware, text, f'"{text}"', microseconds(aware))

    def whole(moment: datetime) -> Cell:
        instant = microseconds(moment.replace(tzinfo=UTC))
        return Cell(instant, str(instant), str(instant), instant)

    def day(moment: datetime) -> Cell:
        cell = local(moment.replace(hour=0, minute=0, second=0, microsecond=0))
        text = moment.date().isoformat()
        return Cell(moment.date(), text, f'"{text}"', cell.meaning)

    def spelt(moment: datetime) -> Cell:
        cell = draw(st.sampled_from([local, absolute, whole, day]))(moment)
        return cell._replace(stored=cell.text, json=json.dumps(cell.text))

    abroad = draw(st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"]))
    kinds: list[tuple[Any, Any]] = [
        (pl.Datetime(unit), local),
        (pl.Datetime(unit, abroad), absolute),
        (pl.Int64, whole),
        (pl.Date, day),
        (pl.String, spelt),
    ]
    kind, make = draw(st.sampled_from(kinds))
    cells = moments.map(make)
    if kind == pl.String:
        cells |= st.just(Cell("?", "?", '"?"', None, "bad_time"))
    return Written(kind, draw(st.lists(missing_or(cells), min_size=rows, max_size=rows)))


Log = Mapping[str, Written]


def write_parquet(log: Log, path: Path, dialect: Dialect) -> None:
    """The log as a Parquet file with small row groups."""
    columns = [
        pl.Series(name, [cell.stored for cell in written.cells], dtype=pl.String, strict=False).cast(written.kind)
        if written.kind in (pl.Categorical, pl.Binary)
        else pl.Series(name, [cell.stored for cell in written.cells], dtype=written.kind)
        for name, written in log.items()
    ]
    pl.DataFrame(columns).write_parquet(path, row_group_size=3)
    if dialect.packed:
        path.write_bytes(gzip.compress(path.read_bytes()))


def write_ndjson(log: Log, path: Path, dialect: Dialect, torn: Sequence[int] = ()) -> None:
    """The log as a file of JSON objects, with lines that are none before the rows ``torn``."""
    # A key that no line has is taken for a misspelt one.
    needed = {name for name, written in log.items() if all(cell.json == "null" for cell in written.cells)}
    lines = []
    for row in _rows(log):
        kept = {
            name: cell.json
            for name, cell in row.items()
            if cell.json != "null" or name in needed or not dialect.leaves_out_nulls
        }
        pairs = (f"{json.dumps(name, ensure_ascii=dialect.ascii_json)}: {value}" for name, value in kept.items())
        lines.append("{" + ", ".join(pairs) + "}")
    _write(_with_torn(lines, torn, '["torn"]'), path, dialect, "\r\n" if dialect.line_end == "\r\n" else "\n")


def write_csv(log: Log, path: Path, dialect: Dialect, torn: Sequence[int] = ()) -> None:
    """The log as a text file in ``dialect``, with lines of too many fields before the rows ``torn``."""
    null = dialect.null_values[0]
    lines = [[cell.text for cell in row.values()] for row in _rows(log)]
    written = [
        dialect.separator.join(_field(null if text is None else text, dialect) for text in line)
        for line in [list(log), *lines]
    ]
    _write([written[0], *_with_torn(written[1:], torn, dialect.separator * len(log))], path, dialect, dialect.line_end)


def _field(text: str, dialect: Dialect) -> str:
    quote, escape = dialect.quote, dialect.escape
    special = {dialect.separator, quote, escape, "\r", "\n"} - {""}
    if not quote or not (dialect.quotes_all or special & set(text)):
        return text
    inner = (
        text.replace(escape, escape * 2).replace(quote, escape + quote) if escape else text.replace(quote, quote * 2)
    )
    return quote + inner + quote


def _rows(log: Log) -> list[dict[str, Cell]]:
    return [dict(zip(log, row, strict=True)) for row in zip(*(written.cells for written in log.values()), strict=True)]


def _with_torn(lines: Sequence[str], torn: Sequence[int], line: str) -> list[str]:
    found = []
    for number, row in enumerate(lines):
        found += [line] * torn.count(number) + [row]
    return found


def _write(lines: Sequence[str], path: Path, dialect: Dialect, line_end: str) -> None:
    data = (line_end.join(lines) + (line_end if dialect.ends_with_line else "")).encode()
    data = b"\xef\xbb\xbf" * dialect.byte_order_mark + data
    path.write_bytes(gzip.compress(data) if dialect.packed else data)
