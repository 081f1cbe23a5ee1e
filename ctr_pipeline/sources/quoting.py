"""Whether a CSV file encloses its texts in quotes as the spec says; a file that does not would lose rows.

A quote that is no quote, but a part of a text, encloses everything up to the next one: the rows between them become
one value. A quote within a text that is preceded by a backslash, where the reader expects it twice, ends the text early.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.files import LogFile, open_binary

_BLOCK_BYTES = 8 << 20
_LINE = re.compile(rb"[^\r\n]+")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_NUMBER = re.compile(rb"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_WORD = re.compile(rb"\S+")
_SAMPLED_ROWS = 1_000
_DECLARE_ESCAPE = r'Set `escape: "\\"` for this log in the spec where backslashes precede quotes, as Spark writes them.'
_DECLARE_NO_QUOTE = 'Set `quote: ""` for this log in the spec where its writer quotes no texts.'


def csv_format(file: LogFile, set_apart: Callable[[arrow_csv.InvalidRow], str] | None = None) -> arrow_csv.ParseOptions:
    """How pyarrow splits the lines of ``file``; lines with too many or too few fields go to ``set_apart``."""
    return arrow_csv.ParseOptions(
        delimiter=file.separator,
        quote_char=file.quote or False,
        escape_char=file.escape or False,
        newlines_in_values=bool(file.quote),
        invalid_row_handler=set_apart,
    )


class QuoteGuard:
    """Refuses a file whose quotes mean something else than they are read as."""

    def __init__(self, file: LogFile, columns: int) -> None:
        """Watches over ``file``, which has so many columns."""
        self._file = file
        self._columns = columns
        self._quote = file.quote.encode()
        self._separator = file.separator.encode()
        self.headers = 0 if file.columns else 1
        """Lines at the beginning that are no rows."""
        self._spanning: list[tuple[int, bytes]] = []

    def remark(self, row: arrow_csv.InvalidRow) -> str:
        """What may be wrong with a record that has too many or too few fields, to add to its rule."""
        quote, escape, record = self._file.quote, self._file.escape, row.text
        if not quote:
            return "; no text is quoted in this file, set `quote` if some are" if '"' in record else ""
        if len(self._spanning) < _SAMPLED_ROWS and len(_LINE.findall(record.encode())) > 1:
            self._spanning.append((row.number - self.headers, record.encode()))
        return f"; {_DECLARE_ESCAPE}" if not escape and "\\" + quote in record else ""

    def check_lines(self, records: int) -> None:
        """Refuses a file with lines that are rows of their own, but were read as a part of a quoted text.

        Args:
            records: Records that were found, a header counted.

        Raises:
            SourceError: a quote within a text has a backslash before it where it is expected twice, a quote is never
                closed, or the text between two quotes has whole rows.
        """
        if not self._quote:
            return
        quotes, lines, backslashes, headers = 0, 0, False, self.headers
        escape = self._file.escape
        for block in _whole_lines(self._file):
            if not escape and b"\\" + self._quote in block:
                backslashes = True
                self._check_escapes(block, lines + 1 - headers)
            quotes += self._without_escapes(block).count(self._quote)
            lines += len(_LINE.findall(block))
        if lines <= records:
            return
        remedy = _DECLARE_ESCAPE if backslashes else _DECLARE_NO_QUOTE
        # Quotes come in pairs, and a quote inside an unquoted text leaves one record a line.
        if quotes % 2:
            raise SourceError(
                f"{self._file.path}: a quote is opened and never closed, so the lines after it are unreadable "
                f"({records - headers} rows were found in {lines - headers} lines). {remedy} Otherwise close the quote, or double it "
                "where it is part of a text."
            )
        row = self._swallowed()
        if row is not None and not self._encloses_all():
            raise SourceError(
                f"{self._file.path}: near row {row}, a quote is opened that encloses whole rows up to the next quote "
                f"({records - headers} rows were found in {lines - headers} lines). {remedy} Otherwise close the quote, or double it "
                "where it is part of a text."
            )

    def _without_escapes(self, block: bytes) -> bytes:
        """``block`` without what is escaped: an escape may precede an escape, then a quote after both is one that closes."""
        escape = re.escape(self._file.escape.encode())
        return re.sub(escape + b".", b"", block, flags=re.DOTALL) if escape else block

    def _check_escapes(self, block: bytes, before: int) -> None:
        r"""Refuses quoted texts that go on after ``\"``: in a file without escapes, that quote ends the text."""
        quote, separator = re.escape(self._quote), re.escape(self._separator)
        unquoted = rb"[^%b%b][^%b]*+" % (quote, separator, separator)
        opened = rb"%b(?:[^%b]|%b%b)*+" % (quote, quote, quote, quote)
        field = rb"(?>%b|%b%b(?=%b)|)" % (unquoted, opened, quote, separator)
        continued = re.compile(rb"(?:%b%b)*+%b(?<=\\)%b[^%b]" % (field, separator, opened, quote, separator))
        for number, line in enumerate(_LINE.findall(block), before):
            if b"\\" + self._quote in line and continued.match(line):
                raise SourceError(
                    f"{self._file.path}: near row {number}, a quoted text goes on after a quote with a backslash before it, "
                    f"and a quote within a text is expected to be written twice. {_DECLARE_ESCAPE}"
                )

    def _encloses_all(self) -> bool:
        """Whether all fields are empty or enclosed in quotes, but for the header's.

        A quote that is part of a text cannot enclose rows there: they would have quotes of their own.
        """
        quote = re.escape(self._quote)
        enclosed = re.compile(rb"%b[^%b]*+%b" % (quote, quote, quote))
        rest, in_header = b"", self.headers > 0
        for block in _whole_lines(self._file):
            block = rest + self._without_escapes(block)
            if in_header and (header := _LINE_END.search(block)) is not None:
                block, in_header = block[header.end() :], False
            outside = enclosed.sub(b"", block)
            # What an odd quote opens goes on in the next block; what is before it is all that is known.
            outside, opened, inside = outside.partition(self._quote)
            if outside.translate(None, self._separator + b"\r\n"):
                return False
            rest = opened + inside
        return not rest

    def _swallowed(self) -> int | None:
        """About which row (1 for the first) has further rows in one of its texts; looks at all columns."""
        shape, start = _RowShape(self._columns, []), 1 - self.headers
        with open_binary(self._file) as stream, pa.PythonFile(stream, mode="r") as source:
            for batch in self._batches(source):
                frame = pl.DataFrame(pl.from_arrow(batch))
                frame.columns = [str(place) for place in range(frame.width)]
                breaks = [column.bin.contains(b"\n") | column.bin.contains(b"\r") for column in frame]
                several = frame.select(pl.any_horizontal(breaks)).to_series()
                if not shape.known:
                    sample = frame.filter(~several).head(_SAMPLED_ROWS)
                    shape = _RowShape(frame.width, sample.rows())
                for row, *values in frame.with_row_index("row").filter(several).iter_rows():
                    if shape.encloses_rows(_physical_lines(values, self._separator)):
                        return start + int(row)
                start += batch.num_rows
        for row, record in self._spanning:
            if shape.encloses_rows([line.split(self._separator) for line in _LINE.findall(record)]):
                return row
        return None

    def _batches(self, source: pa.NativeFile) -> arrow_csv.CSVStreamingReader:
        names = [str(place) for place in range(self._columns)]
        return arrow_csv.open_csv(
            source,
            # Every record with names that are certain to differ; the header is one of them.
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES, column_names=names),
            parse_options=csv_format(self._file, lambda _: "skip"),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=False
            ),
        )


