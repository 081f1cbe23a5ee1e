"""The three engines for tests: sessions, and frames that go in and out of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.engines.base import Engine, EngineError, EngineName
from ctr_pipeline.engines.factory import engine_session
from ctr_pipeline.engines.spark import require_spark
from ctr_pipeline.lake import Lake
from ctr_pipeline.spec import parse_spec

# For many small queries, not for large ones.
SPARK_DEFAULTS = """\
spark.master local[2]
spark.sql.shuffle.partitions 2
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""

ENGINES: tuple[EngineName, ...] = ("duckdb", "polars", "spark")

SPEC_TEXT = """
version: 1
name: small
source: {impressions: {paths: [x.parquet]}, events: [{paths: [y.parquet]}]}
impression: {id: i, time: t}
features: {dense: [{name: price}]}
tasks: [{name: click, window: 1d, label: {event: click}}]
"""

Session = Callable[[EngineName], Engine]


def settings_for(root: Path, engine: EngineName) -> Deployment:
    """A deployment below ``root`` that uses ``engine``."""
    return Deployment(
        spec=parse_spec(SPEC_TEXT, "small.yaml"),
        spec_text=SPEC_TEXT,
        spec_folder=root,
        data_root=root,
        event_inputs={},
        first_day=date(2026, 1, 1),
        log_first_day=date(2026, 1, 1),
        engine=engine,
    )


@pytest.fixture(scope="session")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Gives each engine, started when it is first asked for, for all tests; pytest-xdist runs these in one worker."""
    with engine_sessions(tmp_path_factory.mktemp("engines")) as session:
        yield session


@contextmanager
def engine_sessions(root: Path) -> Iterator[Session]:
    """Gives each engine; skips the test where Spark or Java is not installed.

    The working folder while they start is ``root/cwd``.
    """
    (root / "cwd").mkdir(parents=True)
    (root / "spark-defaults.conf").write_text(SPARK_DEFAULTS, encoding="utf-8")
    started: dict[EngineName, Engine] = {}
    with ExitStack() as stack:

        def session(name: EngineName) -> Engine:
            if name == "spark":
                try:
                    require_spark(os.environ)
                except EngineError as error:
                    pytest.skip(str(error))
            if name not in started:
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(root / "cwd")
                    patch.setenv("SPARK_CONF_DIR", str(root))
                    started[name] = stack.enter_context(engine_session(name, root / name, os.environ))
            return started[name]

        yield session


def collected(native: Any) -> pl.DataFrame:
    """The rows of any engine's frame."""
    if isinstance(native, pl.LazyFrame):
        return native.collect()
    frame = pl.DataFrame(native.toArrow()) if hasattr(native, "toArrow") else native.pl()
    assert isinstance(frame, pl.DataFrame)
    return frame


def bits(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with floats as their bits, so that NaN equals itself and -0.0 differs from 0.0."""
    return frame.with_columns(pl.col(pl.Float64).reinterpret(dtype=pl.Int64))


def stored(lake: Lake, table: str) -> list[Path]:
    """All Parquet files below a table's folder, referenced or not."""
    return sorted((lake.root / table).rglob("*.parquet"))
