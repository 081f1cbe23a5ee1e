"""Rows that are erased are in no file and in no entry of the log; the others stay as they are."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from ctr_pipeline.lake import Lake, LakeError
from ctr_pipeline.lake.changes import versions_that_changed
from ctr_pipeline.lake.erasure import erase_rows, purge_history, stored_values, tables_of

MONDAY = date(2026, 1, 5)
DAYS = [MONDAY + timedelta(days=n) for n in range(4)]
# Alphabetically first, so that it is the smallest value in the log's statistics.
GONE, KEPT = "0" * 31 + "1", [f"{n:032x}" for n in range(5, 10)]


def day_rows(day: date, users: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"day": [day] * len(users), "user": users, "value": list(range(len(users)))})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Several versions: the user is in two days now, and was in a third one before."""
    # A name that Delta writes differently in its paths.
    lake = Lake(tmp_path / "lake of ä")
    for users in ([GONE, *KEPT], [*KEPT, GONE, *KEPT]):
        frame = pl.concat([day_rows(day, users) for day in DAYS[:3]])
        lake.replace_days("impressions", frame, DAYS[:3])
    lake.replace_days("impressions", day_rows(DAYS[2], KEPT), [DAYS[2]])
    lake.replace_days("impressions", day_rows(DAYS[3], KEPT), [DAYS[3]])
    return lake


def holders(root: Path, text: str) -> list[Path]:
    """Files below ``root`` that hold ``text``, as bytes or in a decoded Parquet column."""
    return [path for path in sorted(root.rglob("*")) if path.is_file() and holds(path, text)]


def holds(path: Path, text: str) -> bool:
    if path.suffix == ".parquet" and text in str(pl.read_parquet(path, hive_partitioning=False).rows()):
        return True
    return text.encode() in path.read_bytes()


def test_erased_rows_are_nowhere_and_other_rows_unchanged(lake: Lake) -> None:
    before = lake.scan("impressions").collect()
    assert any("_delta_log" in str(file) for file in holders(lake.root, GONE))
    erased = erase_rows(lake, "impressions", pl.col("user") == GONE)
    assert (erased.rows, erased.days) == (2, tuple(DAYS[:2]))
    after = lake.scan("impressions").collect()
    assert_frame_equal(after, before.filter(pl.col("user") != GONE))
    assert holders(lake.root, GONE)

    newest = lake.version("impressions")
    assert purge_history(lake, "impressions") > 0

    assert holders(lake.root, GONE) == []
    assert_frame_equal(lake.scan("impressions").collect(), after)
    assert newest is not None
    assert (lake.version("impressions") or 0) >= newest
    with pytest.raises((LakeError, OSError)):
        lake.scan("impressions", 1).collect()


def test_a_purged_table_is_written_and_purged_again(lake: Lake) -> None:
    erase_rows(lake, "impressions", pl.col("user") == GONE)
    purge_history(lake, "impressions")
    version = lake.replace_days("impressions", day_rows(DAYS[0], KEPT[:2]), [DAYS[0]])
    assert version == lake.version("impressions")
    assert lake.scan("impressions", first=DAYS[0], last=DAYS[0]).collect().height == 2
    assert lake.scan("impressions", version - 1).collect().height > lake.scan("impressions").collect().height
    purge_history(lake, "impressions")
    assert sorted(set(lake.scan("impressions").collect()["day"])) == DAYS
    assert lake.files("impressions") == sorted(str(file) for file in (lake.root / "impressions").glob("day=*/*"))
    for day in DAYS:
        # The oldest version that is left stands for all that was before.
        [oldest] = versions_that_changed(lake, "impressions", day)
        assert oldest == lake.version("impressions")


def test_files_that_nobody_committed_are_seen_and_removed(lake: Lake) -> None:
    orphan = lake.root / "impressions" / f"day={DAYS[3]}" / "left-by-a-killed-process.parquet"
    day_rows(DAYS[3], [GONE]).drop("day").write_parquet(orphan)
    seen = stored_values(lake, "impressions", ["user", "absent"])
    assert set(seen.filter(pl.col("user") == GONE)["day"]) == set(DAYS)
    erase_rows(lake, "impressions", pl.col("user") == GONE)
    purge_history(lake, "impressions")
    assert not orphan.exists()
    assert set(stored_values(lake, "impressions", ["user"])["user"]) == set(KEPT)


def test_a_day_that_loses_all_its_rows_becomes_empty_and_one_that_loses_some_is_corrected(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace_days("labels", pl.concat([day_rows(DAYS[0], [GONE]), day_rows(DAYS[1], [GONE, KEPT[0]])]), DAYS[:2])
    erased = erase_rows(
        lake, "labels", pl.col("user") == GONE, lambda rows: rows.with_columns(value=pl.lit(7, pl.Int64))
    )
    assert erased.days == tuple(DAYS[:2])
    assert lake.scan("labels").collect().rows() == [(DAYS[1], KEPT[0], 7)]
    purge_history(lake, "labels")
    assert lake.scan("labels").collect().rows() == [(DAYS[1], KEPT[0], 7)]
    assert tables_of(lake) == ["labels"]
    assert DeltaTable(str(tmp_path / "labels")).version() == lake.version("labels")


def test_a_table_without_such_rows_gets_no_new_version(lake: Lake) -> None:
    before = lake.version("impressions")
    assert erase_rows(lake, "impressions", pl.col("user") == "nobody").rows == 0
    assert lake.version("impressions") == before


def test_a_table_that_lost_files_is_left_as_it_is(lake: Lake) -> None:
    Path(lake.files("impressions", first=DAYS[0], last=DAYS[0])[0]).unlink()
    before = sorted((lake.root / "impressions").rglob("*.parquet"))
    with pytest.raises(LakeError, match="1 of its files are absent"):
        purge_history(lake, "impressions")
    assert sorted((lake.root / "impressions").rglob("*.parquet")) == before
    assert lake.scan("impressions", first=DAYS[1]).collect().height > 0
