"""A forgotten user's requests leave the table and the files before it; all others stay as they are."""

import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline.features.layout import IdColumn, Layout, Pooled
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.feature_log import FeatureLog, LogLimits
from ctr_pipeline.online.log_erasure import UserRows, erase_from_log, erase_from_spool, rename_logged_models, user_rows
from ctr_pipeline.online.log_records import read_segment, segments
from ctr_pipeline.online.logged_rows import fetch_segments
from ctr_pipeline_tests.online.requests import made_request

DAY = date(2026, 1, 1)
MODEL = "0" * 64
USER_ROW = 100


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Ten requests; the user is in number 4 by embedding row, under another model in number 5."""
    log = FeatureLog(
        tmp_path / "spool",
        LogLimits(rate=1.0),
        pseudonym=str,
        now=lambda: 0,
        clock=time.monotonic,
        count=lambda _: None,
    )
    for number in range(10):
        request = made_request(number)
        if number in (4, 5):
            request.ids[:, 1] = USER_ROW
        log.offer(replace(request, model_sha="1" * 64) if number == 5 else request)
    log.close()
    return tmp_path / "spool"


def numbers(spool: Path) -> list[int]:
    return [request.record for segment in segments(spool) for request in read_segment(segment.path).requests]


def test_requests_leave_the_files_and_the_others_keep_their_numbers(spool: Path) -> None:
    removed = erase_from_spool(spool, ["i7-1"], {MODEL: (UserRows((1,), USER_ROW),)})
    assert removed == (2, 0)
    assert numbers(spool) == [0, 1, 2, 3, 5, 6, 8, 9]


def test_rows_leave_the_table(spool: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.replace_days("serving_log", fetch_segments(segments(spool), [DAY]).rows, [DAY])
    before = lake.scan("serving_log").collect()
    assert erase_from_log(lake, {MODEL: (UserRows((1,), USER_ROW),)}) == {"rows": 3, "days": 1}
    assert lake.scan("serving_log").collect().equals(before.filter(pl.col("record") != 4))


def test_a_file_that_is_written_to_is_left_alone_and_counted(tmp_path: Path) -> None:
    log = FeatureLog(
        tmp_path, LogLimits(rate=1.0), pseudonym=str, now=lambda: 0, clock=time.monotonic, count=lambda _: None
    )
    log.offer(made_request(1))
    deadline = time.monotonic() + 10
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert erase_from_spool(tmp_path, ["i1-0"], {}) == (0, 1)
    log.close()
    assert erase_from_spool(tmp_path, ["i1-0"], {}) == (1, 0)


def test_a_model_whose_files_were_written_again_is_found_under_its_new_name(spool: Path, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lake.replace_days("serving_log", fetch_segments(segments(spool), [DAY]).rows, [DAY])
    rename_logged_models(lake, spool, {MODEL: "2" * 64})
    counts = lake.scan("serving_log").group_by("model_sha").len().collect()
    assert dict(counts.iter_rows()) == {"2" * 64: 27, "1" * 64: 3}
    assert fetch_segments(segments(spool), [DAY]).rows.equals(lake.scan("serving_log").collect())


def test_where_the_inputs_name_a_user() -> None:
    layout = Layout(
        numeric=(),
        ids=(
            IdColumn("ad", "categorical", 9, 4),
            IdColumn("user", "categorical", 9, 4),
            IdColumn("last_users", "history", 9, 4, pooled=Pooled(3, "mean", "first"), table="user"),
        ),
        tasks=("click",),
        parents=(-1,),
    )
    vocabulary = pl.DataFrame({"feature": ["ad", "user", "user"], "key": ["u", "u", "v"], "row": [2, 3, 4]})
    assert user_rows(layout, vocabulary, ["user"], "u") == (UserRows((1,), 3), UserRows((2, 3, 4), 3))
    assert user_rows(layout, vocabulary, ["user"], "w") == ()
