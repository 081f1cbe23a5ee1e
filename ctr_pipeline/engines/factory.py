"""Opens the engine that a name stands for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ctr_pipeline.engines.base import Engine, EngineName
from ctr_pipeline.engines.spill import spill_folder


def require_engine(name: EngineName, environment: Mapping[str, str]) -> None:
    """Looks for what the engine needs, without starting it.

    Raises:
        EngineError: something is not installed.
    """
    if name == "spark":
        from ctr_pipeline.engines.spark import require_spark

        require_spark(environment)


@contextmanager
def engine_session(name: EngineName, data_root: Path, environment: Mapping[str, str]) -> Iterator[Engine]:
    """The engine called ``name``, until the end of the block.

    Args:
        name: The engine.
        data_root: Folder below which the engine may write for a while.
        environment: Where the engine's memory and Spark's settings are named.

    Raises:
        EngineError: the engine is not installed or cannot start.
    """
    with spill_folder(data_root) as folder:
        if name == "duckdb":
            from ctr_pipeline.engines.duckdb import DuckDBEngine, duckdb_session

            with duckdb_session(folder, environment) as connection:
                yield DuckDBEngine(connection)
        elif name == "polars":
            from ctr_pipeline.engines.polars import PolarsEngine

            yield PolarsEngine(folder)
        else:
            from ctr_pipeline.engines.spark import SparkEngine, spark_session

            with spark_session(folder, environment) as session:
                yield SparkEngine(session, folder)
