"""`ctr serve` logs, `serving_log` fetches, `skew_report` names what was served otherwise, and nothing is promoted then."""

import subprocess
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.gates import skew_reasons
from ctr_pipeline.orchestration.instance import prepare_home
from ctr_pipeline.serving import Bundle
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished
from ctr_pipeline_tests.end_to_end.test_serve import ask, served

DAY = date(2026, 1, 16)
PAGES = 60


def pages_of(data_root: Path, inputs: set[str]) -> list[dict[str, Any]]:
    """Requests with the raw rows of the first pages of the day, as a shop would send them; the past is looked up."""
    [logs] = (data_root.parent / "simulated_logs").iterdir()
    raw = pl.read_parquet(logs / "impressions" / "*.parquet").filter(pl.col("ts").dt.date() == DAY).sort("ts")
    raw = raw.with_columns(pl.col("ts").dt.epoch("us"))
    names = [name for name in raw.columns if name in inputs - {"ts"}]
    pages = []
    for _, page in raw.group_by("session_id", "ts", maintain_order=True):
        same = [name for name in ("ts", *names) if page[name].n_unique() == 1]
        own = page.select("impression_id", *(name for name in names if name not in {*same, "price"}), "price")
        shared = page.select(name for name in same if name != "price").row(0, named=True)
        pages.append({"shared": shared, "candidates": own.to_dict(as_series=False)})
        if len(pages) == 2 * PAGES:
            break
    return pages


@pytest.fixture(scope="module")
def data_root(finished: Finished, config_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose champion has answered: the first pages as they are, the next ones with prices in cents."""
    folder = tmp_path_factory.mktemp("skew")
    root = copy_root(finished.data_root, folder / "run")
    bundle = Bundle.open(next(root.glob("training/*/bundle")))
    with served(root, config_home, folder / "log") as url:
        for number, page in enumerate(pages_of(root, set(bundle.inputs))):
            if number >= PAGES:
                page["candidates"]["price"] = [100 * price for price in page["candidates"]["price"]]
            ask(f"{url}/score", {**page, "request_id": f"page-{number}"})
        # Another thread writes them.
        for _ in range(100):
            if b'ctr_serve_log_requests_total{outcome="written"} 120.0' in (counts := ask(f"{url}/metrics")):
                return root
            time.sleep(0.1)
    raise AssertionError(counts.decode())


@pytest.fixture(scope="module")
def reported(data_root: Path, finished: Finished, ctr: Callable[..., "subprocess.CompletedProcess[str]"]) -> Path:
    ctr("run", "--spec", finished.spec, "--data-root", data_root)
    return data_root


def test_the_price_is_named_and_nothing_else(reported: Path) -> None:
    lake = Lake(reported / "lake")
    log, found = lake.scan("serving_log").collect(), lake.scan("skew_report").collect()
    assert lake.rows_by_day("serving_log") == {DAY: log.height}
    assert log.select("segment", "record").n_unique() == 2 * PAGES
    assert log["impression_id"].is_in(lake.scan("impressions").collect()["impression_id"].implode()).all()
    replayed = found.filter(pl.col("comparison") == "feature_replay")
    assert replayed.select("feature", "kind", "detail", "requests").rows() == [("price", "unit", "×100", PAGES)]
    assert set(found["feature"]) == {"price"}
    first = log.filter(pl.col("request_id") == replayed["request_id"].item())
    assert first["ts"].min() == replayed["since"].item() == log.sort("ts")["ts"].unique(maintain_order=True)[PAGES]


def test_the_log_says_which_ids_were_new(reported: Path) -> None:
    log = Lake(reported / "lake").scan("serving_log").collect()
    layout = Bundle.open(next(reported.glob("training/*/bundle"))).layout
    names = [column.name for column in layout.id_columns]
    user = log["ids"].list.get(names.index("user_id"))
    assert (user == 1).any()
    assert log["cold"].list.contains("user_id").equals((user == 1).rename("cold"))
    assert log["cold_parents"].list.len().equals(log["cold"].list.len().rename("cold_parents"))
    assert "new_ids" in (reported / "reports" / "skew" / f"{DAY}.html").read_text(encoding="utf-8")


def test_the_spool_is_empty_and_another_run_changes_nothing(
    reported: Path, finished: Finished, ctr: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    assert list((reported / "serving_log" / "spool").iterdir()) == []
    lake = Lake(reported / "lake")
    versions = [lake.version("serving_log"), lake.version("skew_report")]
    ctr("run", "--spec", finished.spec, "--data-root", reported)
    assert [lake.version("serving_log"), lake.version("skew_report")] == versions


def test_the_error_keeps_models_from_being_promoted(reported: Path) -> None:
    deployment = Deployment.load(reported)
    with dg.DagsterInstance.from_config(str(prepare_home(deployment.paths))) as instance:
        reasons = skew_reasons(instance, "2026-01-18")
        assert len(reasons) == 2
        assert all("price: unit (×100)" in reason for reason in reasons)
        assert skew_reasons(instance, "2026-01-15") == [], "it was not served yet"
        assert skew_reasons(instance, "2026-02-15") == [], "that was long ago"


def test_the_page_names_it(reported: Path) -> None:
    page = (reported / "reports" / "skew" / f"{DAY}.html").read_text(encoding="utf-8")
    assert "price served otherwise than trained" in page
    assert page.count("data:image/png;base64,") == 3


def test_a_raw_id_is_in_no_file(reported: Path, data_root: Path) -> None:
    [logs] = (data_root.parent / "simulated_logs").iterdir()
    raw = pl.read_parquet(logs / "impressions" / "*.parquet", columns=["user_id", "impression_id"]).cast(pl.String)
    lake = Lake(reported / "lake")
    for table in ("serving_log", "skew_report"):
        texts = set(lake.scan(table).select(pl.col(pl.String)).collect().unpivot()["value"].drop_nulls())
        assert not texts & {*raw["user_id"], *raw["impression_id"]}


@pytest.mark.parametrize(("requests", "most"), [(60, 1), pytest.param(400, 4, marks=pytest.mark.nightly)])
def test_every_kind_is_named_through_the_endpoint_and_nothing_else(
    reported: Path, project: Path, monkeypatch: pytest.MonkeyPatch, requests: int, most: int
) -> None:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import skew

    world = skew.World(reported)
    rows = list(skew.measured(world, DAY, requests, most))
    assert {row["skew"] for row in rows} == {
        "unit ×100", "missing → 0", "log1p left out", "stale snapshot", "shifted hour", "other vocabulary", "constant", "left out",
    }  # fmt: skip
    assert [(row["skew"], row["feature"], row["named"]) for row in rows if row["after"] is None or row["false"]] == []
    assert [row["false_without_ids"] for row in rows if row["false_without_ids"]] == []
    clean = skew.clean(world, DAY, requests)
    assert (clean["named"], clean["named_without_ids"], clean["recomputed"] > 4 * requests) == ({}, {}, True)
