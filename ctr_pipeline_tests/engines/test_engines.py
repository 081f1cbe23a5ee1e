"""Engines read and replace days of lake tables alike, and say what they miss."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import narwhals.stable.v2 as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from ctr_pipeline.cli import app
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.engines.base import EngineError, EngineName
from ctr_pipeline.engines.factory import engine_session
from ctr_pipeline.engines.polars import PolarsEngine
from ctr_pipeline.engines.spark import SparkEngine, require_spark
from ctr_pipeline.lake import Lake, LakeError
from ctr_pipeline_tests.engine_sessions import ENGINES, Session, bits, collected, settings_for, stored

DAYS = [date(2026, 1, 1) + timedelta(days=n) for n in range(5)]
NAN, INF = float("nan"), float("inf")
each_engine = pytest.mark.parametrize("name", ENGINES)

EDGES = pl.DataFrame(
    {
        "day": [DAYS[n % 3] for n in range(12)],
        "text": ["", "a", "B", "é", "日本", None, "\U0001f600", "a,b", " ", "a\nb", "\u0000x", "'\"`"],
        "x": [0.0, -0.0, NAN, INF, -INF, None, 5e-324, -5e-324, 1.7976931348623157e308, 0.1, -1.5, 1e-300],
        "whole": [2**63 - 1, -(2**63), 0, None, -1, 1, 2**53 + 1, 5, 5, 5, 7, 7],
        "small": pl.Series([1, -1, None, 2**31 - 1, -(2**31), 0, 1, 2, 3, 4, 5, 6], dtype=pl.Int32),
        "tiny": pl.Series([1, 0, None, 127, -128, 0, 1, 1, 1, 1, 1, 1], dtype=pl.Int8),
        "flag": [True, False, None] * 4,
    }
)


LISTS = pl.DataFrame(
    {
        "day": [DAYS[n % 3] for n in range(6)],
        "at": list(range(6)),
        "texts": [["a", "B"], [], None, ["é, \U0001f600"], ["", "a", "a"], [None, "x"]],
        "vector": [[0.1, -0.0], None, [], [1e-300, 1.7976931348623157e308], [3.0], [None, 1.0]],
    },
    schema_overrides={"texts": pl.List(pl.String), "vector": pl.List(pl.Float64)},
)


def lake_with(tmp_path: Path, frame: pl.DataFrame, days: Sequence[date] = DAYS) -> Lake:
    lake = Lake(tmp_path / "lake")
    lake.replace_days("t", frame, days)
    return lake


def in_some_order(frame: pl.DataFrame) -> pl.DataFrame:
    return bits(frame).sort(frame.columns)


@each_engine
def test_every_value_is_read_as_it_was_written(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake = lake_with(tmp_path, EDGES)
    read = collected(sessions(name).scan(lake, "t"))
    assert read.schema == EDGES.schema
    assert_frame_equal(in_some_order(read), in_some_order(EDGES))


@each_engine
def test_every_value_is_written_as_it_was_read(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, EDGES), sessions(name)
    engine.replace_days(lake, "copy", engine.scan(lake, "t"), DAYS, ["whole", "text"])
    copy = lake.scan("copy").collect()
    assert copy.schema == EDGES.schema
    # Also in order: by day, nulls first.
    assert_frame_equal(bits(copy), bits(EDGES.sort("day", "whole", "text", nulls_last=False)))
    assert [Path(file).parent.name for file in lake.files("copy")] == [f"day={day}" for day in DAYS[:3]]


@each_engine
def test_lists_are_read_and_written_as_they_are(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, LISTS), sessions(name)
    read = collected(engine.scan(lake, "t"))
    assert read.schema == LISTS.schema
    assert_frame_equal(read.sort("at"), LISTS)
    engine.replace_days(lake, "copy", engine.scan(lake, "t"), DAYS, ["at"])
    assert_frame_equal(lake.scan("copy").collect().sort("at"), LISTS)
    assert collected(engine.scan(lake, "t", first=DAYS[4])).schema == LISTS.schema


@each_engine
def test_versions_and_days_select_rows(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, EDGES), sessions(name)
    newest = lake.replace_days("t", EDGES.filter(day=DAYS[1]).head(1), DAYS[1:2])
    for version, first, last in ((newest - 1, DAYS[1], DAYS[1]), (None, DAYS[1], None), (None, None, DAYS[0])):
        expected = lake.scan("t", version, first, last).collect()
        assert expected.height
        read = collected(engine.scan(lake, "t", version, first, last))
        assert_frame_equal(in_some_order(read), in_some_order(expected))


@each_engine
def test_an_empty_interval_has_the_tables_columns(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, EDGES), sessions(name)
    read = collected(engine.scan(lake, "t", first=DAYS[3]))
    assert read.schema == EDGES.schema
    assert read.height == 0
    with pytest.raises(LakeError, match="table absent: not found"):
        engine.scan(lake, "absent")


@each_engine
def test_columns_that_are_younger_than_the_files_are_null(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, EDGES), sessions(name)
    wider = EDGES.filter(day=DAYS[2]).with_columns(price=pl.lit(2.5), city=pl.lit("x")).drop("flag")
    lake.replace_days("t", wider, DAYS[2:3])
    for first, last in ((DAYS[0], DAYS[1]), (DAYS[2], DAYS[2]), (None, None)):
        expected = lake.scan("t", first=first, last=last).collect()
        read = collected(engine.scan(lake, "t", first=first, last=last))
        assert read.schema == expected.schema
        assert_frame_equal(in_some_order(read), in_some_order(expected))


@each_engine
def test_named_days_are_replaced_and_others_stay(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, EDGES), sessions(name)
    before = lake.version("t")
    last_day = nw.from_native(engine.scan(lake, "t", first=DAYS[2])).filter(nw.col("whole") > 0)
    version = engine.replace_days(lake, "t", last_day.to_native(), [DAYS[2], DAYS[0]], ["whole"])
    assert version == lake.version("t") == (before or 0) + 1
    expected = [EDGES.filter(day=DAYS[1]), EDGES.filter(pl.col("day") == DAYS[2], pl.col("whole") > 0).sort("whole")]
    assert_frame_equal(bits(lake.scan("t").collect()), bits(pl.concat(expected)))


@each_engine
def test_no_rows_make_the_days_empty_or_an_empty_table(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, EDGES), sessions(name)
    nothing = nw.from_native(engine.scan(lake, "t")).filter(nw.col("tiny") > 127).to_native()
    engine.replace_days(lake, "new", nothing, DAYS, ["whole"])
    assert lake.scan("new").collect_schema() == EDGES.schema
    engine.replace_days(lake, "t", nothing, DAYS[:2], ["whole"])
    assert lake.scan("t").collect()["day"].unique().to_list() == [DAYS[2]]


@each_engine
def test_rows_of_other_days_are_refused_and_leave_nothing(tmp_path: Path, sessions: Session, name: EngineName) -> None:
    lake, engine = lake_with(tmp_path, EDGES), sessions(name)
    files, version = stored(lake, "t"), lake.version("t")
    rows = nw.from_native(engine.scan(lake, "t"))
    dayless = rows.with_columns(day=nw.when(nw.col("whole") > 0).then(nw.col("day")).otherwise(None).cast(nw.Date))
    for frame, days, what in (
        (rows, DAYS[:2], f"rows of {DAYS[2]}, but days"),
        (dayless, DAYS, "rows of None"),
        (rows, [], "no days"),
    ):
        with pytest.raises(LakeError, match=what):
            engine.replace_days(lake, "t", frame.to_native(), days, ["whole"])
    # A type that the table does not hold is found at the commit, when the files are there.
    other_type = rows.with_columns(small=nw.col("small").cast(nw.Int64)).to_native()
    with pytest.raises(LakeError, match="column small holds Int32"):
        engine.replace_days(lake, "t", other_type, DAYS, ["whole"])
    assert stored(lake, "t") == files
    assert lake.version("t") == version
    if isinstance(engine, PolarsEngine | SparkEngine):
        assert list(engine.scratch.glob("pending*")) == []


def test_duckdb_writes_more_than_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTR_DUCKDB_MEMORY", "120MB")
    lake, rows = Lake(tmp_path / "lake"), 6_000_000
    with engine_session("duckdb", tmp_path, os.environ) as engine:
        connection: duckdb.DuckDBPyConnection = engine.connection  # type: ignore[attr-defined]
        limit = connection.sql("SELECT current_setting('memory_limit')").fetchall()
        assert limit == [("114.4 MiB",)]
        frame = connection.sql(
            f"SELECT DATE '{DAYS[0]}' + (i % 2)::INTEGER AS day, (hash(i) >> 1)::BIGINT AS a, "
            f"(hash(-i) >> 1)::BIGINT AS b, i AS c FROM range({rows}) t(i)"
        )
        # Each thread needs some of it.
        assert connection.sql("SELECT current_setting('threads')").fetchall() == [(1,)]
        engine.replace_days(lake, "t", frame, DAYS, ["a"])
    assert lake.scan("t").select(pl.len()).collect().item() == rows
    for day in DAYS[:2]:
        assert lake.scan("t", first=day, last=day).collect()["a"].is_sorted()
    assert list((tmp_path / "spill").iterdir()) == []


def test_an_amount_of_memory_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTR_DUCKDB_MEMORY", "a lot")
    with (
        pytest.raises(EngineError, match="CTR_DUCKDB_MEMORY='a lot': expected an amount"),
        engine_session("duckdb", tmp_path, os.environ),
    ):
        pass


def test_the_settings_keep_the_engine(tmp_path: Path) -> None:
    for name in ENGINES:
        settings_for(tmp_path, name).save()
        assert Deployment.load(tmp_path).engine == name
    # A data root of a version that knew no engines.
    path = tmp_path / "pipeline.json"
    content = json.loads(path.read_text())
    del content["engine"]
    path.write_text(json.dumps(content))
    assert Deployment.load(tmp_path).engine == "duckdb"


def test_spark_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"needs Java 17 or newer: no java is in PATH.*openjdk-17"):
        require_spark({"PATH": str(tmp_path)})
    with pytest.raises(EngineError, match=rf"JAVA_HOME is {tmp_path}"):
        require_spark({"PATH": "/usr/bin", "JAVA_HOME": str(tmp_path)})
    monkeypatch.setattr("ctr_pipeline.engines.spark.find_spec", lambda _: None)
    with pytest.raises(EngineError, match=r"pip install 'ctr-pipeline\[spark\]'"):
        require_spark({})


def test_the_command_says_so_before_it_does_anything(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ctr_pipeline.engines.spark.find_spec", lambda _: None)
    spec, root = project / "specs" / "ads.yaml", tmp_path / "data"
    arguments = ["run", "--spec", str(spec), "--data-root", str(root), "--engine"]
    done = CliRunner().invoke(app, [*arguments, "spark"])
    assert done.exit_code == 2
    assert "Error: The engine spark needs pyspark" in done.stderr
    assert not root.exists()
    unknown = CliRunner().invoke(app, [*arguments, "flink"])
    assert unknown.exit_code == 2
    assert "'flink' is not one of 'duckdb'" in unknown.stderr


def test_only_spark_loads_pyspark(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from ctr_pipeline.engines.factory import engine_session
import ctr_pipeline.definitions
for name in ("duckdb", "polars"):
    with engine_session(name, Path(sys.argv[1]), os.environ) as engine:
        assert engine.name == name
assert "pyspark" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_spark_writes_nothing_outside_its_folder(tmp_path: Path, sessions: Session) -> None:
    engine: Any = sessions("spark")
    session = engine.session
    assert session.conf.get("spark.local.dir") == str(engine.scratch)
    assert session.conf.get("spark.sql.warehouse.dir") == f"file:{engine.scratch}/warehouse"
    # The folder in which it was started.
    assert list((engine.scratch.parents[2] / "cwd").iterdir()) == []
    assert session.conf.get("spark.sql.session.timeZone") == "UTC"
    assert session.conf.get("spark.sql.ansi.enabled") == "true"
    assert session.sparkContext.uiWebUrl is None


@pytest.mark.nightly
def test_the_users_own_spark_settings_count(tmp_path: Path) -> None:
    """Master and memory from spark-defaults.conf; everything is gone when the session ends."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text("spark.master local[1]\nspark.driver.memory 700m\n", encoding="utf-8")
    code = """
import os, sys
from pathlib import Path
import psutil
from pyspark.sql import SparkSession
from ctr_pipeline.engines.factory import engine_session
root = Path(sys.argv[1])
for master in (None, "local[3]"):
    if master:
        os.environ["SPARK_MASTER"] = master
    with engine_session("spark", root, os.environ) as engine:
        context = engine.session.sparkContext
        print(context.master, context.getConf().get("spark.driver.memory"))
        assert engine.session.range(1000).selectExpr("sum(id)").collect()[0][0] == 499500
        java = psutil.Process().children()
        assert [process.name() for process in java] == ["java"]
    assert SparkSession.getActiveSession() is None
    assert psutil.Process().children() == []
    assert list((root / "spill").iterdir()) == []
assert "SPARK_DRIVER_MEMORY" not in os.environ
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "root")],
        check=True,
        timeout=200,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "SPARK_CONF_DIR": str(conf), "PYTHONPATH": str(Path.cwd())},
    )
    assert done.stdout.split() == ["local[1]", "700m", "local[3]", "700m"]
    assert [line for line in done.stderr.splitlines() if "incubator" not in line] == []
