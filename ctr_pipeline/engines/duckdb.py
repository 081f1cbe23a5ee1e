"""DuckDB over the lake's files: one process, little memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ctr_pipeline.engines.base import FEW_ROWS, EngineError, EngineName, commit, new_files, sql_types, write_days

if TYPE_CHECKING:
    import duckdb

    from ctr_pipeline.lake import Lake

MEMORY_VARIABLE = "CTR_DUCKDB_MEMORY"
"""Environment variable: memory that DuckDB may use before it spills, such as ``4GB``."""
DUCKDB_MEMORY = "1GB"
"""Its default."""

FEW_FILES = 30
"""Files with few rows that DuckDB opens itself; the rows of more are read once."""

# With less each, many threads spill far more than there is, or run out of memory.
_BYTES_PER_THREAD = 120_000_000


@contextmanager
def duckdb_session(scratch: Path, environment: Mapping[str, str]) -> "Iterator[duckdb.DuckDBPyConnection]":
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
        if not files or (len(files) > FEW_FILES and _rows(lake, table, version, first, last) <= FEW_ROWS):
            # DuckDB opens each file again for each query that is built on them.
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
            for name, kind in sql_types(rows.collect_schema(), "{}[]").items()
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
            counts = dict(rows.aggregate("day, count(*)").order("day").fetchall())
            found = list(counts)
            refuse_other_days(table, found, days)
            if not found:
                return lake.replace_days(table, rows.pl(), days)
            by = ", ".join(f"{_quoted(column)} NULLS FIRST" for column in order)
            if sum(counts.values()) <= FEW_ROWS:
                # A query a day would cost more than the rows.
                return commit(lake, table, write_days(lake, table, rows.order(f"day, {by}").pl()), days)
            files = new_files(lake, table, found)
            for day, path in files.items():
                mine = rows.filter(f"day = DATE '{day}'").select("* EXCLUDE (day)").order(by)
                mine.write_parquet(str(path), compression="zstd")
            return commit(lake, table, files, days)
        finally:
            self.connection.execute(f"DROP TABLE {name}")


def _rows(lake: "Lake", table: str, version: int | None, first: date | None, last: date | None) -> int:
    days = lake.rows_by_day(table, version).items()
    return sum(rows for day, rows in days if (first or day) <= day <= (last or day))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
