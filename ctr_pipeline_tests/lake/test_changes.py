"""Versions that changed a day."""

from datetime import date, timedelta
from pathlib import Path

import polars as pl

from ctr_pipeline.lake import Lake
from ctr_pipeline.lake.changes import versions_that_changed

MONDAY = date(2026, 1, 5)
DAYS = [MONDAY + timedelta(days=n) for n in range(3)]


def rows(day: date, value: int) -> pl.DataFrame:
    return pl.DataFrame({"day": [day], "value": [value]})


def test_between_the_versions_that_are_named_a_day_does_not_change(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert versions_that_changed(lake, "labels", MONDAY) == []
    written = [
        lake.replace_days("labels", rows(DAYS[0], 1), DAYS[:1]),
        lake.replace_days("labels", rows(DAYS[1], 2), DAYS[1:2]),
        lake.replace_days("labels", pl.concat([rows(DAYS[0], 3), rows(DAYS[2], 4)]), DAYS),
        lake.replace_days("labels", rows(DAYS[2], 5), DAYS[2:]),
        lake.replace_days("labels", rows(DAYS[0], 0).clear(), DAYS[:1]),
    ]
    first, second, all_of_them, third, emptied = written
    assert versions_that_changed(lake, "labels", DAYS[0]) == [first, all_of_them, emptied]
    assert versions_that_changed(lake, "labels", DAYS[1]) == [second, all_of_them]
    assert versions_that_changed(lake, "labels", DAYS[2]) == [all_of_them, third]
    assert versions_that_changed(lake, "labels", DAYS[2] + timedelta(days=1)) == []
    # Against what each version shows.
    for day in DAYS:
        shown = [lake.scan("labels", version, day, day).collect().rows() for version in range(emptied + 1)]
        changed = [v for v in range(1, emptied + 1) if shown[v] != shown[v - 1]]
        assert set(changed) <= set(versions_that_changed(lake, "labels", day))
