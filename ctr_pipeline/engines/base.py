"""What an engine is: it computes over the lake's files with lazy frames of its own kind, and Delta stores the result.

A relational step that is written once with Narwhals therefore runs on any of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias
from uuid import uuid4

from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake

FEW_ROWS = 200_000
"""So many rows may lie in memory at once, whatever their columns."""

EngineName: TypeAlias = Literal["duckdb", "polars", "spark"]


class EngineError(UserError):
    """An engine that cannot be used; the message names what is missing and how to install it."""


class Engine(Protocol):
    """Reads and replaces days of lake tables as lazy frames of its own kind."""

    @property
    def name(self) -> EngineName:
        """``duckdb``, ``polars`` or ``spark``."""
        ...

    def scan(
        self,
        lake: "Lake",
        table: str,
        version: int | None = None,
        first: date | None = None,
        last: date | None = None,
    ) -> Any:
        """The rows of a lake table from ``first`` to ``last`` (both included), as of ``version``, not read yet.

        A DuckDB relation, a Polars lazy frame or a Spark frame with all the table's columns; ``day`` is a date.

        Raises:
            LakeError: the table or version does not exist.
        """
        ...

    def replace_days(self, lake: "Lake", table: str, frame: Any, days: Sequence[date], order: Sequence[str]) -> int:
        """Replaces ``days`` of a lake table by the rows of a lazy frame, in one commit.

        The rows never lie in Python's memory all at once. Each day becomes one Parquet file.

        Args:
            lake: The tables.
            table: Name of the table.
            frame: Rows with a column ``day``, a frame of this engine.
            days: The days to replace; those without rows become empty.
            order: Columns by which the rows of a day are sorted, nulls first.

        Returns:
            The Delta version that this commit made.

        Raises:
            LakeError: as :meth:`~ctr_pipeline.lake.Lake.commit_files`.
        """
        ...


def new_files(lake: "Lake", table: str, days: Sequence[date]) -> dict[date, Path]:
    """A fresh name for the file of each day, in its folder of the table."""
    files = {day: lake.root / table / f"day={day}" / f"{uuid4()}.parquet" for day in days}
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    return files


def commit(lake: "Lake", table: str, files: Mapping[date, Path], days: Sequence[date]) -> int:
    """Commits the files that an engine wrote; removes them when the lake refuses them."""
    from ctr_pipeline.lake import LakeError

    try:
        return lake.commit_files(table, files, days)
    except LakeError:
        for path in files.values():
            path.unlink(missing_ok=True)
        raise


def sql_types(schema: "Mapping[str, pl.DataType]", list_of: str) -> dict[str, str]:
    """The columns' types as DuckDB and Spark both call them; lists, which they do not, as the engine's ``list_of``."""
    import polars as pl

    names: dict[Any, str] = {
        pl.Boolean: "boolean",
        pl.Int8: "tinyint",
        pl.Int16: "smallint",
        pl.Int32: "int",
        pl.Int64: "bigint",
        pl.Float32: "float",
        pl.Float64: "double",
        pl.String: "string",
        pl.Date: "date",
    }

    def name_of(kind: Any) -> str:
        return list_of.format(name_of(kind.inner)) if isinstance(kind, pl.List) else names[kind.base_type()]

    return {column: name_of(kind) for column, kind in schema.items()}


def intervals_of(days: list[date], length: int, rows: Mapping[date, int] | None = None) -> Iterator[tuple[date, date]]:
    """``days`` (ascending) in consecutive intervals of at most ``length`` days, as (first, last).

    With the ``rows`` of each day an interval has as many more days as hold :data:`FEW_ROWS` together: what is done for
    an interval costs the same for few rows as for many.
    """
    start, held = 0, 0
    for index in range(1, len(days) + 1):
        held += (rows or {}).get(days[index - 1], 0)
        following = held + (rows or {}).get(days[index], 0) if index < len(days) else 0
        full = index - start >= length and (rows is None or following > FEW_ROWS)
        if index == len(days) or full or days[index] - days[index - 1] != timedelta(days=1):
            yield days[start], days[index - 1]
            start, held = index, 0


def write_days(lake: "Lake", table: str, rows: "pl.DataFrame") -> dict[date, Path]:
    """Writes rows (column ``day``, which the files do not hold) as one file a day, in their order."""
    by_day = {day: part for (day,), part in rows.partition_by("day", as_dict=True, include_key=False).items()}
    files = new_files(lake, table, sorted(by_day))
    for day, path in files.items():
        by_day[day].write_parquet(path, compression="zstd")
    return files
