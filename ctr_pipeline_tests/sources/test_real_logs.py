"""The real logs, each with the spec that the project ships for it."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from ctr_pipeline.sources import Pseudonymiser, list_files, log_range, read_events, read_impressions
from ctr_pipeline.spec import Spec, load_spec

KINDS = ("outcome", "closed", "unknown")


def load(project: Path, shared_data: Path, name: str) -> tuple[Spec, tuple[Path, ...]]:
    spec = load_spec(project / "specs" / f"{name}.yaml")
    return spec, tuple(file.path for file in list_files(spec.source.impressions, shared_data).files)


@pytest.mark.parametrize(
    ("name", "rows", "first", "last"),
    [
        ("ga4", 63_362, date(2020, 11, 1), date(2021, 1, 15)),
        ("criteo", 16_000, date(2024, 1, 1), date(2024, 1, 16)),
        ("open_bandit", 40_000, date(2019, 11, 24), date(2019, 11, 30)),
        ("loan_funnel", 6_430, date(2011, 9, 30), date(2011, 12, 14)),
    ],
)
def test_every_row_of_a_real_log_is_read(
    project: Path, shared_data: Path, pseudonymiser: Pseudonymiser, name: str, rows: int, first: date, last: date
) -> None:
    spec, files = load(project, shared_data, name)
    assert log_range(spec, files) == (first, last)
    result = read_impressions(spec, files, first, last, pseudonymiser, first)
    assert (result.rows_in, result.kept.height, result.quarantined.height) == (rows, rows, 0)
    day = result.kept["day"][rows // 2]
    assert read_impressions(spec, files, day, day, pseudonymiser, first).kept.equals(
        result.kept.filter(pl.col("day") == day)
    )
    log = pl.read_parquet(files)
    for number in spec.features.numeric:
        assert result.kept[number.name].null_count() == log[number.source_column].null_count()
        assert result.kept[number.name].sum() == pytest.approx(log[number.source_column].sum(), rel=1e-9)
    for category in spec.features.embedded:
        assert result.kept[category.name].n_unique() == log[category.source_column].n_unique()


@pytest.mark.parametrize(
    ("name", "columns"),
    [("ga4", ["session_id", "user_id"]), ("loan_funnel", ["case_id"])],
)
def test_no_raw_id_leaves_the_room(
    project: Path, shared_data: Path, pseudonymiser: Pseudonymiser, name: str, columns: list[str]
) -> None:
    spec, files = load(project, shared_data, name)
    first, last = log_range(spec, files)
    log = pl.read_parquet(files, columns=columns)
    raw = pl.concat([log[column].unique().cast(pl.String) for column in columns]).unique()
    for result in (
        read_impressions(spec, files, first, last, pseudonymiser, first),
        read_events(spec, files, {}, first, last, pseudonymiser, first),
    ):
        for frame in (result.kept, result.quarantined):
            for column in frame.select(pl.col(pl.String)):
                assert not column.is_in(raw.implode()).any(), column.name
                # A session id contains the user id: no text may contain one either.
                assert not column.unique().drop_nulls().str.contains(r"^\d+\.\d+_\d+$|^\d{6}$").any(), column.name


def test_labels_of_a_flag_column(project: Path, shared_data: Path, pseudonymiser: Pseudonymiser) -> None:
    spec, files = load(project, shared_data, "ga4")
    result = read_events(spec, files, {}, *log_range(spec, files), pseudonymiser, date(2020, 11, 1))
    purchases = pl.read_parquet(files)["purchased_later_in_session"].sum()
    assert result.kept["event"].value_counts().rows() == [("purchase", purchases)]
    assert result.ignored == 63_362 - purchases


def test_labels_of_time_columns_arrive_when_they_happen(
    project: Path, shared_data: Path, pseudonymiser: Pseudonymiser
) -> None:
    spec, files = load(project, shared_data, "loan_funnel")
    first, last = date(2011, 9, 30), date(2011, 12, 14)
    log = pl.read_parquet(files)
    whole = read_events(spec, files, {}, first, last, pseudonymiser, first).kept
    counts = dict(whole.group_by(pl.concat_str("event", "kind", separator=" ")).len().iter_rows())
    names = {
        "preaccepted": "A_PREACCEPTED",
        "accepted": "A_ACCEPTED",
        "papers_returned": "O_SENT_BACK",
        "approved": "A_APPROVED",
    }
    closed = log.select(pl.min_horizontal("A_DECLINED", "A_CANCELLED").dt.date().is_between(first, last).sum()).item()
    for task, column in names.items():
        assert counts[f"{task} outcome"] == log[column].dt.date().is_between(first, last).sum()
        assert counts[f"{task} closed"] == closed
    early = read_events(spec, files, {}, first, date(2011, 11, 1), pseudonymiser, first).kept
    assert early.equals(whole.filter(pl.col("day") <= date(2011, 11, 1)))


def test_traffic_and_propensity_of_a_bandit_log(project: Path, shared_data: Path, pseudonymiser: Pseudonymiser) -> None:
    spec, files = load(project, shared_data, "open_bandit")
    first, last = log_range(spec, files)
    kept = read_impressions(spec, files, first, last, pseudonymiser, first).kept
    log = pl.read_parquet(files)
    assert dict(kept["traffic"].value_counts().iter_rows()) == {
        "random": log.filter(pl.col("policy") == "random").height,
        "production": log.filter(pl.col("policy") == "bts").height,
    }
    assert sorted(kept["position"].unique()) == [1, 2, 3]
    assert kept["propensity"].sum() == pytest.approx(log["propensity"].sum())


def test_order_is_kept_exactly(project: Path, shared_data: Path, pseudonymiser: Pseudonymiser) -> None:
    spec, files = load(project, shared_data, "criteo")
    first, last = log_range(spec, files)
    kept = read_impressions(spec, files, first, last, pseudonymiser, first).kept
    assert kept["ts"].is_sorted()
    assert kept["ts"].n_unique() == 16_000
    expected = pl.read_parquet(files).sort("row_order")["I2"]
    assert kept["i2"].to_list() == expected.cast(pl.Float64).to_list()
