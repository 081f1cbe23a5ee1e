"""CSV and NDJSON files in batches, every value as text, malformed lines set apart by row number.

Memory stays at a few blocks whatever the size of the file. pyarrow splits CSV, as it reports each line that has too
many or too few fields; polars decodes JSON.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.files import LogFile

ROW = "__row"
"""Column with the 0-based row number in the file; the header and blank lines are not counted."""

_BLOCK_BYTES = 8 << 20
_LONGEST_CSV_LINE = 64 << 20


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Some consecutive rows of a file."""

    frame: pl.DataFrame
    """ROW and the wanted columns as text; missing and empty values are null."""
    malformed: pl.DataFrame
    """Columns ROW and ``rule``: the lines that are no rows, and what a line should be."""


MALFORMED = pl.Schema({ROW: pl.Int64, "rule": pl.String})


def utf8(data: pl.Series) -> pl.Series:
    """Bytes as text; null where they are not UTF-8."""
    try:
        return data.cast(pl.String)
    except pl.exceptions.PolarsError:
        if len(data) == 1:
            return pl.Series(data.name, [None], dtype=pl.String)
        # polars refuses the whole column: halve it until only the broken values are refused.
        half = len(data) // 2
        return pl.concat([utf8(data[:half]), utf8(data[half:])])


def open_binary(file: LogFile) -> IO[bytes]:
    """The file's bytes, decompressed."""
    return gzip.open(file.path) if file.compressed else file.path.open("rb")  # type: ignore[return-value]


def csv_batches(file: LogFile, columns: Sequence[str]) -> Iterator[TextBatch]:
    """The rows of a CSV file whose header has ``columns``.

    Raises:
        SourceError: a quote is never closed, so that a part of the file is no rows.
    """
    invalid: list[tuple[int, str]] = []

    def set_apart(row: arrow_csv.InvalidRow) -> str:
        rule = f"a line has {row.expected_columns} fields, as many as the header; this one has {row.actual_columns}"
        # pyarrow counts the header as row 1.
        invalid.append((row.number - 2, rule))
        return "skip"

    next_row = 0
    with open_binary(file) as stream, pa.PythonFile(stream, mode="r") as source:
        for batch in _csv_reader(file, columns, source, set_apart):
            skipped = np.array([row for row, _ in invalid], dtype=np.int64)
            rows = _numbers(next_row, batch.num_rows, skipped)
            # A line set apart after this batch's last row is reported with the next batch.
            next_row = int(rows[-1]) + 1 if len(rows) else next_row
            passed = [entry for entry in invalid if entry[0] < next_row]
            invalid[:] = [entry for entry in invalid if entry[0] >= next_row]
            frame = pl.DataFrame(pl.from_arrow(batch)).with_columns(pl.Series(ROW, rows))
            yield _decoded(frame, columns, passed)
    yield _decoded(pl.DataFrame(schema={**dict.fromkeys(columns, pl.Binary), ROW: pl.Int64}), columns, invalid)
    _check_quotes(file, records=next_row + len(invalid) + 1)


