"""Delta tables by day: atomic replacement, time travel, order, and what each failure says."""

import multiprocessing
from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctr_pipeline.lake import Lake, LakeError

MONDAY = date(2026, 1, 5)
DAYS = [MONDAY + timedelta(days=n) for n in range(5)]


def rows(*pairs: tuple[int, int]) -> pl.DataFrame:
    """One row for each (index of the day, value)."""
    return pl.DataFrame(
        {"day": [DAYS[d] for d, _ in pairs], "value": [v for _, v in pairs]},
        schema={"day": pl.Date, "value": pl.Int64},
    )


def values(frame: pl.LazyFrame) -> list[tuple[date, int]]:
    return frame.select("day", "value").collect().rows()


def test_a_table_is_made_at_the_first_write_and_read_back_in_order(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    assert not lake.exists("labels")
    assert lake.version("labels") is None
    version = lake.replace_days("labels", rows((1, 30), (0, 20), (1, 10), (0, 40)), DAYS[:2])
    assert lake.exists("labels")
    assert lake.version("labels") == version
    assert values(lake.scan("labels")) == [(DAYS[0], 20), (DAYS[0], 40), (DAYS[1], 30), (DAYS[1], 10)]


def test_replacing_days_leaves_the_others_and_is_one_commit(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = lake.replace_days("t", rows((0, 1), (1, 2), (2, 3)), DAYS[:3])
    second = lake.replace_days("t", rows((2, 33)), [DAYS[2], DAYS[0]])
    assert second == first + 1
    assert values(lake.scan("t")) == [(DAYS[1], 2), (DAYS[2], 33)]
    assert values(lake.scan("t", version=first)) == [(DAYS[0], 1), (DAYS[1], 2), (DAYS[2], 3)]


def test_the_facts_of_a_version_are_those_of_that_version(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    empty = lake.replace_days("t", rows(), DAYS[:1])
    second = lake.replace_days("t", rows((1, 2), (1, 3), (3, 4)), DAYS[:4])
    lake.replace_days("t", rows((4, 5)), DAYS[4:])
    before, after = lake.facts("t", empty), lake.facts("t", second)
    assert (before.rows, before.first_day, before.last_day) == (0, None, None)
    assert (after.rows, after.first_day, after.last_day) == (3, DAYS[1], DAYS[3])
    assert after.schema == {"day": pl.Date, "value": pl.Int64}
    assert before.id == after.id
    with pytest.raises(LakeError, match="version 9 cannot be read"):
        lake.facts("t", 9)


def test_an_empty_frame_makes_the_table_with_its_columns(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace_days("quarantine", rows(), DAYS[:1])
    assert lake.scan("quarantine").collect_schema() == {"day": pl.Date, "value": pl.Int64}
    assert lake.scan("quarantine").collect().height == 0
    assert lake.files("quarantine") == []
    lake.replace_days("quarantine", rows((0, 1)), DAYS[:1])
    lake.replace_days("quarantine", rows(), DAYS[:1])
    assert lake.scan("quarantine").collect().height == 0


def test_day_ranges_and_versions_select_rows_and_files(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    version = lake.replace_days("t", rows(*((d, d) for d in range(5))), DAYS)
    lake.replace_days("t", rows(), DAYS[1:3])
    assert values(lake.scan("t", first=DAYS[1], last=DAYS[3])) == [(DAYS[3], 3)]
    assert values(lake.scan("t", version, first=DAYS[1], last=DAYS[3])) == [(DAYS[d], d) for d in (1, 2, 3)]
    assert len(lake.files("t", version, first=DAYS[1], last=DAYS[3])) == 3
    assert len(lake.files("t", first=DAYS[3])) == 2
    assert len(lake.files("t", last=DAYS[3])) == 2


def test_duckdb_reads_the_files(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace_days("t", rows((0, 1), (1, 2)), DAYS[:2])
    lake.replace_days("t", rows((2, 3)).with_columns(extra=pl.lit("x")), DAYS[2:3])
    relation = duckdb.connect().execute(
        "SELECT day, value, extra FROM read_parquet(?, hive_partitioning = true, union_by_name = true) ORDER BY value",
        [lake.files("t")],
    )
    assert relation.fetchall() == [(DAYS[0], 1, None), (DAYS[1], 2, None), (DAYS[2], 3, "x")]


def test_columns_may_come_and_go(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace_days("t", rows((0, 1)), DAYS[:1])
    lake.replace_days("t", rows((1, 2)).with_columns(price=pl.lit(2.5)), DAYS[1:2])
    lake.replace_days("t", rows((2, 3)), DAYS[2:3])
    assert lake.scan("t").collect()["price"].to_list() == [None, 2.5, None]


def test_several_frames_are_stored_one_after_the_other(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace_days("t", (rows((0, v), (1, v)) for v in range(40, 0, -1)), DAYS[:2])
    assert values(lake.scan("t")) == [(DAYS[d], v) for d in (0, 1) for v in range(40, 0, -1)]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    frame = pl.DataFrame({"day": [DAYS[n % 3] for n in range(9000)], "value": range(9000)})
    contents = []
    for name in ("a", "b"):
        lake = Lake(tmp_path / name)
        lake.replace_days("t", frame, DAYS[:3])
        contents.append([Path(file).read_bytes() for file in lake.files("t")])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3


def test_old_versions_are_never_cleaned_up(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.replace_days("t", rows((0, 1)), DAYS[:1])
    assert DeltaTable(str(tmp_path / "t")).metadata().configuration == {"delta.enableExpiredLogCleanup": "false"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 4), min_size=1), st.lists(st.tuples(st.integers(0, 4), st.integers()), max_size=6)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_table_behaves_like_a_dictionary_by_day(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[set[int], list[tuple[int, int]]]]
) -> None:
    lake = Lake(tmp_path_factory.mktemp("lake"))
    model: dict[int, list[int]] = {}
    snapshots: dict[int, list[tuple[date, int]]] = {}
    for days, content in writes:
        kept = [(d, v % 2**40) for d, v in content if d in days]
        version = lake.replace_days("t", rows(*kept), [DAYS[d] for d in days])
        model.update({d: [v for e, v in kept if e == d] for d in days})
        snapshots[version] = [(DAYS[d], v) for d in sorted(model) for v in model[d]]
    for version, expected in snapshots.items():
        assert values(lake.scan("t", version)) == expected


@pytest.mark.parametrize(
    ("frame", "days", "parts"),
    [
        (rows((0, 1), (3, 1)), DAYS[:2], ["table t", str(DAYS[3]), f"days {DAYS[0]} to {DAYS[1]}"]),
        (rows((0, 1)).with_columns(day=pl.lit(None, pl.Date)), DAYS[:1], ["table t", f"day {DAYS[0]}"]),
        (rows((0, 1)).drop("day"), DAYS[:1], ["column day", "found none"]),
        (rows((0, 1)).with_columns(day=pl.lit("2026-01-05")), DAYS[:1], ["column day", "found String"]),
        (rows(), [], ["no days to replace"]),
        (rows((0, 1)).with_columns(value=pl.lit("x")), DAYS[:1], ["column value", "Int64", "String", "new data root"]),
    ],
)
def test_rows_that_do_not_belong_are_refused_and_nothing_changes(
    tmp_path: Path, frame: pl.DataFrame, days: list[date], parts: list[str]
) -> None:
    lake = Lake(tmp_path)
    version = lake.replace_days("t", rows((0, 7)), DAYS[:1])
    with pytest.raises(LakeError) as caught:
        lake.replace_days("t", frame, days)
    assert [part for part in parts if part not in str(caught.value)] == []
    assert lake.version("t") == version
    assert values(lake.scan("t")) == [(DAYS[0], 7)]


def test_absent_tables_and_versions_are_named(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(LakeError, match=r"table history: not found .* Materialise it first"):
        lake.scan("history")
    newest = lake.replace_days("t", rows((0, 1)), DAYS[:1])
    with pytest.raises(LakeError, match=rf"version 9 cannot be read; versions go from 0 to {newest}"):
        lake.files("t", version=9)


def _write_days(root: str, indices: list[int], barrier: "multiprocessing.synchronize.Barrier") -> None:
    lake = Lake(Path(root))
    barrier.wait(60)
    for index in indices:
        lake.replace_days("t", rows((index, index)), [DAYS[index]])


def test_two_processes_may_write_different_days_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=_write_days, args=(str(tmp_path), days, barrier)) for days in ([0, 1], [2, 3])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(90)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert values(Lake(tmp_path).scan("t")) == [(DAYS[d], d) for d in range(4)]
