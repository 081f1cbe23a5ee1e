"""The rows of one log file that are in scope: needed columns only, whatever the format."""

import gzip
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import polars as pl
import pyarrow as pa

from ctr_pipeline.sources.errors import SourceError, listed, near_miss
from ctr_pipeline.sources.files import LogFile
from ctr_pipeline.sources.formats import is_compressed
from ctr_pipeline.sources.missing import without_nulls
from ctr_pipeline.sources.nested import as_lists, fields_beside, schema_paths, stored_column
from ctr_pipeline.sources.parquet import scan_parquet
from ctr_pipeline.sources.text import (
    MALFORMED,
    ROW,
    csv_batches,
    csv_header,
    first_line_in_words,
    is_blank,
    ndjson_batches,
    ndjson_keys,
    ndjson_texts,
    refuse_other_kinds,
    utf8,
)

RAW = "raw:"
"""Prefix of the log's own columns, so that none is taken for one of the pipeline's."""

ENOUGH_TO_JUDGE = 10
"""With fewer values, a column or file that fails throughout may as well be a handful of broken rows."""

_SAMPLED_LINES = 10_000

Schema = Mapping[str, pl.DataType]
Select = Callable[[pl.LazyFrame, Schema], pl.LazyFrame]
"""Keeps the rows in scope, given the raw rows and the types of their columns (by the user's names)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What was read of one file."""

    frame: pl.DataFrame
    """ROW, the needed columns (with prefix RAW), and what ``select`` added, for the rows that it kept."""
    malformed: pl.DataFrame
    """ROW and rule of each line that is no row."""
    schema: Schema
    """Type of each needed column in the file; text for CSV and NDJSON."""
    total: int
    """Rows in the file, malformed lines not counted."""

    @property
    def lines(self) -> int:
        """Rows in the file, malformed lines counted too."""
        return self.total + self.malformed.height


def raw(column: str) -> pl.Expr:
    """The log's own column ``column``."""
    return pl.col(RAW + column)


def read_rows(
    file: LogFile,
    columns: Mapping[str, str],
    select: Select,
    declared: Mapping[str, str] | None = None,
    lists: Mapping[str, str | None] | None = None,
) -> Rows:
    """Reads the rows of ``file`` that ``select`` keeps.

    Args:
        file: The file.
        columns: The columns to read, and for each the field of the spec that names it. ``a.b`` is the field ``b`` of
            the objects in ``a``, where no column itself is called so.
        select: Keeps the rows in scope. For Parquet its conditions on raw columns reach the scan.
        declared: All columns that the spec names in this log, where ``columns`` are some of them: a file that lacks
            one is refused before it is read, and one without a header is distinguished from one with a misspelt name.
        lists: Those of ``columns`` that hold lists, and what separates their values where they are text.

    Raises:
        SourceError: the file is unreadable, empty or damaged, was written to since it was listed, or lacks a column.
    """
    declared = declared or columns
    file.listed.require_unchanged()
    try:
        with _explained(file):
            if file.listed.size == 0:
                if _has_peers(file):
                    return _without_rows(columns, select, lists or {})
                raise SourceError(
                    f"{file.path}: the file is empty (0 bytes). Write it again, or take it out of the log's paths."
                )
            if file.format == "parquet":
                return _read_parquet(file, columns, select, declared, lists or {})
            return _read_text(file, columns, select, declared, lists or {})
    finally:
        # Whatever came of it: what was read may be neither the file as it was nor as it is.
        file.listed.require_unchanged()


def stored_names(file: LogFile) -> list[str]:
    """The columns of a file, and the fields of its objects as `a.b`; of NDJSON, those of its first lines.

    Raises:
        SourceError: the file cannot be read.
    """
    file.listed.require_unchanged()
    with _explained(file):
        if file.listed.size == 0:
            return []
        if file.format == "parquet":
            return schema_paths(scan_parquet(file, (), ())[1])
        return csv_header(file) if file.format == "csv" else ndjson_keys(file, _SAMPLED_LINES)