def _csv_reader(
    file: LogFile, columns: Sequence[str], source: pa.NativeFile, set_apart: Callable[[arrow_csv.InvalidRow], str]
) -> arrow_csv.CSVStreamingReader:
    return arrow_csv.open_csv(
        source,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=arrow_csv.ParseOptions(
            delimiter=file.separator, newlines_in_values=True, invalid_row_handler=set_apart
        ),
        convert_options=arrow_csv.ConvertOptions(
            # Bytes, not text: one line in another encoding must not fail the file.
            column_types=dict.fromkeys(columns, pa.binary()),
            include_columns=list(columns),
            null_values=list({"", *file.null_values}),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def _check_quotes(file: LogFile, records: int) -> None:
    """Refuses a file whose last record swallows lines through a quote that is never closed."""
    quotes, lines, previous = 0, 0, b"\n"
    with open_binary(file) as stream:
        while block := stream.read(_BLOCK_BYTES):
            quotes += block.count(b'"')
            lines += len(re.findall(rb"[^\r\n]+", block)) - (previous not in b"\r\n" and block[:1] not in b"\r\n")
            previous = block[-1:]
    # Quotes come in pairs, and a quote inside an unquoted text leaves one record a line.
    if quotes % 2 and lines > records:
        raise SourceError(
            f"{file.path}: a quote is opened and never closed, so the lines after it are unreadable ({records - 1} "
            f"rows were found in {lines - 1} lines). Close the quote, or double it where it is part of a text."
        )


def csv_header(file: LogFile) -> list[str]:
    """The names in the first line of a CSV file."""
    with open_binary(file) as stream:
        line = stream.readline(_LONGEST_CSV_LINE)
    if not line.strip():
        return []
    table = arrow_csv.read_csv(
        pa.BufferReader(line),
        parse_options=arrow_csv.ParseOptions(delimiter=file.separator),
    )
    return list(table.column_names)


def ndjson_batches(file: LogFile, columns: Sequence[str]) -> Iterator[TextBatch]:
    """The objects of an NDJSON file, one a line; a key that a line lacks is a missing value."""
    next_row = 0
    for lines in _line_blocks(file):
        present = lines.filter((lines.str.len_bytes() > 0).fill_null(True))
        rows = pl.Series(ROW, np.arange(next_row, next_row + len(present)))
        next_row += len(present)
        yield _objects(pl.DataFrame([rows, present.alias("line")]), columns, file.null_values)


def ndjson_keys(file: LogFile, limit: int = 100) -> list[str]:
    """The keys of the first lines of an NDJSON file."""
    keys: dict[str, None] = {}
    with open_binary(file) as stream:
        for _, line in zip(range(limit), stream, strict=False):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                keys.update(dict.fromkeys(content))
    return list(keys)


def _numbers(start: int, count: int, skipped: np.ndarray) -> np.ndarray:
    """The first ``count`` whole numbers from ``start`` on that are not in ``skipped`` (ascending)."""
    numbers = np.arange(start, start + count + len(skipped), dtype=np.int64)
    return np.setdiff1d(numbers, skipped, assume_unique=True)[:count]


def _decoded(frame: pl.DataFrame, columns: Sequence[str], invalid: Sequence[tuple[int, str]]) -> TextBatch:
    """Bytes → text; rows with bytes that are not UTF-8 are set apart too."""
    text = frame.with_columns(utf8(frame[column]) for column in columns)
    broken = pl.any_horizontal(
        [frame[column].is_not_null() & text[column].is_null() for column in columns] or [pl.lit(False)]
    )
    text = text.with_columns(broken.alias("__broken"))
    undecodable = text.filter("__broken").select(ROW, rule=pl.lit("text is encoded as UTF-8; this line is not"))
    malformed = pl.concat([pl.DataFrame(list(invalid), schema=MALFORMED, orient="row"), undecodable.cast(MALFORMED)])
    return TextBatch(text.filter(~pl.col("__broken")).drop("__broken"), malformed)


def _line_blocks(file: LogFile) -> Iterator[pl.Series]:
    """Lines without their ends, some megabytes at a time; null where a line is not UTF-8."""
    with open_binary(file) as stream:
        rest = stream.read(3)
        rest = b"" if rest == b"\xef\xbb\xbf" else rest
        while block := stream.read(_BLOCK_BYTES):
            complete, newline, tail = (rest + block).rpartition(b"\n")
            rest = tail
            if newline:
                yield _lines(complete)
        if rest:
            yield _lines(rest)


def _lines(block: bytes) -> pl.Series:
    return utf8(pl.Series(block.split(b"\n"), dtype=pl.Binary)).str.strip_chars()


def _objects(lines: pl.DataFrame, columns: Sequence[str], null_values: Sequence[str]) -> TextBatch:
    good = lines
    decoded = _decode(good["line"], columns)
    malformed = pl.DataFrame(schema=MALFORMED)
    if decoded is None:
        # Some line is no object: look at each one. An object's text starts with a brace; valid JSON has a root.
        valid = pl.col("line").str.starts_with("{") & pl.col("line").str.json_path_match("$").is_not_null()
        good = lines.filter(valid.fill_null(False))
        malformed = lines.filter(~valid.fill_null(False)).select(
            ROW, rule=pl.lit("a line holds one JSON object in UTF-8; this one does not")
        )
        decoded = _decode(good["line"], columns)
    if decoded is None:
        # A wanted key holds a list or object somewhere; its JSON text stands for it.
        decoded = good.select(
            pl.col("line").str.json_path_match(f"$[{json.dumps(column)}]").alias(column) for column in columns
        )
    # 3.0 and 3 are the same JSON number, and writers differ in which they choose.
    frame = decoded.with_columns(
        pl.when(~pl.col(column).is_in(["", *null_values]))
        .then(pl.col(column).str.replace(r"^(-?\d+)\.0$", "${1}"))
        .alias(column)
        for column in columns
    )
    return TextBatch(frame.with_columns(good[ROW]), malformed.cast(MALFORMED))


def _decode(lines: pl.Series, columns: Sequence[str]) -> pl.DataFrame | None:
    """The wanted keys of lines that are all flat JSON objects; None when one is not."""
    fields = pl.Struct(dict.fromkeys(columns, pl.String))
    try:
        structs = lines.str.json_decode(dtype=fields)
    except pl.exceptions.PolarsError:
        return None
    # `null` decodes to no object at all, as does a line that is not UTF-8.
    return None if structs.null_count() else structs.struct.unnest()
