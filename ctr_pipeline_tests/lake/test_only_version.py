"""A day that is written piece by piece: what lies in its folder is what the table holds."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.lake import Lake, LakeError
from ctr_pipeline.lake.erasure import erase_rows, purge_history
from ctr_pipeline.lake.only_version import write_only_version

DAY, NEXT = date(2026, 1, 5), date(2026, 1, 6)


def read(lake: Lake) -> pl.DataFrame:
    """What a pattern of files finds."""
    return pl.read_parquet(lake.root / "t" / "day=*" / "*.parquet", hive_partitioning=True)


def piece(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": values}, schema={"value": pl.Int64})


def test_pieces_become_the_day_and_replace_it_on_disk_too(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = write_only_version(lake, "t", DAY, iter([piece(1, 2), piece(), piece(3)]))
    assert (first.rows, first.schema) == (3, pl.Schema({"value": pl.Int64()}))
    write_only_version(lake, "t", NEXT, [piece(9)])
    last = write_only_version(lake, "t", DAY, [piece(4), piece(5)])
    assert last.version == lake.version("t")
    assert lake.scan("t").select("day", "value").collect().rows() == [(DAY, 4), (DAY, 5), (NEXT, 9)]
    assert read(lake).select("day", "value").rows() == [(DAY, 4), (DAY, 5), (NEXT, 9)]
    assert len(list((tmp_path / "t" / f"day={DAY}").iterdir())) == 1


def test_what_breaks_leaves_the_day_as_it_was(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_only_version(lake, "t", DAY, [piece(1)])

    def broken() -> Iterator[pl.DataFrame]:
        yield piece(2)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_only_version(lake, "t", DAY, broken())
    with pytest.raises(LakeError, match="column value holds Int64"):
        write_only_version(lake, "t", DAY, [pl.DataFrame({"value": ["x"]})])
    with pytest.raises(ValueError, match="at least one frame"):
        write_only_version(lake, "t", DAY, [])
    assert read(lake)["value"].to_list() == lake.scan("t").collect()["value"].to_list() == [1]
    assert len(list((tmp_path / "t" / f"day={DAY}").iterdir())) == 1


def test_erased_rows_are_in_no_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write_only_version(lake, "t", DAY, [piece(1, 2), piece(3)])
    write_only_version(lake, "t", DAY, [piece(1, 2, 3)])
    assert erase_rows(lake, "t", pl.col("value") == 2).rows == 1
    purge_history(lake, "t")
    assert_frame_equal(read(lake).select("value"), piece(1, 3))
