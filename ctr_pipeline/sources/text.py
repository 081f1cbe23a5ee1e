"""CSV and NDJSON files in batches, every value as text, malformed lines set apart by row number.

Memory stays at a few blocks whatever the size of the file. pyarrow splits CSV, as it reports each line that has too
many or too few fields; polars decodes JSON.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from ctr_pipeline.sources.errors import SourceError, listed
from ctr_pipeline.sources.files import LogFile, open_binary
from ctr_pipeline.sources.json_layout import refuse_many_in_a_line
from ctr_pipeline.sources.nested import Keys, object_paths, value_at, wanted_keys
from ctr_pipeline.sources.quoting import QuoteGuard, csv_format

ROW = "__row"
"""Column with the 0-based row number in the file; a header and blank lines are not counted."""

_BLOCK_BYTES = 8 << 20
_LONGEST_CSV_LINE = 64 << 20
_SAMPLED_LINES = 10_000


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Some consecutive rows of a file."""

    frame: pl.DataFrame
    """ROW and the wanted columns as text; missing and empty values are null."""
    malformed: pl.DataFrame
    """Columns ROW and ``rule``: the lines that are no rows, and what a line should be."""


_RECODE = "Convert it: iconv -f UTF-16 -t UTF-8."
_KINDS = (
    (b"\xff\xfe\0\0", "text in UTF-32", "Convert it: iconv -f UTF-32 -t UTF-8."),
    (b"\xff\xfe", "text in UTF-16", _RECODE),
    (b"\xfe\xff", "text in UTF-16", _RECODE),
    (b"\x1f\x8b", "a gzip file", "Let its name end in .gz."),
    (b"PAR1", "a Parquet file", "Let its name end in .parquet, or set `format: parquet` in the spec."),
    (b"PK\x03\x04", "a zip file", "Unpack it."),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "Unpack it, or pack it with gzip."),
)
"""First bytes of files that are taken for text by mistake, what they are, and what to do."""

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


def refuse_other_kinds(file: LogFile) -> None:
    """Raises SourceError when the first bytes show that a text file is something else, or in another encoding."""
    with open_binary(file) as stream:
        start = stream.read(4)
    for magic, kind, remedy in _KINDS:
        if start.startswith(magic):
            raise SourceError(f"{file.path}: this is {kind}, and not text in UTF-8. {remedy}")
    if start[1:2] == b"\0" or start[:1] == b"\0":
        raise SourceError(f"{file.path}: this has zero bytes like UTF-16, and is not text in UTF-8. {_RECODE}")


def is_blank(file: LogFile) -> bool:
    """Whether a file holds nothing but white space."""
    with open_binary(file) as stream:
        return not any(block.strip(b"\xef\xbb\xbf \t\r\n") for block in iter(lambda: stream.read(_BLOCK_BYTES), b""))


def csv_batches(file: LogFile, columns: Sequence[str]) -> Iterator[TextBatch]:
    """The rows of a CSV file that has ``columns``.

    Raises:
        SourceError: the file quotes texts in another way than the spec says, so that rows would be lost.
    """
    if not file.columns and not _has_rows(file):
        # pyarrow takes a header without a line break for no file at all.
        return
    invalid: list[tuple[int, str]] = []
    guard = QuoteGuard(file, len(csv_header(file)))
    named_by = "names in `columns`" if file.columns else "the header"

    def set_apart(row: arrow_csv.InvalidRow) -> str:
        rule = f"a line has {row.expected_columns} fields, as many as {named_by}; this one has {row.actual_columns}"
        rule += guard.remark(row)
        # pyarrow counts from 1, the header too.
        invalid.append((row.number - 1 - guard.headers, rule))
        return "skip"

    next_row = 0
    with open_binary(file) as stream, pa.PythonFile(stream, mode="r") as source:
        for batch in _checked(guard, _csv_reader(file, columns, source, set_apart)):
            skipped = np.array([row for row, _ in invalid], dtype=np.int64)
            rows = _numbers(next_row, batch.num_rows, skipped)
            # A line set apart after this batch's last row is reported with the next batch.
            next_row = int(rows[-1]) + 1 if len(rows) else next_row
            passed = [entry for entry in invalid if entry[0] < next_row]
            invalid[:] = [entry for entry in invalid if entry[0] >= next_row]
            frame = pl.DataFrame(pl.from_arrow(batch)).with_columns(pl.Series(ROW, rows))
            yield _decoded(frame, columns, passed)
    yield _decoded(pl.DataFrame(schema={**dict.fromkeys(columns, pl.Binary), ROW: pl.Int64}), columns, invalid)
    guard.check_lines(records=next_row + len(invalid) + guard.headers)


