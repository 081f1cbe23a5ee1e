"""DuckDB over the lake's files: it computes, Delta stores."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING

from ctr_pipeline.orchestration.settings import PipelineSettings

if TYPE_CHECKING:
    import duckdb

    from ctr_pipeline.lake import Lake


@contextmanager
def duckdb_session(settings: PipelineSettings) -> "Iterator[duckdb.DuckDBPyConnection]":
    """An in-memory database that spills into the data root when memory runs short."""
    import duckdb

    spill = settings.data_root / "spill"
    spill.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(
        config={"temp_directory": str(spill), "preserve_insertion_order": False, "autoload_known_extensions": False}
    )
    try:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def relation(
    connection: "duckdb.DuckDBPyConnection",
    lake: "Lake",
    table: str,
    version: int | None = None,
    first: date | None = None,
    last: date | None = None,
) -> "duckdb.DuckDBPyRelation":
    """The rows of a lake table from ``first`` to ``last``, as of ``version``, without reading them yet."""
    files = lake.files(table, version, first, last)
    if not files:
        return connection.from_arrow(lake.scan(table, version, first, last).collect().to_arrow())
    # Not as a parameter: two relations with a parameter of the same name cannot be joined.
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return connection.sql(
        f"SELECT * FROM read_parquet([{listed}], hive_partitioning = true, union_by_name = true, "
        "hive_types = {'day': DATE})"
    )


def stretches_of(days: list[date], length: int) -> Iterator[tuple[date, date]]:
    """``days`` (ascending) in consecutive stretches of at most ``length`` days, as (first, last)."""
    start = 0
    for index in range(1, len(days) + 1):
        ends = index == len(days) or index - start == length or days[index] - days[index - 1] != timedelta(days=1)
        if ends:
            yield days[start], days[index - 1]
            start = index
