"""A lake at fixed versions."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline.lake import Lake, LakeError
from ctr_pipeline.lake.snapshot import LakeSnapshot

MONDAY = date(2026, 1, 5)


def test_it_shows_the_pinned_version_and_cannot_be_written(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    old, new = (
        lake.replace_days("labels", pl.DataFrame({"day": [MONDAY], "value": [value]}), [MONDAY]) for value in (1, 2)
    )
    pinned = LakeSnapshot(tmp_path, {"labels": old})
    assert pinned.version("labels") == old
    assert pinned.exists("labels")
    assert pinned.scan("labels").collect()["value"].to_list() == [1]
    assert pinned.files("labels") == lake.files("labels", old) != lake.files("labels")
    assert pinned.scan("labels", new).collect()["value"].to_list() == [2]
    for write in (
        lambda: pinned.replace_days("labels", pl.DataFrame({"day": [MONDAY], "value": [3]}), [MONDAY]),
        lambda: pinned.commit_files("labels", {}, [MONDAY]),
    ):
        with pytest.raises(LakeError, match="this view of the lake is read only"):
            write()
    with pytest.raises(LakeError, match="table history: none of its versions was recorded"):
        pinned.scan("history")
    assert lake.version("labels") == new