class _RowShape:
    """What distinguishes a line that is a row from a line of prose that happens to have as many separators."""

    def __init__(self, width: int, sample: Sequence[tuple[bytes, ...]]) -> None:
        self.known = len(sample) > 1
        self._width = width
        # The header, if there is one, has no numbers.
        columns = list(zip(*sample[1:], strict=True)) if self.known else []
        self._patterns = [
            (place, pattern)
            for place, values in enumerate(columns)
            for pattern in (_NUMBER, _WORD)
            if all(pattern.fullmatch(value) for value in values)
        ]

    def encloses_rows(self, lines: Sequence[Sequence[bytes]]) -> bool:
        """Whether a record of these physical lines, split into fields, has a row within, or is two rows."""
        rows = [self._is_row(line) for line in lines]
        return len(rows) > 1 and (any(rows[1:-1]) or (rows[0] and rows[-1]))

    def _is_row(self, fields: Sequence[bytes]) -> bool:
        return len(fields) == self._width > 1 and all(
            pattern.fullmatch(fields[place]) for place, pattern in self._patterns
        )


def _physical_lines(values: Sequence[bytes], separator: bytes) -> list[list[bytes]]:
    """The fields of each line that a record spans, as they are when no quote has a meaning."""
    lines: list[list[bytes]] = [[]]
    for value in values:
        pieces = _LINE_END.split(value)
        lines[-1] += pieces[0].split(separator) if len(pieces) > 1 else [value]
        lines += [piece.split(separator) for piece in pieces[1:]]
        if len(pieces) > 1:
            # The field goes on behind the quote, up to the next separator.
            lines[-1] = lines[-1] or [b""]
    return [line for line in lines if line != [b""]]


def _whole_lines(file: LogFile) -> Iterator[bytes]:
    """The file in blocks that end where lines do."""
    with open_binary(file) as stream:
        rest = b""
        while block := stream.read(_BLOCK_BYTES):
            block = rest + block
            end = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
            rest = block[end:]
            yield block[:end]
        yield rest
