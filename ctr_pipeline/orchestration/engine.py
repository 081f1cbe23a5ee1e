"""The engines that compute over the lake's tables: DuckDB, Polars or Spark. They compute, Delta stores.

Each reads and writes its own lazy frames, so a step that is written once with Narwhals runs on any of them.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.scratch import scratch_folder
from ctr_pipeline.orchestration.settings import EngineName, PipelineSettings

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from ctr_pipeline.lake import Lake

MEMORY_VARIABLE = "CTR_DUCKDB_MEMORY"
"""Environment variable: memory that DuckDB may use before it spills, such as ``4GB``."""
DUCKDB_MEMORY = "1GB"
"""Its default."""

# With less each, many threads spill far more than there is, or run out of memory.
_BYTES_PER_THREAD = 120_000_000


class EngineError(UserError):
    """An engine that cannot be used; the message says what is missing and how to install it."""


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


def require_engine(name: EngineName, environment: Mapping[str, str]) -> None:
    """Looks for what the engine needs, without starting it.

    Raises:
        EngineError: something is not installed.
    """
    if name == "spark":
        from ctr_pipeline.orchestration.spark import require_spark

        require_spark(environment)


@contextmanager
def engine_session(settings: PipelineSettings) -> Iterator[Engine]:
    """The engine that the settings name, until the end of the block.

    Raises:
        EngineError: the engine is not installed or cannot start.
    """
    with scratch_folder(settings.data_root) as scratch:
        if settings.engine == "duckdb":
            with _duckdb_session(scratch, os.environ) as connection:
                yield DuckDBEngine(connection)
        elif settings.engine == "polars":
            yield PolarsEngine(scratch)
        else:
            from ctr_pipeline.orchestration.spark import SparkEngine, spark_session

            with spark_session(scratch, os.environ) as session:
                yield SparkEngine(session, scratch)


@contextmanager
def _duckdb_session(scratch: Path, environment: Mapping[str, str]) -> "Iterator[duckdb.DuckDBPyConnection]":
    """An in-memory database that spills into ``scratch`` when memory runs short."""
    import duckdb

    memory = environment.get(MEMORY_VARIABLE) or DUCKDB_MEMORY
    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(scratch),
        "preserve_insertion_order": False,
        "autoload_known_extensions": False,
        "memory_limit": memory,
    }
    try:
        connection = duckdb.connect(config=config)
    except duckdb.Error as error:
        raise EngineError(f"{MEMORY_VARIABLE}={memory!r}: expected an amount of memory such as 4GB.") from error
    try:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        limit = "current_setting('threads'), parse_formatted_bytes(current_setting('memory_limit'))"
        ((threads, limit_bytes),) = connection.sql(f"SELECT {limit}").fetchall()
        connection.execute(f"SET threads = {min(threads, max(1, limit_bytes // _BYTES_PER_THREAD))}")
        yield connection
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class DuckDBEngine:
    """One process, little memory: what does not fit is spilled."""

    connection: "duckdb.DuckDBPyConnection"
    name: EngineName = "duckdb"

    def scan(
        self,
        lake: "Lake",
        table: str,
        version: int | None = None,
        first: date | None = None,
        last: date | None = None,
    ) -> "duckdb.DuckDBPyRelation":
        """See :meth:`Engine.scan`."""
        files = lake.files(table, version, first, last)
        rows = lake.scan(table, version, first, last)
        if not files:
            return self.connection.from_arrow(rows.collect().to_arrow())
        # Not as a parameter: two relations with a parameter of the same name cannot be joined.
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        found = self.connection.sql(
            f"SELECT * FROM read_parquet([{listed}], hive_partitioning = true, union_by_name = true, "
            "hive_types = {'day': DATE})"
        )
        # A column that none of these files has, because all are older than it.
        columns = [
            _quoted(name) if name in found.columns else f"NULL::{kind} AS {_quoted(name)}"
            for name, kind in sql_types(rows.collect_schema()).items()
        ]
        return found.select(", ".join(columns))

    def replace_days(
        self,
        lake: "Lake",
        table: str,
        frame: "duckdb.DuckDBPyRelation",
        days: Sequence[date],
        order: Sequence[str],
    ) -> int:
        """See :meth:`Engine.replace_days`."""
        from ctr_pipeline.lake import refuse_other_days

        name = f"pending_{uuid4().hex}"
        frame.create(name)
        try:
            rows = self.connection.table(name)
            found = [day for (day,) in rows.select("day").distinct().order("day").fetchall()]
            refuse_other_days(table, found, days)
            if not found:
                return lake.replace_days(table, rows.pl(), days)
            by = ", ".join(f"{_quoted(column)} NULLS FIRST" for column in order)
            files = new_files(lake, table, found)
            for day, path in files.items():
                mine = rows.filter(f"day = DATE '{day}'").select("* EXCLUDE (day)").order(by)
                mine.write_parquet(str(path), compression="zstd")
            return commit(lake, table, files, days)
        finally:
            self.connection.execute(f"DROP TABLE {name}")


@dataclass(frozen=True, slots=True)
class PolarsEngine:
    """One process, quick where the data fits into memory."""

    scratch: Path
    """Folder for rows between being computed and being sorted."""
    name: EngineName = "polars"

    def scan(
        self,
        lake: "Lake",
        table: str,
        version: int | None = None,
        first: date | None = None,
        last: date | None = None,
    ) -> "pl.LazyFrame":
        """See :meth:`Engine.scan`."""
        return lake.scan(table, version, first, last)

    def replace_days(
        self, lake: "Lake", table: str, frame: "pl.LazyFrame", days: Sequence[date], order: Sequence[str]
    ) -> int:
        """See :meth:`Engine.replace_days`."""
        import polars as pl

        from ctr_pipeline.lake import refuse_other_days

        pending = self.scratch / f"pending_{uuid4().hex}.parquet"
        try:
            frame.sink_parquet(pending, compression="lz4")
            rows = pl.scan_parquet(pending)
            found = rows.select(pl.col("day").unique().sort()).collect()["day"].to_list()
            refuse_other_days(table, found, days)
            if not found:
                return lake.replace_days(table, rows.collect(), days)
            files = new_files(lake, table, found)
            for day, path in files.items():
                mine = rows.filter(pl.col("day") == day).drop("day").sort(order, nulls_last=False)
                mine.sink_parquet(path, compression="zstd")
            return commit(lake, table, files, days)
        finally:
            pending.unlink(missing_ok=True)


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


def sql_types(schema: "Mapping[str, pl.DataType]") -> dict[str, str]:
    """The columns' types as DuckDB and Spark both call them."""
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
    return {column: names[kind.base_type()] for column, kind in schema.items()}


def stretches_of(days: list[date], length: int) -> Iterator[tuple[date, date]]:
    """``days`` (ascending) in consecutive stretches of at most ``length`` days, as (first, last)."""
    start = 0
    for index in range(1, len(days) + 1):
        ends = index == len(days) or index - start == length or days[index] - days[index - 1] != timedelta(days=1)
        if ends:
            yield days[start], days[index - 1]
            start = index


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
