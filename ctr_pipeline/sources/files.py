"""How each file of a log is read."""

import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.formats import ENDINGS, Format, ending_of, format_of, is_compressed
from ctr_pipeline.sources.listed_files import ListedFile, listed_file
from ctr_pipeline.sources.missing import null_texts
from ctr_pipeline.sources.partition_folders import folder_values
from ctr_pipeline.spec.addresses import Address
from ctr_pipeline.spec.null_values import NullValues, null_values_of
from ctr_pipeline.spec.source import LogFiles

Files = Sequence[Path | ListedFile]
"""Files of a log: as they were listed, or as they are now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """One file of a log and how to read it."""

    listed: ListedFile
    index: int
    """Place in the log's list of files."""
    label: str
    """The file's label, made unique within the log: with the row number it identifies an impression."""
    format: Format
    compressed: bool
    separator: str
    quote: str
    """What encloses texts of a CSV file; empty where nothing does."""
    escape: str
    """What precedes a quote within a quoted text; empty where the quote is written twice."""
    null_values: NullValues
    """What means a missing value, as the spec has it."""
    columns: tuple[str, ...]
    """Names of the columns of a CSV file without a header line; none where it has one."""
    log: tuple[ListedFile, ...]
    """All files of the log."""

    @property
    def path(self) -> Path | Address:
        """Where the file lies."""
        return self.listed.path

    @property
    def folders(self) -> dict[str, str | None]:
        """Columns in the names of the folders that the file lies in."""
        return folder_values(self.path)

    def nulls(self, column: str) -> tuple[str, ...]:
        """Texts of the values that mean a missing one in ``column``."""
        return null_texts(null_values_of(self.null_values, column))

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name


def open_binary(file: LogFile) -> IO[bytes]:
    """The file's bytes, decompressed."""
    stream = file.listed.stream()
    return _Unpacked(stream) if file.compressed else stream  # type: ignore[return-value]


class _Unpacked(gzip.GzipFile):
    """The content of a gzip file, whose stream is closed with it."""

    def __init__(self, packed: IO[bytes]) -> None:
        super().__init__(fileobj=packed, mode="rb")
        self._packed = packed

    def close(self) -> None:
        super().close()
        self._packed.close()


def open_log(log: LogFiles, files: Files) -> tuple[LogFile, ...]:
    """How each of ``files`` is read.

    Raises:
        SourceError: neither a file's ending nor the spec determines its format, or the spec names the columns of a file
            that names them itself.
    """
    if not files:
        raise SourceError("the log has no files. Set `paths` in the spec, or pass `--input PATH`.")
    listing = tuple(file if isinstance(file, ListedFile) else listed_file(file) for file in files)
    seen: Counter[str] = Counter()
    opened = []
    for index, file in enumerate(listing):
        seen[file.label] += 1
        namesakes = seen[file.label]
        kind = log.format or format_of(file.path)
        if kind is None:
            raise SourceError(
                f"{file.path}: the ending {file.path.suffix or '(none)'} does not determine its format; known endings are "
                f"{', '.join(ENDINGS)}, each also with .gz. Rename the file, or set `format` in the spec."
            )
        if log.columns and kind != "csv":
            raise SourceError(
                f"{file.path}: `columns` in the spec names the columns of CSV files without a header line, and this file is "
                "none. Remove `columns`, or take the file out of the log's paths."
            )
        separator = "\t" if ending_of(file.path) == ".tsv" else log.separator
        opened.append(
            LogFile(
                listed=file,
                log=listing,
                index=index,
                label=file.label if namesakes == 1 else f"{file.label}#{namesakes}",
                format=kind,
                compressed=is_compressed(file.path),
                separator=separator,
                quote=_quote(log, separator),
                escape=log.escape or "",
                null_values=log.null_values,
                columns=tuple(log.columns),
            )
        )
    return tuple(opened)


def _quote(log: LogFiles, separator: str) -> str:
    """What encloses texts; dumps with tabs write texts as they are, so there a quote is a character like others."""
    if log.quote is not None:
        return log.quote
    return "" if separator == "\t" and log.escape is None else '"'