def _csv_reader(
    file: LogFile, columns: Sequence[str], source: pa.NativeFile, set_apart: Callable[[arrow_csv.InvalidRow], str]
) -> arrow_csv.CSVStreamingReader:
    # Columns that are not read have names that no column of a spec has.
    names = [name or f"\0{place}" for place, name in enumerate(file.columns)]
    return arrow_csv.open_csv(
        source,
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=names or None),
        parse_options=csv_format(file, set_apart),
        convert_options=arrow_csv.ConvertOptions(
            # Bytes, not text: one line in another encoding must not fail the file.
            column_types=dict.fromkeys(columns, pa.binary()),
            include_columns=list(columns),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        ),
    )


def _checked(guard: QuoteGuard, reader: arrow_csv.CSVStreamingReader) -> Iterator[pa.RecordBatch]:
    """The batches of ``reader``; where it gives up on a record that is longer than a block, quotes are looked at."""
    try:
        yield from reader
    except pa.ArrowInvalid:
        guard.check_lines(records=1)
        raise


def _has_rows(file: LogFile) -> bool:
    """Whether a line follows the header; lines may end in a bare carriage return."""
    with open_binary(file) as stream:
        # Of line breaks only: a row without a value may hold nothing but tabs.
        start = stream.read(_BLOCK_BYTES).strip(b"\r\n")
    return b"\n" in start or b"\r" in start


def csv_header(file: LogFile) -> list[str]:
    """The names of the columns of a CSV file: those in its first line that is not blank, or those of the spec.

    Raises:
        SourceError: there is no such line, it is not UTF-8, or it has the names that the spec gives too.
    """
    line = _first_line(file)
    if file.columns:
        _refuse_named_twice(file, line)
        return list(file.columns)
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        raise SourceError(
            f"{file.path}: the first line, which holds the names of the columns, is not UTF-8. Convert the file, for "
            "example with iconv -f LATIN1 -t UTF-8."
        ) from None
    table = arrow_csv.read_csv(
        pa.BufferReader(line + b"\n"),
        parse_options=csv_format(file),
    )
    return list(table.column_names)


def first_line_in_words(file: LogFile) -> str:
    """What the first line of a CSV file has, without its values, which may be ids."""
    fields = csv_header(file)
    numbers = sum(_is_number(field) for field in fields)
    return f"{len(fields)} {'fields' if len(fields) != 1 else 'field'}, {numbers or 'none'} of them numbers"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_line(file: LogFile) -> bytes:
    with open_binary(file) as stream:
        lines = iter(lambda: stream.readline(_LONGEST_CSV_LINE), b"")
        line = next((line.strip(b"\r\n") for line in lines if line.strip()), b"")
    # Lines may end in a bare carriage return.
    line = line.partition(b"\r")[0]
    if not line:
        raise SourceError(f"{file.path}: has only blank lines. Write it again, or take it out of the log's paths.")
    return line


def _refuse_named_twice(file: LogFile, line: bytes) -> None:
    """Raises when the first line has the names that the spec gives: read as a row, it would be a wrong one."""
    fields = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split(file.separator)
    found = [field.strip().strip(file.quote or None).casefold() for field in fields]
    same = [name for name, field in zip(file.columns, found, strict=False) if name and name.casefold() == field]
    if 2 * len(same) > sum(bool(name) for name in file.columns):
        raise SourceError(
            f"{file.path}: the first line is a header, with the names {listed(same)} where `columns` of the spec has them, "
            "and `columns` is for files without one. Remove it from the spec, or the header from the file."
        )