def _read_parquet(
    file: LogFile,
    columns: Mapping[str, str],
    select: Select,
    declared: Mapping[str, str],
    lists: Mapping[str, str | None],
) -> Rows:
    scan, stored, total = scan_parquet(file, columns, declared)
    found = {name: column for name in columns if (column := stored_column(name, stored)) is not None}
    in_folders = _in_folders(file, [name for name in declared if stored_column(name, stored) is None])
    found |= {name: (value, pl.String()) for name, value in in_folders.items() if name in columns}
    if total == 0 and _has_peers(file):
        # An hour without traffic: writers leave out the types, or even the columns.
        absent = _untyped(columns, lists)
        found |= {name: (pl.lit(None, kind), kind) for name, kind in absent.items() if name not in found}
    else:
        _check_columns(file, declared, [*schema_paths(stored), *in_folders])
    as_text = {
        name: value.map_batches(utf8, return_dtype=pl.String) if kind == pl.Binary else value.cast(pl.String)
        for name, (value, kind) in found.items()
        if kind in (pl.Binary, pl.Categorical, pl.Enum)
    }
    known = {
        name: (as_text[name], pl.String()) if name in as_text else (value, kind)
        for name, (value, kind) in found.items()
    }
    known = _without_nulls(file, known, lists)
    lazy = scan.select(
        pl.col(ROW),
        *(value.alias(RAW + name) for name, (value, _) in known.items()),
    )
    schema = {name: kind for name, (_, kind) in known.items()}
    malformed = _undecodable(scan, [value for value, kind in found.values() if kind == pl.Binary])
    if malformed.height:
        _refuse_without_rows(file, malformed, total - malformed.height)
        lazy = lazy.filter(~pl.col(ROW).is_in(malformed[ROW].implode()))
    return Rows(select(lazy, schema).collect(), malformed, schema, total - malformed.height)


def _without_nulls(
    file: LogFile, columns: Mapping[str, tuple[pl.Expr, pl.DataType]], lists: Mapping[str, str | None]
) -> dict[str, tuple[pl.Expr, pl.DataType]]:
    """``columns`` and their types without what means a missing value; those of ``lists`` as polars lists them."""
    nulls = {name: file.nulls(name) for name in columns}
    known = {name: (without_nulls(value, kind, nulls[name]), kind) for name, (value, kind) in columns.items()}
    for name, separator in lists.items():
        value, kind = as_lists(*known[name], separator)
        # A text may mean a missing list, or a missing value in one.
        known[name] = (without_nulls(value, kind, nulls[name]) if kind != known[name][1] else value, kind)
    return known


def _untyped(columns: Collection[str], lists: Collection[str]) -> dict[str, pl.DataType]:
    """Types of columns of which nothing is known."""
    return {name: pl.List(pl.String) if name in lists else pl.Null() for name in columns}


def _without_rows(columns: Mapping[str, str], select: Select, lists: Collection[str]) -> Rows:
    """What a file gives that holds nothing."""
    schema = _untyped(columns, lists)
    empty = pl.DataFrame(schema={ROW: pl.Int64, **{RAW + name: kind for name, kind in schema.items()}})
    return Rows(select(empty.lazy(), schema).collect(), pl.DataFrame(schema=MALFORMED), schema, 0)


def _has_peers(file: LogFile) -> bool:
    """Whether another file of the log holds something."""
    return any(other != file.listed and other.size > 0 for other in file.log)


def _undecodable(scan: pl.LazyFrame, columns: list[pl.Expr]) -> pl.DataFrame:
    """Rows of a Parquet file whose bytes in one of ``columns`` are no text."""
    if not columns:
        return pl.DataFrame(schema=MALFORMED)
    decoded = [value.map_batches(utf8, return_dtype=pl.String) for value in columns]
    broken = [value.is_not_null() & text.is_null() for value, text in zip(columns, decoded, strict=True)]
    rule = "text is encoded as UTF-8; this row has other bytes (write binary ids as hex text)"
    return scan.filter(pl.any_horizontal(broken)).select(ROW, rule=pl.lit(rule)).collect().cast(MALFORMED)


def _read_text(
    file: LogFile,
    columns: Mapping[str, str],
    select: Select,
    declared: Mapping[str, str],
    lists: Mapping[str, str | None],
) -> Rows:
    refuse_other_kinds(file)
    if is_blank(file) and _has_peers(file):
        return _without_rows(columns, select, lists or {})
    in_file = csv_header(file) if file.format == "csv" else ndjson_keys(file) if file.folders else list(columns)
    in_folders = _in_folders(file, [name for name in declared if name not in in_file])
    names = [name for name in columns if name not in in_folders]
    stored: dict[str, pl.DataType] = dict.fromkeys(names, pl.String())
    if file.format == "csv":
        _check_columns(file, declared, [*in_file, *in_folders])
        batches = csv_batches(file, names)
    else:
        arrays = _arrays(file, lists)
        stored |= dict.fromkeys(arrays, pl.List(pl.String))
        batches = ndjson_batches(file, names, arrays)
    known = {name: (pl.col(name), kind) for name, kind in stored.items()}
    known |= {name: (value, pl.String()) for name, value in in_folders.items() if name in columns}
    known = _without_nulls(file, known, lists)
    schema: Schema = {name: kind for name, (_, kind) in known.items()}
    renamed = [pl.col(ROW), *(value.alias(RAW + name) for name, (value, _) in known.items())]
    empty = pl.DataFrame(schema={**stored, ROW: pl.Int64})
    kept = [select(empty.lazy().select(renamed), schema).collect()]
    malformed = [pl.DataFrame(schema=MALFORMED)]
    absent, total = set(names), 0
    for batch in batches:
        kept.append(select(batch.frame.lazy().select(renamed), schema).collect())
        malformed.append(batch.malformed)
        total += batch.frame.height
        absent = {name for name in absent if batch.frame[name].null_count() == batch.frame.height}
    if file.format == "ndjson" and absent and total:
        _check_keys(file, {name: columns[name] for name in names if name in absent})
    lines = pl.concat(malformed)
    _refuse_without_rows(file, lines, total)
    return Rows(pl.concat(kept), lines, schema, total)


