"""Parquet files that an engine has written become days of a table, all at once or not at all."""

import multiprocessing
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.lake import Lake, LakeError

MONDAY = date(2026, 1, 5)
DAYS = [MONDAY + timedelta(days=n) for n in range(5)]


def write(lake: Lake, day: date, values: Sequence[int | None], name: str = "part", **columns: object) -> Path:
    """A file of one column ``value`` (Int64) and the constant ``columns``, where the lake expects it."""
    path = lake.root / "t" / f"day={day}" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({"value": values}, schema={"value": pl.Int64})
    frame.with_columns(**{column: pl.lit(value) for column, value in columns.items()}).write_parquet(path)
    return path


def rows(lake: Lake, version: int | None = None) -> list[tuple[date, int]]:
    return lake.scan("t", version).select("day", "value").collect().rows()


def test_files_become_the_days_in_one_commit(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    first = lake.commit_files("t", {d: write(lake, d, [n, n + 10]) for n, d in enumerate(DAYS[:3])}, DAYS[:3])
    assert rows(lake) == [(DAYS[0], 0), (DAYS[0], 10), (DAYS[1], 1), (DAYS[1], 11), (DAYS[2], 2), (DAYS[2], 12)]
    second = lake.commit_files("t", {DAYS[2]: write(lake, DAYS[2], [7], "other")}, [DAYS[2], DAYS[0]])
    assert second == first + 1 == lake.version("t")
    assert rows(lake) == [(DAYS[1], 1), (DAYS[1], 11), (DAYS[2], 7)]
    assert len(rows(lake, first)) == 6
    assert DeltaTable(str(tmp_path / "t")).count() == 3


def test_both_ways_of_writing_share_a_table(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    frame = pl.DataFrame({"day": DAYS[:2], "value": [1, 2]})
    lake.replace_days("t", frame, DAYS[:2])
    lake.commit_files("t", {DAYS[1]: write(lake, DAYS[1], [3])}, DAYS[1:2])
    assert rows(lake) == [(DAYS[0], 1), (DAYS[1], 3)]
    lake.replace_days("t", frame.head(0), DAYS[1:2])
    assert rows(lake) == [(DAYS[0], 1)]
    assert DeltaTable(str(tmp_path / "t")).metadata().configuration == {"delta.enableExpiredLogCleanup": "false"}


def test_columns_may_come_and_go(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.commit_files("t", {DAYS[0]: write(lake, DAYS[0], [1])}, DAYS[:1])
    lake.commit_files("t", {DAYS[1]: write(lake, DAYS[1], [2], price=2.5)}, DAYS[1:2])
    lake.commit_files("t", {DAYS[2]: write(lake, DAYS[2], [3])}, DAYS[2:3])
    assert lake.scan("t").collect()["price"].to_list() == [None, 2.5, None]
    assert lake.scan("t").collect_schema() == {"day": pl.Date, "value": pl.Int64, "price": pl.Float64}


def test_days_can_be_emptied_but_a_table_needs_columns(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(LakeError, match="table t: not found"):
        lake.commit_files("t", {}, DAYS[:1])
    lake.commit_files("t", {DAYS[0]: write(lake, DAYS[0], [1])}, DAYS[:1])
    lake.commit_files("t", {}, DAYS[:2])
    assert rows(lake) == []
    assert lake.scan("t").collect_schema() == {"day": pl.Date, "value": pl.Int64}


def test_a_file_without_commit_is_never_seen(tmp_path: Path) -> None:
    """What a killed process leaves: its file is not read, nor does it hinder the next one."""
    lake = Lake(tmp_path)
    write(lake, DAYS[0], [99], "left_behind")
    assert not lake.exists("t")
    lake.commit_files("t", {DAYS[0]: write(lake, DAYS[0], [1])}, DAYS[:1])
    write(lake, DAYS[1], [99], "left_behind")
    assert rows(lake) == [(DAYS[0], 1)]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sets(st.integers(0, 4), min_size=1),
            st.dictionaries(st.integers(0, 4), st.lists(st.integers(-9, 9), min_size=1, max_size=3)),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_table_behaves_like_a_dictionary_by_day(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[set[int], dict[int, list[int]], bool]]
) -> None:
    """Whatever the mixture of files and frames."""
    lake = Lake(tmp_path_factory.mktemp("lake"))
    model: dict[int, list[int]] = {}
    snapshots: dict[int, list[tuple[date, int]]] = {}
    for number, (days, content, as_frame) in enumerate(writes):
        kept = {d: values for d, values in content.items() if d in days}
        named = [DAYS[d] for d in days]
        if as_frame or (not kept and not lake.exists("t")):
            pairs = [(DAYS[d], v) for d, values in kept.items() for v in values]
            frame = pl.DataFrame(pairs, schema={"day": pl.Date, "value": pl.Int64}, orient="row")
            version = lake.replace_days("t", frame, named)
        else:
            files = {DAYS[d]: write(lake, DAYS[d], values, f"part{number}") for d, values in kept.items()}
            version = lake.commit_files("t", files, named)
        model.update({d: kept.get(d, []) for d in days})
        snapshots[version] = [(DAYS[d], v) for d in sorted(model) for v in model[d]]
    for version, expected in snapshots.items():
        assert rows(lake, version) == expected


def test_files_that_do_not_belong_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    version = lake.commit_files("t", {DAYS[0]: write(lake, DAYS[0], [7])}, DAYS[:1])
    misplaced = write(lake, DAYS[3], [1], "misplaced")
    outside = tmp_path / "elsewhere.parquet"
    outside.write_bytes(misplaced.read_bytes())
    unsigned = write(lake, DAYS[1], [1], "unsigned")
    pl.DataFrame({"value": [1]}, schema={"value": pl.UInt32}).write_parquet(unsigned)
    text = write(lake, DAYS[1], [1], "text")
    pl.DataFrame({"value": ["x"]}).write_parquet(text)
    with_day = write(lake, DAYS[1], [1], "with_day")
    pl.DataFrame({"value": [1], "day": DAYS[1:2]}).write_parquet(with_day)
    wider = write(lake, DAYS[2], [1], "wider", price=1.5)
    plain = write(lake, DAYS[1], [1], "plain")
    for files, days, parts in (
        ({DAYS[3]: misplaced}, DAYS[:2], [str(DAYS[3]), f"days {DAYS[0]} to {DAYS[1]}"]),
        ({DAYS[1]: misplaced}, DAYS[:2], ["was to hold 2026-01-06", f"day={DAYS[1]}"]),
        ({DAYS[1]: outside}, DAYS[:2], [str(outside), "must lie in"]),
        ({DAYS[1]: unsigned}, DAYS[:2], ["column value has type UInt32", "Int64"]),
        ({DAYS[1]: text}, DAYS[:2], ["column value holds Int64", "String", "new data root"]),
        ({DAYS[1]: with_day}, DAYS[:2], ["has a column day"]),
        ({DAYS[1]: plain, DAYS[2]: wider}, DAYS[:3], ["differ in their columns"]),
        ({}, [], ["no days to replace"]),
    ):
        with pytest.raises(LakeError) as caught:
            lake.commit_files("t", files, days)
        assert [part for part in ("table t", *parts) if part not in str(caught.value)] == []
    assert lake.version("t") == version
    assert rows(lake) == [(DAYS[0], 7)]


@pytest.mark.parametrize("name", ["with space", "größe", "what?", "a'b"])
def test_a_lake_may_lie_below_folders_of_such_names(tmp_path: Path, name: str) -> None:
    lake = Lake(tmp_path / name)
    lake.replace_days("t", pl.DataFrame({"day": DAYS[:1], "value": [1]}), DAYS[:1])
    lake.commit_files("t", {DAYS[1]: write(lake, DAYS[1], [2])}, DAYS[1:2])
    assert rows(lake) == [(DAYS[0], 1), (DAYS[1], 2)]
    assert all(Path(file).is_file() for file in lake.files("t"))


@pytest.mark.parametrize("name", ["a[b]", "50%25"])
def test_a_lake_below_other_folders_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match=r"cannot lie below a folder with \[, \] or %"):
        Lake(tmp_path / name).replace_days("t", pl.DataFrame({"day": DAYS[:1]}), DAYS[:1])


def _commit_days(root: str, name: str, indices: list[int], barrier: "multiprocessing.synchronize.Barrier") -> None:
    lake = Lake(Path(root))
    files = [(DAYS[index], write(lake, DAYS[index], [index], f"{name}{n}")) for n, index in enumerate(indices)]
    barrier.wait(60)
    for day, path in files:
        lake.commit_files("t", {day: path}, [day])


@pytest.mark.parametrize("days", [([0, 1, 0, 1], [2, 3, 2, 3]), ([0, 1, 2], [0, 1, 2])], ids=["other", "same"])
def test_two_processes_commit_at_once(tmp_path: Path, days: tuple[list[int], list[int]]) -> None:
    """Also of the same day, whose content is then that of one of them: never both, never neither."""
    Lake(tmp_path).replace_days("t", pl.DataFrame({"day": [], "value": []}, {"day": pl.Date, "value": pl.Int64}), DAYS)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=_commit_days, args=(str(tmp_path), name, mine, barrier))
        for name, mine in zip("ab", days, strict=True)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(90)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert rows(Lake(tmp_path)) == [(DAYS[d], d) for d in sorted({*days[0], *days[1]})]
    assert Lake(tmp_path).version("t") == 1 + len(days[0]) + len(days[1])
