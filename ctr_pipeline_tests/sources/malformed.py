"""The kinds of malformed logs, one line each: how a log is broken, and what becomes of it."""

import gzip
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

START = datetime(2026, 1, 5, tzinfo=UTC)
START_S = 1_767_571_200
HEADER = "id,at,who,price,item,clicked"
SECRET = "secret-person"
"""Part of every id: no message, and no stored row, may have it."""

Files: TypeAlias = Path | Sequence[Path]
Writer: TypeAlias = Callable[[Path], Files]


@dataclass(frozen=True)
class Broken:
    """One kind of malformed input."""

    name: str
    write: Writer
    """Writes the log into a folder, and names its files."""
    refused: str = ""
    """Part of the message; empty where the log is read."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Rows quarantined, by reason."""
    kept: int = 0
    ignored: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the spec that replace those of the base."""


def columns(rows: int = 12, **replaced: Any) -> pl.DataFrame:
    """A log of good rows, one an hour, with some columns replaced; None takes a column out."""
    log: dict[str, Any] = {
        "id": [f"{SECRET}-{n}" for n in range(rows)],
        "at": [START + timedelta(hours=n) for n in range(rows)],
        "who": [f"{SECRET}-{n % 5}" for n in range(rows)],
        "price": [float(n) for n in range(rows)],
        "item": [f"item-{n % 3}" for n in range(rows)],
        "clicked": [n % 2 for n in range(rows)],
    }
    return pl.DataFrame({name: value for name, value in (log | replaced).items() if value is not None}, strict=False)


def parquet(rows: int = 12, **replaced: Any) -> Writer:
    """A Parquet log with some columns replaced."""

    def write(folder: Path) -> Path:
        columns(rows, **replaced).write_parquet(folder / "log.parquet", row_group_size=7)
        return folder / "log.parquet"

    return write


def line(number: int = 0, **replaced: str) -> str:
    """One line of a CSV log."""
    when = f"2026-01-05T{number % 24:02}:00:00Z"
    values = {"id": f"{SECRET}-{number}", "at": when, "who": SECRET, "price": "1", "item": "a", "clicked": "0"}
    return ",".join((values | replaced).values())


GOOD = [line(n) for n in range(12)]
CSV = "\n".join([HEADER, *GOOD]) + "\n"
NDJSON = columns().with_columns(pl.col("at").dt.to_string("iso:strict")).write_ndjson()


def content(name: str, *parts: str | bytes) -> Writer:
    """A file of these lines, or of these bytes."""

    def write(folder: Path) -> Path:
        pieces = [part if isinstance(part, bytes) else part.encode() for part in parts]
        (folder / name).write_bytes(b"\n".join(pieces) if len(pieces) > 1 else pieces[0])
        return folder / name

    return write


def csv(*lines: str | bytes) -> Writer:
    """A CSV log of twelve good lines and then ``lines``."""
    return content("log.csv", HEADER, *GOOD, *lines)


def ndjson(*lines: str | bytes) -> Writer:
    """An NDJSON log of twelve good lines and then ``lines``."""
    return content("log.ndjson", NDJSON.strip(), *lines)


def several(*writers: Writer) -> Writer:
    """A log of several files, each in a folder of its own."""

    def write(folder: Path) -> list[Path]:
        paths: list[Path] = []
        for number, writer in enumerate(writers):
            (folder / f"part-{number}").mkdir()
            written = writer(folder / f"part-{number}")
            paths += [written] if isinstance(written, Path) else written
        return paths

    return write


def damaged(change: Callable[[bytes], bytes]) -> Writer:
    """A large Parquet log whose bytes were changed."""

    def write(folder: Path) -> Path:
        path = folder / "log.parquet"
        columns(3000).write_parquet(path)
        path.write_bytes(change(path.read_bytes()))
        return path

    return write


def link(target: str) -> Writer:
    """A link to ``target`` in the place of a log."""

    def write(folder: Path) -> Path:
        os.symlink(target, folder / "log.parquet")
        return folder / "log.parquet"

    return write


def empty_folder(folder: Path) -> Path:
    """A folder with the name of a file."""
    (folder / "log.parquet").mkdir()
    return folder / "log.parquet"


def folder_that_holds_itself(folder: Path) -> Path:
    """A folder with a log, a link to itself and a linked folder with another log."""
    (folder / "logs").mkdir()
    (folder / "elsewhere").mkdir()
    columns(6).write_parquet(folder / "logs" / "a.parquet")
    columns(6, id=[f"other-{n}" for n in range(6)]).write_parquet(folder / "elsewhere" / "b.parquet")
    os.symlink("..", folder / "logs" / "up")
    os.symlink(folder / "elsewhere", folder / "logs" / "linked")
    return folder / "logs"


UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
HOURS = [START_S + 3600 * n for n in range(12)]
EXPOSED: dict[str, Any] = {
    "impression": {
        "id": "id",
        "time": "at",
        "position": "slot",
        "propensity": "chance",
        "traffic": {"column": "policy", "random": ["uniform"], "production": ["ranker"]},
    }
}
LIMITLESS: dict[str, Any] = {"features": {"dense": [{"name": "price"}]}}
RECEIVED: dict[str, Any] = {"impression": {"id": "id", "time": "at", "ingest_time": "got"}}
AMSTERDAM: dict[str, Any] = {"time_zone": "Europe/Amsterdam"}


def exposed(**replaced: Any) -> Writer:
    """A log with positions, propensities and kinds of traffic."""
    return parquet(**{"slot": [1] * 12, "chance": [0.5] * 12, "policy": ["ranker"] * 12, **replaced})


FILES = [
    Broken("truncated Parquet", damaged(lambda b: b[: len(b) // 2]), "cannot be read as Parquet; it may be truncated"),
    Broken("Parquet with a damaged end", damaged(lambda b: b[:-30] + b"x" * 30), "cannot be read as Parquet"),
    Broken("Parquet with a hole", damaged(lambda b: b[:1000] + b"\0" * (len(b) - 1000)), "cannot be read as Parquet"),
    Broken("text named Parquet", content("log.parquet", CSV), "cannot be read as Parquet; it may be truncated"),
    Broken("Parquet named CSV", content("log.csv", b"PAR1" + b"\0" * 50), "this is a Parquet file"),
    Broken(
        "zip named CSV", content("log.csv", b"PK\3\4" + b"\0" * 50), "this is a zip file, and not text in UTF-8. Unpack"
    ),
    Broken(
        "CSV named NDJSON", content("log.ndjson", CSV), "none of its 13 lines is a row. Expected: a line holds one JSON"
    ),
    Broken("unknown ending", content("log.csv.zst", CSV), "the ending .zst does not determine its format"),
    *(
        Broken(f"empty {name}", content(name, b""), "the file is empty (0 bytes). Write it again")
        for name in ("log.csv", "log.parquet", "log.ndjson")
    ),
    Broken("zero-row Parquet", parquet(0), "no row with a value in `at` (files: log.parquet). Check that the paths"),
    Broken("header only", content("log.csv", HEADER + "\n"), "no row with a value in `at` (files: log.csv)"),
    Broken("header without a line break", content("log.csv", HEADER), "no row with a value in `at`"),
    Broken("blank lines only", content("log.csv", "\n \n\n"), "has only blank lines. Write it again"),
    Broken("wrong separator", content("log.csv", CSV.replace(",", ";")), "its separator here is ','"),
    Broken(
        "tabs for commas", content("log.csv", CSV.replace(",", "\t")), "the first line has none of the declared columns"
    ),
    Broken(
        "no header", content("log.csv", *GOOD), "the first line has none of the declared columns; missing are at, id"
    ),
    Broken("header repeated below", csv(HEADER, line(20)), reasons={"bad_time": 1}, kept=13),
    Broken(
        "duplicated header",
        content("log.csv", CSV.replace("clicked", "clicked,price", 1)),
        "column `price` is there 2 times",
    ),
    Broken("ragged lines", csv("a,b", line(20) + ",7", line(21)), reasons={"malformed_row": 2}, kept=13),
    Broken(
        "a separator after each line",
        content("log.csv", HEADER, *(good + "," for good in GOOD)),
        "none of its 12 lines is a row. Expected: a line has 6 fields, as many as the header; this one has 7",
    ),
    Broken("unclosed quote", csv(line(20, id='"x'), *GOOD), "a quote is opened and never closed"),
    Broken(
        "unclosed quote in a large file", csv(line(20, id='"x'), *GOOD * 16_000), "a quote is opened and never closed"
    ),
    Broken("quote inside a text", csv(line(20, item='5" pipe'), line(21)), kept=14),
    Broken("byte order mark", content("log.csv", b"\xef\xbb\xbf" + CSV.encode()), kept=12),
    Broken(
        "Latin-1 in a value", csv(line(20, item="caf\xe9").encode("latin-1")), reasons={"malformed_row": 1}, kept=12
    ),
    Broken(
        "Latin-1 in the header",
        content("log.csv", CSV.replace("item", "it\xe9m").encode("latin-1")),
        "is not UTF-8. Convert",
    ),
    Broken("zero characters in a value", csv(line(20, item="a\0b")), reasons={"malformed_row": 1}, kept=12),
    Broken("zero characters at the end", csv(b"\0" * 100), reasons={"malformed_row": 1}, kept=12),
    Broken("UTF-16 with a mark", content("log.csv", CSV.encode("utf-16")), "this is text in UTF-16"),
    Broken("UTF-16 without a mark", content("log.csv", CSV.encode("utf-16-le")), "zero bytes like UTF-16"),
    Broken("NDJSON in UTF-16", content("log.ndjson", NDJSON.encode("utf-16")), "this is text in UTF-16"),
    Broken("lines end in CR LF", content("log.csv", CSV.replace("\n", "\r\n")), kept=12),
    Broken("lines end in CR", content("log.csv", CSV.replace("\n", "\r")), kept=12),
    Broken("truncated gzip", content("log.csv.gz", gzip.compress(CSV.encode())[:-20]), "is no complete gzip file"),
    Broken(
        "gzip with rubbish behind it",
        content("log.csv.gz", gzip.compress(CSV.encode()) + b"rubbish"),
        "no complete gzip",
    ),
    Broken(".gz that is no gzip", content("log.ndjson.gz", NDJSON), "ends in .gz, but is no complete gzip file"),
    Broken("gzip without .gz", content("log.csv", gzip.compress(CSV.encode())), "this is a gzip file"),
    Broken(
        "broken NDJSON lines",
        ndjson('{"id": "x", "at"', "[1, 2]", "null", "7", "{} {}"),
        reasons={"malformed_row": 5},
        kept=12,
    ),
    Broken(
        "a JSON array",
        content("log.ndjson", "[" + NDJSON.strip().replace("\n", ",") + "]"),
        "a JSON array begins in row 1",
    ),
    Broken("arrays for objects", content("log.ndjson", '["x", 2]\n' * 12), "none of its 12 lines is a row"),
    Broken("NaN in NDJSON", ndjson('{"id": "x", "price": NaN}'), reasons={"malformed_row": 1}, kept=12),
    Broken(
        "nested value in NDJSON", ndjson('{"id": "x", "price": {"euro": 3}}'), reasons={"malformed_row": 1}, kept=12
    ),
    Broken("list of ids in NDJSON", ndjson('{"id": ["x"]}', '{"id": []}'), reasons={"malformed_row": 2}, kept=12),
    Broken("half a character in NDJSON", ndjson('{"id": "\\ud800"}'), reasons={"malformed_row": 1}, kept=12),
    Broken("very deep NDJSON", ndjson('{"x": ' + "[" * 5000 + "]" * 5000 + "}"), reasons={"malformed_row": 1}, kept=12),
    Broken("missing column", parquet(price=None), "there is no column `price`, which `column of feature price` names"),
    Broken("misspelt column", parquet(price=None, Prices=[1] * 12), "Did you mean `Prices`?"),
    Broken("misspelt key", content("log.ndjson", NDJSON.replace("price", "prize")), "no line has the key `price`"),
    Broken(
        "column from half-way on",
        several(parquet(price=None), parquet()),
        "part-0/log.parquet: there is no column `price`",
    ),
    Broken(
        "key from half-way on",
        several(content("a.ndjson", NDJSON.replace('"price"', '"cost"').replace(SECRET, "old")), ndjson()),
        kept=24,
    ),
    Broken("folder for a file", empty_folder, "no log file in this folder; looked for .parquet"),
    Broken("folder that holds itself", folder_that_holds_itself, kept=12),
    Broken("link in a circle", link("log.parquet"), "this link leads to no file (Too many levels of symbolic links)"),
    Broken("link to nothing", link("gone.parquet"), "this link leads to no file (No such file"),
    Broken("no such file", lambda folder: folder / "log.csv", "no such file or folder"),
    Broken("a name that is too long", lambda folder: folder / ("x" * 300), "no such file or folder"),
    Broken("device for a file", lambda _: Path("/dev/null"), "this is a device, pipe or socket"),
]

VALUES = [
    *(
        Broken(f"time in {unit}", parquet(at=[hour * factor for hour in HOURS]), f"set `impression.time_unit: {unit}`")
        for unit, factor in UNITS.items()
        if unit != "us"
    ),
    Broken("one time in another unit", parquet(at=[HOURS[0], *(h * 10**6 for h in HOURS[1:])]), reasons={"bad_time": 1}, kept=11),
    Broken("time with the name of a zone", csv(line(20, at="2026-01-05 10:00 Europe/Paris")), reasons={"bad_time": 1}, kept=12),
    Broken("American dates", parquet(at=["01/05/2026 10:00"] * 12), "none of the 12 values of column `at` is a usable time"),
    Broken("local times that clocks skip", parquet(at=["2025-03-30T02:30:00"] * 12), kept=12, spec=AMSTERDAM),
    Broken("times as floats, some NaN", parquet(at=[float("nan")] + [h * 1e6 for h in HOURS[1:]]), reasons={"missing_time": 1}, kept=11),
    Broken("infinite time", parquet(at=[float("inf")] + [h * 1e6 for h in HOURS[1:]]), reasons={"bad_time": 1}, kept=11),
    Broken("negative time", parquet(at=[-1] + [h * 10**6 for h in HOURS[1:]]), reasons={"bad_time": 1}, kept=11),
    Broken("times beyond 64 bits", parquet(at=pl.Series([2**64 - 1] + [h * 10**6 for h in HOURS[1:]], dtype=pl.UInt64)), reasons={"bad_time": 1}, kept=11),
    *(
        Broken(f"year {year}", csv(line(20, at=f"{year}-06-01T00:00:00Z")), reasons={"bad_time": 1}, kept=12)
        for year in ("0001", "1970", "9999", "10000", "-0001")
    ),
    Broken("the year 2150", csv(line(20, at="2150-06-01")), reasons={"future_time": 1}, kept=12),
    Broken("hour 24", csv(line(20, at="2026-01-05T24:00:00Z")), reasons={"bad_time": 1}, kept=12),
    Broken("times of day", parquet(at=[time_of_day(1)] * 12), "column `at` has type Time, but the spec uses it for times"),
    Broken("a Boolean for a time", parquet(at=[True] * 12), "column `at` has type Boolean, but the spec uses it for times"),
    Broken("ingest time in the far future", parquet(got=[date(2150, 1, 1)] + [START] * 11, at=[START] * 12), reasons={"future_time": 1}, kept=11, spec=RECEIVED),
    Broken("time long after its ingest", parquet(got=[START] * 12, at=[START + timedelta(days=1)] + [START] * 11), reasons={"future_time": 1}, kept=11, spec=RECEIVED),
    Broken("missing ids", parquet(id=[None, "", "  ", "\u00a0\t", *range(8)]), reasons={"missing_id": 4}, kept=8),
    Broken("id of a million characters", parquet(id=["x" * 10**6 + str(n) for n in range(12)]), kept=12),
    Broken("one id in two Unicode forms", parquet(id=["caf\u00e9", "cafe\u0301", *range(10)]), kept=12),
    Broken("id twice on a day", parquet(id=["a", "a", *range(10)]), reasons={"duplicate_id": 1}, kept=11),
    Broken("id twice on two days", parquet(30, id=["a", *range(28), "a"]), reasons={"duplicate_id": 1}, kept=29),
    Broken("id in two files", several(parquet(), parquet()), reasons={"duplicate_id": 12}, kept=12),
    Broken("ids as numbers and as text", several(parquet(id=range(12)), csv(line(20, id="3"))), reasons={"duplicate_id": 1}, kept=24),
    Broken("ids as rounded floats", parquet(id=[2.0**60 + n for n in range(12)]), "from 9007199254740992 on a Float64 does not"),
    Broken("one id as a rounded float", parquet(id=[2.0**60, *range(11)]), reasons={"inexact_id": 1}, kept=11),
    Broken("users as rounded floats", parquet(who=pl.Series([3e7] + [1.0] * 11, dtype=pl.Float32)), reasons={"inexact_id": 1}, kept=11),
    Broken("categories as rounded floats", parquet(item=[1e300] + [1.0] * 11), reasons={"inexact_id": 1}, kept=11),
    Broken("ids as rounded floats in text", csv(*(line(n, id=f"1.23456789012345{n:02}e+17") for n in range(12))), reasons={"inexact_id": 12}, kept=12),
    Broken("ids as bytes", parquet(id=[bytes([255, n]) for n in range(12)]), "row has other bytes (write binary ids as hex text)"),
    Broken("one category as bytes", parquet(item=[b"\xff", *[b"a"] * 11]), reasons={"malformed_row": 1}, kept=11),
    Broken("ids as lists", parquet(id=[["x"]] * 12), "column `id` has type List(String), but the spec uses it for text"),
    Broken("positions 0 and -1", exposed(slot=[0, -1] + [1] * 10), reasons={"bad_position": 2}, kept=10, spec=EXPOSED),
    Broken("position 1.5", exposed(slot=[1.5] + [1.0] * 11), reasons={"bad_position": 1}, kept=11, spec=EXPOSED),
    Broken("position in words", exposed(slot=["top"] * 12), "none of the 12 values of column `slot` can be used (such as 'top')", spec=EXPOSED),
    Broken("unknown traffic", exposed(policy=["holdout"] * 2 + [None] + ["ranker"] * 9), kept=12, spec=EXPOSED),
    Broken("no known traffic", exposed(policy=["Ranker"] * 12), "Did you mean `Ranker`? Correct `impression.traffic`", spec=EXPOSED),
    Broken("bad propensities", exposed(chance=[0.0, -0.1, 1.1, float("inf")] + [1.0] * 8), reasons={"bad_propensity": 4}, kept=8, spec=EXPOSED),
    Broken("infinite numbers", parquet(price=[float("inf"), float("-inf")] + [1.0] * 10), reasons={"non_finite": 2}, kept=10, spec=LIMITLESS),
    Broken("numbers beyond single precision", parquet(price=[1e39, -1e300] + [1.0] * 10), reasons={"non_finite": 2}, kept=10, spec=LIMITLESS),
    Broken("numeric overflow", csv(line(20, price="1e400")), reasons={"non_finite": 1}, kept=12),
    Broken("decimal commas", parquet(price=["1,5"] * 12), "none of the 12 values of column `price` can be used (such as '1,5')"),
    Broken("thousands and units", csv(*(line(n, price=p) for n, p in enumerate(('"1,000"', "1'000", "1_000", "5%", "$5", "0x1F"), 20))), reasons={"not_a_number": 6}, kept=12),
    Broken("outside its limits", parquet(price=[-1, 1001] + [1] * 10), reasons={"out_of_range": 2}, kept=10),
    Broken("a number that became text", several(parquet(), parquet(id=range(12), price=["1"] * 11 + ["?"])), reasons={"not_a_number": 1}, kept=23),
    Broken("a number that became a date", parquet(price=[date(2026, 1, 5)] * 12), "column `price` has type Date, but the spec uses it for numbers"),
    Broken("a number that became a list", parquet(price=[[1.0]] * 12), "column `price` has type List(Float64), but the spec uses it"),
    Broken("an object for a category", parquet(item=[{"a": 1}] * 12), "column `item` has type Struct"),
    Broken("labels 2, yes and -1", parquet(clicked=["2", "yes", "-1"] + ["1"] * 9), reasons={"bad_label": 3}, kept=9),
    Broken("labels in words", parquet(clicked=["yes", "no"] * 6), "none of the 12 values of column `clicked` can be used (such as 'yes')"),
]  # fmt: skip
