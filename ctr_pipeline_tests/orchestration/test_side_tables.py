"""Side tables in the ingest: what is stored and said, what is refused, and what makes the days stale."""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml

from ctr_pipeline.deployment.binding import bind
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.checks.table_matches import TableEvidence, check_side_tables
from ctr_pipeline.orchestration.fingerprints import ingest_fingerprint
from ctr_pipeline.orchestration.in_process import PipelineError, run_days
from ctr_pipeline.orchestration.records import newest_metadata

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = [date(2026, 1, n) for n in (1, 2)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Forty impressions of four items in two days; item 3 is in no row of the table, and the rows begin at 12:00."""
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    number = range(40)
    log = {
        "id": [f"i{n}" for n in number],
        "time": [START + timedelta(hours=1.2) * n for n in number],
        "item": [n % 4 for n in number],
        "clicked": [n % 2 for n in number],
    }
    pl.DataFrame(log).write_parquet(tmp_path / "log.parquet")
    write_table(tmp_path, [("0", 12, 10), ("1", 12, 20), ("2", 12, 30), ("2", 12, 31), ("0", 24, 11)])
    table = {"name": "items", "paths": ["items.csv"], "key": "sku", "impression_column": "item", "valid_from": "since"}
    spec = {
        "version": 1,
        "name": "shop",
        "days": {"first": DAYS[0], "last": DAYS[-1]},
        "source": {"impressions": {"paths": ["log.parquet"]}, "tables": [table]},
        "impression": {"id": "id", "time": "time"},
        "features": {"dense": [{"name": "price", "column": "items.price"}]},
        "tasks": [{"name": "click", "window": "0s", "label": {"column": "clicked"}}],
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    where = {"CTR_SPEC": str(tmp_path / "spec.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")}
    return Deployment.from_environment(Environment.of(where))


def write_table(folder: Path, rows: list[tuple[str, int, int]]) -> None:
    since = [START + timedelta(hours=hour) for _, hour, _ in rows]
    table = {"sku": [sku for sku, _, _ in rows], "since": since, "price": [price for *_, price in rows]}
    pl.DataFrame(table).write_csv(folder / "items.csv")


def ingest(settings: Deployment, instance: dg.DagsterInstance, days: list[date]) -> dict[str, Any]:
    run_days(build_definitions(settings), instance, "daily_ingest", ("impressions",), days)
    return dict(newest_metadata(instance, "impressions")[days[-1]])


def test_days_read_apart_are_joined_as_together(settings: Deployment) -> None:
    lake, stored = Lake(settings.paths.lake), []
    for steps in ([DAYS], [[day] for day in DAYS]):
        with dg.instance_for_test() as instance:
            for days in steps:
                found = ingest(settings, instance, days)
        stored.append(lake.scan("impressions").collect())
    assert stored[0].equals(stored[1])
    hours = (stored[0]["ts"] - int(START.timestamp() * 1e6)) / 3.6e9
    expected = [
        {0: 10.0 if hour <= 24 else 11.0, 1: 20.0}.get(n % 4) if hour > 12 else None for n, hour in enumerate(hours)
    ]
    assert stored[0]["price"].to_list() == expected
    assert found["side_table/items"] == {
        "rows": 5,
        "rows_quarantined": 2,
        "rows_repeated": 0,
        "impressions": 20,
        "matched": 10,
        "row_set_aside": 5,
        "unknown_id": 5,
        "matched_share": 0.5,
    }
    (remark,) = (text for text in found["remarks"] if "items" in text)
    assert remark.startswith(
        "side table items: 10 of 20 impressions have a row (50.0%); 5 of an id that the table lacks"
    )
    set_aside = lake.scan("side_tables_quarantine").collect()
    assert set_aside["reason"].to_list() == ["conflicting_row"] * 2


def test_a_table_of_other_ids_is_refused(settings: Deployment) -> None:
    write_table(settings.spec_folder, [("sku-0", 12, 10), ("sku-1", 12, 20)])
    with dg.instance_for_test() as instance, pytest.raises(PipelineError, match="Do both hold the same ids"):
        ingest(settings, instance, DAYS)
    assert not Lake(settings.paths.lake).exists("impressions")


def test_other_files_of_a_table_can_be_named(settings: Deployment) -> None:
    """And labels are read without the tables."""
    folder = settings.spec_folder
    write_table(folder, [(str(item), 0, 7) for item in range(4)])
    (folder / "items.csv").rename(folder / "others.csv")
    bound, last = bind(settings.spec, folder / "spec.yaml", [f"items={folder / 'others.csv'}"], settings.data_root)
    with dg.instance_for_test() as instance:
        run_days(build_definitions(bound), instance, "daily_ingest", ("impressions", "outcome_events"), DAYS)
    assert last == DAYS[-1]
    lake = Lake(settings.paths.lake)
    # An impression at the instant of the first rows comes too early for them.
    assert lake.scan("impressions").collect()["price"].to_list() == [None] + [7.0] * 39
    assert lake.scan("outcome_events").collect().height == 20


def test_a_change_of_the_table_makes_the_days_stale(settings: Deployment) -> None:
    before = ingest_fingerprint(settings)
    path = settings.spec_folder / "items.csv"
    os.utime(path, (1, 1))
    assert ingest_fingerprint(settings) != before


def evidence(fates: dict[str, int], **quarantined: int) -> TableEvidence:
    return TableEvidence(
        name="items",
        fates=fates,
        rows=1000,
        quarantined=quarantined,
        repeated=0,
        column="item",
        key="sku",
        timeless=False,
    )


@pytest.mark.parametrize(
    ("found", "error", "part"),
    [
        (evidence({"without_id": 20}), True, "none has a value in `item`"),
        (evidence({"before_first_row": 15, "unknown_id": 5}), True, "Does `valid_from` say since when"),
        (evidence({"row_set_aside": 20}), True, "were set aside"),
        (evidence({"matched": 75, "unknown_id": 25}), False, "75 of 100 impressions have a row (75.0%); 25 of an id"),
        (evidence({"matched": 100}, bad_time=11), True, "11 of 1000 rows were set aside (bad_time: 11)"),
    ],
)
def test_tables_that_do_not_fit_are_named(found: TableEvidence, error: bool, part: str) -> None:
    result = check_side_tables([found], 0.01)
    assert (result.passed, result.error) == (False, error)
    assert part in str(result.description)


@pytest.mark.parametrize(
    "found",
    [
        evidence({"matched": 80, "unknown_id": 20}),
        evidence({"unknown_id": 9}),
        evidence({"matched": 9}, bad_time=10),
        evidence({}),
    ],
)
def test_tables_that_fit_pass(found: TableEvidence) -> None:
    assert check_side_tables([found], 0.01).passed