def _in_folders(file: LogFile, absent: Collection[str]) -> dict[str, pl.Expr]:
    """Those of the columns that the file lacks which stand in the names of its folders."""
    return {name: pl.lit(file.folders[name], pl.String) for name in absent if name in file.folders}


def _arrays(file: LogFile, lists: Mapping[str, str | None]) -> list[str]:
    """Those of ``lists`` that an NDJSON file holds as arrays; those with a separator may be texts."""
    texts = ndjson_texts(file, [name for name, separator in lists.items() if separator is not None], _SAMPLED_LINES)
    return [name for name in lists if name not in texts]


def _refuse_without_rows(file: LogFile, malformed: pl.DataFrame, total: int) -> None:
    """Raises when a file has lines, but none of them is a row: then the file is wrong, and not its lines."""
    if total == 0 and malformed.height >= ENOUGH_TO_JUDGE:
        raise SourceError(
            f"{file.path}: none of its {malformed.height} lines is a row. Expected: {malformed['rule'][0]}. "
            f"Write the file again, or set `format` and {'`columns`' if file.columns else '`separator`'} in the spec."
        )


def _check_keys(file: LogFile, columns: Mapping[str, str]) -> None:
    """Looks for keys that have no value in this file. Writers may leave missing values out, so any file will do."""
    found: dict[str, None] = {}
    for other in (file.listed, *file.log):
        peer = replace(file, listed=other, compressed=is_compressed(other.path))
        found |= dict.fromkeys(ndjson_keys(peer, _SAMPLED_LINES))
        if columns.keys() <= found.keys():
            return
    _check_columns(file, columns, list(found))


def _check_columns(file: LogFile, columns: Mapping[str, str], found: list[str]) -> None:
    missing = [name for name in columns if name not in found]
    if not missing:
        twice = [name for name in columns if found.count(name) > 1]
        if twice:
            raise SourceError(
                f"{file.path}: column `{twice[0]}` is there {found.count(twice[0])} times. Rename all but one."
            )
        return
    name, found = missing[0], [column for column in found if column]
    more = f" ({len(missing)} columns are missing: {listed(missing)}.)" if len(missing) > 1 else ""
    remedy = f"Correct `{columns[name]}` in the spec, or add the column to the file."
    if file.columns:
        raise SourceError(
            f"{file.path}: `columns` of this log in the spec has no `{name}`, which `{columns[name]}` names."
            f"{near_miss(name, found)} It has: {listed(found)}.{more} Correct one of them: `columns` names those of the "
            "file in their order."
        )
    if 2 * len(missing) > len(columns) and file.format == "csv":
        # The first line may be data, and data may be ids: do not show it.
        count = "none" if len(missing) == len(columns) else f"only {len(columns) - len(missing)}"
        raise SourceError(
            f"{file.path}: the first line has {count} of the declared columns; missing are {listed(missing)}. It has "
            f"{first_line_in_words(file)}. A CSV file starts with a header line, and its separator here is "
            f"{file.separator!r}. Name its columns in `columns` of this log where it has none. Otherwise "
            "correct the file, or `separator` and the names of the columns in the spec."
        )
    where = "no line has the key" if file.format == "ndjson" else "there is no column"
    raise SourceError(
        f"{file.path}: {where} `{name}`, which `{columns[name]}` names.{fields_beside(name, found)}{near_miss(name, found)} "
        f"Found: {listed(found)}.{more} {remedy}"
    )


@contextmanager
def _explained(file: LogFile) -> Iterator[None]:
    """Turns what readers raise into a SourceError, without their texts: those may quote the log."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{file.path}: no such file. Restore it, or correct the log's paths.") from None
    except PermissionError:
        raise SourceError(f"{file.path}: this user may not read it. Change its permissions.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise SourceError(
            f"{file.path}: ends in .gz, but is no complete gzip file; it may be truncated. Copy or write it again."
        ) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, OSError, ValueError) as error:
        # The name of the error tells a maintainer something, its text may quote rows.
        kinds = {"parquet": "Parquet", "csv": "CSV", "ndjson": "NDJSON"}
        raise SourceError(
            f"{file.path}: cannot be read as {kinds[file.format]}; it may be truncated, damaged or of another "
            f"format ({type(error).__name__}). "
            "Copy or write it again, or set `format` in the spec."
        ) from None
