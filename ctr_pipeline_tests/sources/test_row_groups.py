"""Parquet files that pyarrow reads, a row group at a time: a query over one gives what it gives over all rows at once."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest

from ctr_pipeline.sources.files import open_log
from ctr_pipeline.sources.parquet import scan_parquet
from ctr_pipeline.sources.text import ROW
from ctr_pipeline.spec.source import LogFiles

COUNT = 23


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> pl.LazyFrame:
    start = datetime(2026, 3, 1)
    table = pa.table(
        {
            "at": pa.array([start + timedelta(hours=n) for n in range(COUNT)], pa.timestamp("us", "+05:30")),
            "n": [None if n % 5 == 0 else n for n in range(COUNT)],
            "who": [f"user-{n}" for n in range(COUNT)],
            "of": [{"os": "ios" if n % 2 else None} for n in range(COUNT)],
        }
    )
    path: Path = tmp_path_factory.mktemp("log") / "log.parquet"
    arrow_parquet.write_table(table, path, row_group_size=5)
    [file] = open_log(LogFiles(), [path])
    lazy, _, rows = scan_parquet(file, table.column_names, table.column_names)
    assert rows == COUNT
    return lazy


@pytest.mark.parametrize(
    "query",
    [
        lambda rows: rows,
        lambda rows: rows.select(pl.len()),
        lambda rows: rows.select(ROW),
        lambda rows: rows.filter(pl.col("n") >= 12),
        lambda rows: rows.filter(pl.col("n") > 99),
        lambda rows: rows.filter((pl.col("n") > 3) & (pl.col("n") < 12)).select("who"),
        lambda rows: rows.filter(pl.col("n").is_null() | (pl.col(ROW) == 7)).select("n", "of"),
        lambda rows: rows.filter(pl.col("of").struct.field("os") == "ios").select("who", ROW),
        lambda rows: rows.filter(pl.lit(False)),
        lambda rows: rows.filter(pl.col("at").dt.hour() > 20).with_columns(twice=pl.col("n") * 2),
        lambda rows: rows.head(7),
        lambda rows: rows.filter(pl.col("n") > 7).head(2),
        lambda rows: rows.tail(3),
        lambda rows: rows.slice(4, 9),
        lambda rows: rows.select(pl.col("at").min(), pl.col("who").last()),
    ],
)
def test_a_query_gives_what_it_gives_over_all_rows(
    scan: pl.LazyFrame, query: Callable[[pl.LazyFrame], pl.LazyFrame]
) -> None:
    whole = scan.collect()
    assert whole[ROW].to_list() == list(range(COUNT))
    assert query(scan).collect().equals(query(whole.lazy()).collect())
