"""Parquet files as lazy rows, with the types of time columns that polars alone reads otherwise."""

import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
from polars.io.plugins import register_io_source

from ctr_pipeline.sources.errors import SourceError
from ctr_pipeline.sources.files import LogFile, open_binary
from ctr_pipeline.sources.text import ROW

_KEPT = "__kept"


def scan_parquet(
    file: LogFile, columns: Collection[str], declared: Collection[str]
) -> tuple[pl.LazyFrame, dict[str, pl.DataType], int]:
    """The rows of a file with their numbers in ROW, the type of each stored column, and how many rows there are.

    Two kinds of time stamps are instants, whatever the zone of the log: INT96, which Spark, Hive and Impala write in
    UTC without saying so, and those with a zone that is a mere offset (+05:30), which polars does not know.

    Args:
        file: The file.
        columns: The columns that will be needed.
        declared: All columns that the spec names in this log.

    Raises:
        SourceError: a declared column, or a field of a struct that is read, is there more than once.
    """
    source: Path | IO[bytes] = file.listed.random_access()
    if file.compressed:
        with open_binary(file) as stream:
            source = io.BytesIO(stream.read())
    # Opened by pyarrow first: polars panics at a zone that it does not know.
    footer = arrow_parquet.ParquetFile(source, pre_buffer=True)
    rows = footer.metadata.num_rows
    leaves = [footer.schema.column(place) for place in range(len(footer.schema))]
    unmarked = {leaf.path for leaf in leaves if leaf.physical_type == "INT96"}
    known = pa.schema([_instant(field, unmarked) for field in footer.schema_arrow])
    for field in footer.schema_arrow:
        twice = _repeated_field(field.type, field.name)
        if twice is not None and any(name.startswith(f"{field.name}.") for name in declared):
            raise SourceError(f"{file.path}: field `{twice}` is there more than once. Rename all but one.")
    names = footer.schema_arrow.names
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        needed = next((name for name in declared if name in repeated), None)
        if needed is not None:
            raise SourceError(
                f"{file.path}: column `{needed}` is there {names.count(needed)} times. Rename all but one."
            )
        known = pa.schema([field for field in known if field.name not in repeated])
        return *_by_arrow(footer, known, columns), rows
    other = [field.name for field, own in zip(known, footer.schema_arrow, strict=True) if field.type != own.type]
    by_path_or_in_memory = isinstance(source, Path | io.BytesIO)
    if set(other) > unmarked or any("." in path for path in unmarked) or not by_path_or_in_memory:
        return *_by_arrow(footer, known, columns), rows
    if isinstance(source, io.BytesIO):
        source.seek(0)
    types = dict(pl.read_parquet_schema(source))
    scan = pl.scan_parquet(source, row_index_name=ROW, glob=False, hive_partitioning=False)
    for name in other:
        scan = scan.with_columns(pl.col(name).dt.replace_time_zone("UTC"))
        types[name] = pl.Datetime("ns", "UTC")
    return scan.with_columns(pl.col(ROW).cast(pl.Int64)), types, rows


def _by_arrow(
    footer: arrow_parquet.ParquetFile, schema: pa.Schema, columns: Collection[str]
) -> tuple[pl.LazyFrame, dict[str, pl.DataType]]:
    """The rows as pyarrow reads them, one row group after the other, and the type of each column."""
    wanted = [name for name in schema.names if any(f"{column}.".startswith(f"{name}.") for column in columns)]
    types = dict(pl.DataFrame(pl.from_arrow(schema.empty_table())).schema)

    def group(place: int, first_row: int, names: Collection[str]) -> pl.DataFrame:
        stored = [name for name in names if name != ROW]
        table = footer.read_row_group(place, columns=stored).cast(pa.schema([schema.field(name) for name in stored]))
        end = first_row + footer.metadata.row_group(place).num_rows
        numbers = pl.int_range(first_row, end, dtype=pl.Int64, eager=True).alias(ROW)
        return pl.DataFrame([numbers, *pl.DataFrame(pl.from_arrow(table))]).select(names)

    def groups(names: list[str], condition: pl.Expr | None) -> Iterator[pl.DataFrame]:
        # Columns that decide are read first: where they keep no row, the others are not fetched.
        deciding = set() if condition is None else set(condition.meta.root_names()) or {ROW}
        others, first_row = [name for name in names if name not in deciding], 0
        for place in range(footer.num_row_groups):
            if condition is None:
                yield group(place, first_row, names)
            else:
                frame = group(place, first_row, deciding)
                kept = frame.with_columns(condition.alias(_KEPT))[_KEPT]
                if kept.any():
                    yield frame.hstack(group(place, first_row, others)).select(names).filter(kept)
            first_row += footer.metadata.row_group(place).num_rows

    def source(
        names: list[str] | None, condition: pl.Expr | None, limit: int | None, _batch: int | None
    ) -> Iterator[pl.DataFrame]:
        for frame in groups([ROW, *wanted] if names is None else names, condition):
            yield frame if limit is None else frame.head(limit)
            if limit is not None:
                limit -= min(limit, frame.height)
                if limit == 0:
                    return

    return register_io_source(source, schema={ROW: pl.Int64(), **{name: types[name] for name in wanted}}), types


def _instant(field: pa.Field, unmarked: Collection[str], inside: str = "") -> pa.Field:
    """The field with UTC in place of a zone that polars does not know: an instant is the same in every zone."""
    path = inside + field.name
    return field.with_type(_instant_type(field.type, unmarked, path))


def _instant_type(kind: pa.DataType, unmarked: Collection[str], path: str) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        known = path not in unmarked if kind.tz is None else _is_known(kind.tz)
        return kind if known else pa.timestamp(kind.unit, "UTC")
    if pa.types.is_struct(kind):
        return pa.struct([_instant(kind.field(place), unmarked, f"{path}.") for place in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_instant(kind.value_field, unmarked, f"{path}.list."))
    if pa.types.is_large_list(kind):
        return pa.large_list(_instant(kind.value_field, unmarked, f"{path}.list."))
    return kind


def _repeated_field(kind: pa.DataType, path: str) -> str | None:
    """The first field of a struct that has a namesake beside it: no reader can tell them apart."""
    fields = [kind.field(place) for place in range(kind.num_fields)] if pa.types.is_struct(kind) else []
    names = [field.name for field in fields]
    for field in fields:
        inside = f"{path}.{field.name}"
        found = inside if names.count(field.name) > 1 else _repeated_field(field.type, inside)
        if found is not None:
            return found
    return None


def _is_known(zone: str) -> bool:
    try:
        pl.Series([], dtype=pl.Int64).cast(pl.Datetime("us", zone))
    except pl.exceptions.PolarsError:
        return False
    return True
