"""Spark over the lake's files: on this machine, or on the cluster that the user's own Spark settings name."""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ctr_pipeline.engines.base import EngineError, EngineName, commit, new_files, sql_types

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from ctr_pipeline.lake import Lake

DRIVER_MEMORY = "2g"
"""Heap of Spark's process on this machine, unless SPARK_DRIVER_MEMORY or spark-defaults.conf sets another."""

_NO_DAY = "__HIVE_DEFAULT_PARTITION__"
_LOG_SETTINGS = """\
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""


def require_spark(environment: Mapping[str, str]) -> None:
    """Looks for what Spark needs, without starting it.

    Raises:
        EngineError: pyspark or Java is missing.
    """
    if find_spec("pyspark") is None:
        raise EngineError(
            "The engine spark needs pyspark, which is not installed. "
            "Run: pip install 'ctr-pipeline[spark]'. Or use --engine duckdb."
        )
    home = environment.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    if shutil.which(java, path=environment.get("PATH")) is None:
        where = f"JAVA_HOME is {home}, and {java} is absent" if home else "no java is in PATH, and JAVA_HOME is not set"
        raise EngineError(
            f"The engine spark needs Java 17 or newer: {where}. "
            "Install it (Debian: apt-get install openjdk-17-jre-headless), or use --engine duckdb."
        )


@contextmanager
def spark_session(scratch: Path, environment: Mapping[str, str]) -> "Iterator[SparkSession]":
    """A Spark session; it and its Java process end with the block, unless they were there before.

    The master is that of SPARK_MASTER or of spark-defaults.conf, else all cores of this machine. What Spark writes
    for itself lies in ``scratch``.

    Raises:
        EngineError: pyspark or Java is missing, or Spark does not start.
    """
    require_spark(environment)
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    running = SparkSession.getActiveSession()
    if running is not None:
        yield running
        return
    has_java = SparkContext._gateway is not None
    session = _started(scratch, environment)
    try:
        yield session
    finally:
        session.stop()
        if not has_java:
            _end_java()


def _started(scratch: Path, environment: Mapping[str, str]) -> "SparkSession":
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    temporary = scratch / "tmp"
    temporary.mkdir()
    log_settings = scratch / "log4j2.properties"
    log_settings.write_text(_LOG_SETTINGS, encoding="utf-8")
    settings = {
        "spark.app.name": "ctr",
        "spark.driver.defaultJavaOptions": f"-Djava.io.tmpdir={_word(temporary)} "
        f"-Dlog4j2.configurationFile={_word(log_settings)}",
        # Otherwise each call of the Python API looks up its line in the source.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
        "spark.local.dir": str(scratch),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    builder = SparkSession.builder
    if environment.get("SPARK_MASTER"):
        builder = builder.master(environment["SPARK_MASTER"])
    for name, value in settings.items():
        builder = builder.config(name, value)
    # Read by Spark's launcher, after spark-defaults.conf: the user's own choice takes precedence.
    before = os.environ.get("SPARK_DRIVER_MEMORY")
    os.environ.setdefault("SPARK_DRIVER_MEMORY", DRIVER_MEMORY)
    try:
        with warnings.catch_warnings():
            # It warns of pandas, which is not used here.
            warnings.simplefilter("ignore")
            session = builder.getOrCreate()
    except (PySparkException, RuntimeError) as error:
        raise EngineError(
            f"Spark did not start: {error}. It needs Java 17 or newer; its own messages are above. "
            "Correct SPARK_MASTER or the Spark settings, or use --engine duckdb."
        ) from error
    finally:
        if before is None:
            del os.environ["SPARK_DRIVER_MEMORY"]
    for name, value in _query_settings(session).items():
        session.conf.set(name, value)
    return session


def _end_java() -> None:
    """Ends Spark's Java process, which pyspark keeps, with its memory, for as long as this process lives."""
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    # It ends when its input does.
    gateway.proc.stdin.close()
    gateway.proc.wait()


def _query_settings(session: "SparkSession") -> dict[str, str]:
    settings = {
        # Overflow and bad casts are errors, as on the other engines.
        "spark.sql.ansi.enabled": "true",
        "spark.sql.session.timeZone": "UTC",
        # Lists files in this process: a job for that takes longer than the listing.
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
    }
    context = session.sparkContext
    if str(context.master).startswith("local") and not context.getConf().contains("spark.sql.shuffle.partitions"):
        settings["spark.sql.shuffle.partitions"] = str(4 * context.defaultParallelism)
    return settings


@dataclass(frozen=True, slots=True)
class SparkEngine:
    """One machine or a cluster; the files of the lake must be visible under one path on all of it."""

    session: "SparkSession"
    scratch: Path
    """Folder for rows between being sorted and being in their table."""
    name: EngineName = "spark"

    def scan(
        self,
        lake: "Lake",
        table: str,
        version: int | None = None,
        first: date | None = None,
        last: date | None = None,
    ) -> "DataFrame":
        """See :meth:`~ctr_pipeline.engines.base.Engine.scan`."""
        files = lake.files(table, version, first, last)
        types = sql_types(lake.scan(table, version).collect_schema(), "array<{}>")
        schema = ", ".join(f"{_quoted(name)} {kind}" for name, kind in types.items())
        if not files:
            return self.session.createDataFrame([], schema)
        reader = self.session.read.schema(schema).option("basePath", _address(lake.root / table))
        # Spark puts the column of the folders last.
        return reader.parquet(*(_pattern(file) for file in files)).select(*map(_quoted, types))

    def replace_days(
        self, lake: "Lake", table: str, frame: "DataFrame", days: Sequence[date], order: Sequence[str]
    ) -> int:
        """See :meth:`~ctr_pipeline.engines.base.Engine.replace_days`."""
        import polars as pl

        from ctr_pipeline.lake import LakeError, refuse_other_days

        pending = self.scratch / f"pending_{uuid4().hex}"
        try:
            # All rows of a day in one partition, so in one file.
            sorted_rows = frame.repartition("day").sortWithinPartitions("day", *order)
            writer = sorted_rows.write.partitionBy("day").option("compression", "zstd")
            writer.parquet(_address(pending))
            written = {_day_of(folder): sorted(folder.glob("*.parquet")) for folder in sorted(pending.glob("day=*"))}
            refuse_other_days(table, list(written), days)
            found = {day: parts for day, parts in written.items() if day is not None}
            if not found:
                empty = pl.DataFrame(frame.limit(0).toArrow())
                return lake.replace_days(table, empty, days)
            files = new_files(lake, table, list(found))
            for day, parts in found.items():
                if len(parts) != 1:
                    raise LakeError(
                        f"table {table}: Spark wrote {len(parts)} files for {day}, expected one. "
                        "Remove spark.sql.files.maxRecordsPerFile from the Spark settings."
                    )
                shutil.move(parts[0], files[day])
            return commit(lake, table, files, days)
        finally:
            shutil.rmtree(pending, ignore_errors=True)


def _day_of(folder: Path) -> date | None:
    value = folder.name.removeprefix("day=")
    return None if value == _NO_DAY else date.fromisoformat(value)


def _address(path: Path) -> str:
    """``path`` as Hadoop names a file of the local file system."""
    return f"file://{path.absolute()}"


def _pattern(file: str) -> str:
    """Address of one file where Spark expects a pattern."""
    special = str.maketrans({character: "\\" + character for character in "\\{}[]*?"})
    return _address(Path(file)).translate(special)


def _word(path: Path) -> str:
    """``path`` as one word of a list of options."""
    text = str(path.absolute())
    return f'"{text}"' if " " in text else text


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