def ndjson_batches(file: LogFile, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[TextBatch]:
    """The objects of an NDJSON file, one a line; a key that a line lacks is a missing value.

    Args:
        file: The file.
        columns: The wanted keys; ``a.b`` is the field ``b`` of the object in ``a`` where no line has a key ``a.b``.
        lists: Those of them that hold lists of texts, numbers or booleans.

    Raises:
        SourceError: lines hold many objects, so that rows would be lost.
    """
    dotted = {name for name in columns if "." in name}
    keys = wanted_keys(columns, lists, dotted.intersection(_top_keys(file, _SAMPLED_LINES)) if dotted else ())
    next_row = 0
    for lines in _line_blocks(file):
        present = lines.filter((lines.str.len_bytes() > 0).fill_null(True))
        rows = pl.Series(ROW, np.arange(next_row, next_row + len(present)))
        next_row += len(present)
        yield _objects(file, pl.DataFrame([rows, present.alias("line")]), columns, lists, keys)


def ndjson_keys(file: LogFile, limit: int = 100) -> list[str]:
    """The keys of the first lines of an NDJSON file, and the fields of the objects that they hold as ``a.b``."""
    return list(dict.fromkeys(path for content in _first_objects(file, limit) for path in object_paths(content)))


def ndjson_texts(file: LogFile, columns: Sequence[str], limit: int) -> set[str]:
    """Those of ``columns`` that hold text in the first of the first lines of an NDJSON file that has a value in them."""
    found: dict[str, Any] = {}
    for content in _first_objects(file, limit) if columns else ():
        for name in columns:
            value = value_at(content, name)
            if value is not None:
                found.setdefault(name, value)
        if len(found) == len(columns):
            break
    return {name for name, value in found.items() if isinstance(value, str)}


def _top_keys(file: LogFile, limit: int) -> set[str]:
    return {key for content in _first_objects(file, limit) for key in content}


def _first_objects(file: LogFile, limit: int) -> Iterator[dict[str, Any]]:
    with open_binary(file) as stream:
        for _, line in zip(range(limit), stream, strict=False):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(content, dict):
                yield content


def _numbers(start: int, count: int, skipped: np.ndarray) -> np.ndarray:
    """The first ``count`` whole numbers from ``start`` on that are not in ``skipped`` (ascending)."""
    numbers = np.arange(start, start + count + len(skipped), dtype=np.int64)
    return np.setdiff1d(numbers, skipped, assume_unique=True)[:count]


def _decoded(frame: pl.DataFrame, columns: Sequence[str], invalid: Sequence[tuple[int, str]]) -> TextBatch:
    """Bytes → text; rows with bytes that are not UTF-8 are set apart too."""
    text = frame.with_columns(utf8(frame[column]) for column in columns)
    undecodable = [frame[column].is_not_null() & text[column].is_null() for column in columns]
    lines = pl.DataFrame(list(invalid), schema=MALFORMED, orient="row")
    return _set_apart(text, columns, pl.any_horizontal(undecodable or [pl.lit(False)]), lines)


def _set_apart(text: pl.DataFrame, columns: Sequence[str], undecodable: pl.Expr, malformed: pl.DataFrame) -> TextBatch:
    """Takes out rows that are not UTF-8, and those with a zero character, which a damaged block leaves behind."""
    texts = [
        pl.col(column).list.join("", ignore_nulls=True) if text[column].dtype == pl.List else pl.col(column)
        for column in columns
    ]
    zero = pl.any_horizontal([value.str.contains("\0", literal=True) for value in texts] or [pl.lit(False)])
    rule = (
        pl.when(undecodable)
        .then(pl.lit("text is encoded as UTF-8; this line is not"))
        .when(zero)
        .then(pl.lit("text has no zero characters; this line has one: the file may be damaged"))
    )
    text = text.with_columns(rule.alias("rule"))
    broken = text.filter(pl.col("rule").is_not_null()).select(ROW, "rule")
    return TextBatch(text.filter(pl.col("rule").is_null()).drop("rule"), pl.concat([malformed, broken.cast(MALFORMED)]))


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


_NO_OBJECT = "a line holds one JSON object in UTF-8; this one does not (an array, NaN and Infinity are none)"


def _objects(
    file: LogFile, lines: pl.DataFrame, columns: Sequence[str], lists: Collection[str], keys: Keys
) -> TextBatch:
    good = lines
    decoded = _decode(good["line"], keys)
    malformed = pl.DataFrame(schema=MALFORMED)
    if decoded is None:
        # Some line is no object: look at each one. An object's text starts with a brace; valid JSON has a root.
        valid = pl.col("line").str.starts_with("{") & pl.col("line").str.json_path_match("$").is_not_null()
        good, bad = lines.filter(valid.fill_null(False)), lines.filter(~valid.fill_null(False))
        refuse_many_in_a_line(str(file.path), bad["line"], bad[ROW])
        decoded, fitting = _decode_each(good["line"], keys)
        malformed = pl.concat(
            [bad.select(ROW, rule=pl.lit(_NO_OBJECT)), good.filter(~fitting).select(ROW, rule=pl.lit(keys.rule))]
        )
        good = good.filter(fitting)

    def known(value: pl.Expr) -> pl.Expr:
        return pl.when(value != "").then(value)

    decoded = _with_rounded(decoded, good["line"], [column for column in columns if column not in lists])
    frame = decoded.with_columns(
        (pl.col(column).list.eval(known(pl.element())) if column in lists else known(pl.col(column))).alias(column)
        for column in columns
    )
    return _set_apart(frame.with_columns(good[ROW]), columns, pl.lit(False), malformed.cast(MALFORMED))


_LARGE_FLOAT = r"[0-9](?:\.[0-9]+)?[eE]\+?[0-9]{2}|[0-9]{16}\.[0-9]"


def _with_rounded(decoded: pl.DataFrame, lines: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
    """``decoded`` with the text of each large float as the line has it: decoding writes it out as a whole number."""
    places = lines.str.contains(_LARGE_FLOAT).arg_true()
    contents = [json.loads(line) for line in lines.gather(places)]
    for column in columns:
        found = [(at, value_at(content, column)) for at, content in zip(places, contents, strict=True)]
        large = {at: repr(value) for at, value in found if isinstance(value, float) and abs(value) >= 2**53}
        if large:
            decoded = decoded.with_columns(decoded[column].scatter(list(large), list(large.values())))
    return decoded


def _decode_each(lines: pl.Series, keys: Keys) -> tuple[pl.DataFrame, pl.Series]:
    """The wanted keys of those lines that can be decoded, and which these are.

    Never by another reader than that of whole blocks: the same id must give the same text whatever stands beside it.
    """
    decoded = _decode(lines, keys)
    if decoded is not None:
        return decoded, pl.repeat(True, len(lines), dtype=pl.Boolean, eager=True)
    if len(lines) == 1:
        return pl.DataFrame(schema=keys.decoded.to_schema()).select(keys.columns), pl.Series([False])
    half = len(lines) // 2
    parts = [_decode_each(part, keys) for part in (lines[:half], lines[half:])]
    return pl.concat([frame for frame, _ in parts]), pl.concat([good for _, good in parts])


def _decode(lines: pl.Series, keys: Keys) -> pl.DataFrame | None:
    """The wanted keys of lines that are all JSON objects which hold in them what they should; None when one is not."""
    try:
        structs = lines.str.json_decode(dtype=keys.decoded)
    except pl.exceptions.PolarsError:
        return None
    # `null` decodes to no object at all, as does a line that is not UTF-8; one with commas between objects, to each of them.
    return None if structs.null_count() or len(structs) != len(lines) else structs.struct.unnest().select(keys.columns)
