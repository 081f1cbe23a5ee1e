"""A whole run on files with broken rows: each is quarantined for its reason, and ids of users are written nowhere."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from ctr_pipeline.lake import Lake
from ctr_pipeline_tests.end_to_end.fixtures import Finished

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]

CANARY = "canary-7f3a9e"
"""Begins every id of a user, session or impression, so that one that is written somewhere is found."""

EMPTY, BROKEN = "2026-01-04", "2026-01-03"


@dataclass(frozen=True)
class Ran:
    """What the run left."""

    spec: dict[str, Any]
    data_root: Path
    rows: int
    """Rows in the files of impressions."""
    rows_of_broken_day: int
    report: dict[str, Any]
    output: str


def marked(rows: pl.DataFrame) -> pl.DataFrame:
    ids = [name for name in ("user_id", "session_id", "impression_id") if name in rows.columns]
    return rows.with_columns(pl.concat_str(pl.lit(CANARY), name).alias(name) for name in ids)


def broken(rows: pl.DataFrame) -> pl.DataFrame:
    """Nine of ``rows`` once more, each with one value that breaks the contract, or that just does not."""
    number = pl.int_range(pl.len())
    price, name = pl.col("price"), pl.col("impression_id") + "x"
    for row, text in {0: "inf", 1: "nan", 2: "-5.0", 3: "cheap", 4: ""}.items():
        price = pl.when(number == row).then(pl.lit(text)).otherwise(price)
    late = datetime(2150, 1, 1, tzinfo=UTC)
    return rows.head(9).with_columns(
        price=price,
        impression_id=pl.when(number == 5).then(pl.col("impression_id")).when(number != 6).then(name),
        ts=pl.when(number == 7).then(pl.lit(late)).when(number != 8).then(pl.col("ts")),
    )


def write_logs(simulated: Path, folder: Path) -> dict[str, int]:
    """The simulated logs with canaries, broken rows, prices as text and a day without impressions; rows by day."""
    counts = {}
    for kind in ("impressions", "events"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((simulated / kind).glob("*.parquet")):
            rows = pl.read_parquet(path).filter(~pl.col("impression_id").str.starts_with(EMPTY.replace("-", "")))
            rows = marked(rows)
            if kind == "impressions":
                rows = rows.with_columns(pl.col("price").cast(pl.String))
                if path.stem == BROKEN:
                    rows = pl.concat([rows, broken(rows)])
                counts[path.stem] = rows.height
            rows.write_parquet(folder / kind / path.name)
    return counts


@pytest.fixture(scope="module")
def ran(finished: Finished, ctr: Ctr, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("broken")
    [simulated] = (finished.data_root.parent / "simulated_logs").glob("*")
    counts = write_logs(simulated, folder / "logs")
    spec = yaml.safe_load(finished.spec.read_text(encoding="utf-8"))
    spec["source"] = {
        "impressions": {"paths": [str(folder / "logs" / "impressions")]},
        "events": [{"paths": [str(folder / "logs" / "events")], "ingest_time": "ingest_ts"}],
    }
    (folder / "canary.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    root, out = folder / "data", folder / "out.json"
    done = ctr("run", "--spec", folder / "canary.yaml", "--data-root", root, "--json", out)
    report = json.loads(out.read_text(encoding="utf-8"))
    return Ran(spec, root, sum(counts.values()), counts[BROKEN], report, done.stdout + done.stderr)


def test_broken_rows_are_quarantined_each_for_its_reason(ran: Ran) -> None:
    rows = ran.report["rows"]["impressions"]
    assert rows["in"] == ran.rows == rows["kept"] + rows["quarantined"]
    assert rows["reasons"] == {
        "duplicate_id": 1,
        "future_time": 1,
        "missing_id": 1,
        "missing_time": 1,
        "non_finite": 1,
        "not_a_number": 1,
        "out_of_range": 1,
    }
    quarantine = Lake(ran.data_root / "lake").scan("impressions_quarantine").collect()
    stored = {row["reason"]: row for row in quarantine.iter_rows(named=True)}
    assert {row["source_file"] for row in stored.values()} == {f"{BROKEN}.parquet"}
    # The broken rows are the last nine of their file.
    row = ran.rows_of_broken_day - 9 + 3
    assert (stored["not_a_number"]["value"], stored["not_a_number"]["source_row"]) == ("cheap", row)
    assert stored["duplicate_id"]["value"] is None
    assert stored["future_time"]["day"] == stored["missing_time"]["day"] == date(2026, 1, 1)


def test_an_empty_day_is_named_and_a_time_to_come_makes_no_day(ran: Ran) -> None:
    [check] = [c for c in ran.report["checks"] if (c["asset"], c["check"]) == ("impressions", "days_not_empty")]
    assert not check["passed"]
    assert EMPTY in check["description"]
    assert ran.report["days"]["last"] == "2026-01-16"  # not 2150


def test_raw_user_ids_are_nowhere_under_the_data_root(ran: Ran) -> None:
    """Canaries in every place where a log may carry a user's id, clean rows and broken ones, are written nowhere."""
    assert CANARY not in ran.output
    needle = CANARY.encode()
    files = [path for path in ran.data_root.rglob("*") if path.is_file()]
    assert len(files) > 50
    for path in files:
        assert needle not in path.read_bytes(), path
        if path.suffix == ".parquet":
            texts = pl.read_parquet(path, hive_partitioning=False).select(pl.col(pl.String))
            assert not any(texts[name].str.contains(CANARY, literal=True).any() for name in texts.columns), path


def test_another_spec_is_refused_on_the_data_root(ran: Ran, ctr: Ctr, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**ran.spec, "name": "other"}), encoding="utf-8")
    refused = ctr("run", "--spec", other, "--data-root", ran.data_root, expect=2)
    assert "belongs to the spec 'ads', not to 'other'" in " ".join(refused.stderr.split())
