"""A day of a table that is written piece by piece, and of which only the newest content is kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from uuid import uuid4

import polars as pl
import pyarrow.parquet as pq

from ctr_pipeline.lake.tables import DAY, Lake


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenDay:
    """A day that was written."""

    version: int
    """The Delta version that holds it."""
    rows: int
    schema: pl.Schema
    """Columns of the table's files, without the day."""


def write_only_version(lake: Lake, table: str, day: date, pieces: Iterable[pl.DataFrame]) -> WrittenDay:
    """Makes ``pieces``, frames of the same columns without ``day``, the content of a day, one after the other.

    One piece is in memory at a time. What the day held before is removed from disk with the commit, so that the files in the
    folder of the day are always those of the newest version: ``read_parquet('<table>/day=…/*.parquet')`` reads what the table
    holds. Earlier versions of the day cannot be read any more.

    Raises:
        LakeError: a column has another type than in the table, or another writer kept changing it.
        ValueError: there is no piece.
    """
    folder = lake.root / table / f"{DAY}={day}"
    folder.mkdir(parents=True, exist_ok=True)
    # A name that no pattern of Parquet files finds, until all rows are there.
    partial = folder / f".{uuid4()}.partial"
    rows, schema, writer = 0, None, None
    try:
        for piece in pieces:
            arrow = piece.to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                schema = piece.schema
                writer = pq.ParquetWriter(partial, arrow.schema, compression="zstd")
            writer.write_table(arrow)
            rows += piece.height
        if writer is None or schema is None:
            raise ValueError("expected at least one frame, which may be empty")
        writer.close()
        path = partial.with_name(f"{partial.stem.lstrip('.')}.parquet")
        partial.rename(path)
        try:
            version = lake.commit_files(table, {day: path}, [day])
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    finally:
        partial.unlink(missing_ok=True)
    for other in folder.iterdir():
        if other != path:
            other.unlink()
    return WrittenDay(version=version, rows=rows, schema=schema)
