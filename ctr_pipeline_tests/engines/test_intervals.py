"""Days with few rows are computed together, and give the same rows as by themselves."""

from datetime import date, timedelta
from pathlib import Path

import duckdb
import narwhals.stable.v2 as nw
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ctr_pipeline.engines import base, engine_session
from ctr_pipeline.engines import duckdb as duckdb_engine
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.features.daily_grid import day_of_start, start_of
from ctr_pipeline.lake import Lake

FIRST = date(2024, 2, 26)


def days(*numbers: int) -> list[date]:
    return [FIRST + timedelta(days=number) for number in numbers]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (None, [(0, 1), (2, 3), (4, 5)]),
        ({}, [(0, 5)]),
        ({0: 4, 1: 4, 2: 2, 3: 4, 4: 4, 5: 4}, [(0, 2), (3, 4), (5, 5)]),
        (dict.fromkeys(range(6), 100), [(0, 1), (2, 3), (4, 5)]),
        ({5: 11}, [(0, 4), (5, 5)]),
        ({2: 10}, [(0, 5)]),
    ],
)
def test_an_interval_grows_while_its_rows_are_few(
    rows: dict[int, int] | None, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "FEW_ROWS", 10)
    counts = None if rows is None else {days(n)[0]: count for n, count in rows.items()}
    found = list(intervals_of(days(*range(6)), 2, counts))
    assert found == [(days(first)[0], days(last)[0]) for first, last in expected]


def test_a_gap_ends_an_interval() -> None:
    assert list(intervals_of(days(0, 1, 3), 7, {})) == [tuple(days(0, 1)), tuple(days(3, 3))]
    assert list(intervals_of([], 7, {})) == []


@pytest.mark.parametrize("count", [1, 2, 3, 28, 1500])
def test_a_day_is_found_by_its_start(count: int) -> None:
    listed = days(*range(0, 2 * count, 2))
    frame = pl.DataFrame({"start": [start_of(day) for day in listed]})
    for native in (frame.lazy(), duckdb.connect().from_arrow(frame.to_arrow())):
        found = nw.from_native(native).select(day=day_of_start(listed)).collect(backend="polars").to_native()
        assert sorted(found["day"].to_list()) == listed


def test_duckdb_stores_few_rows_as_it_stores_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, listed = Lake(tmp_path / "lake"), days(0, 1, 5)
    rows = pl.DataFrame(
        {
            "day": [listed[2], listed[0], listed[0], listed[1], listed[0]],
            "key": ["b", None, "ü", "", "a"],
            "value": [1.5, float("nan"), -0.0, None, 2.0],
            "count": pl.Series([1, None, -3, 4, 2**62], dtype=pl.Int64),
            "label": [True, None, False, True, False],
        }
    )
    for name, most in (("few", 200_000), ("many", 0)):
        monkeypatch.setattr(duckdb_engine, "FEW_ROWS", most)
        with engine_session("duckdb", tmp_path, {}) as engine:
            relation = engine.connection.from_arrow(rows.to_arrow())  # type: ignore[attr-defined]
            engine.replace_days(lake, name, relation, days(*range(6)), ["key"])
    assert_frame_equal(lake.scan("few").collect(), lake.scan("many").collect())
    assert lake.rows_by_day("few") == lake.rows_by_day("many") == {listed[0]: 3, listed[1]: 1, listed[2]: 1}
