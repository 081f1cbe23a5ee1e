"""`ctr forget` after a whole run: no file below the data root knows the user, and no later run brings them back."""

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars_hash as plh
import pytest
import yaml
from polars.testing import assert_frame_equal

from ctr_pipeline.features import UNKNOWN_ROW
from ctr_pipeline.lake import Lake
from ctr_pipeline.online.cold_rows import with_cold_rows
from ctr_pipeline.online.log_records import MAGIC, SEALED, LoggedRequest, read_segment, record_of, segments
from ctr_pipeline.online.logged_rows import rows_of
from ctr_pipeline.serving import Bundle
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]
DAY = "2026-01-16"
START_OF_DAY = int(datetime.fromisoformat(DAY).replace(tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(frozen=True)
class Forgotten:
    """What `ctr forget` of the most frequent user left."""

    data_root: Path
    raw: str
    hashed: str
    ids: set[str]
    before: dict[str, pl.DataFrame]
    report: dict[str, Any]
    output: str


@pytest.fixture(scope="module")
def forgotten(finished: Finished, ctr: Ctr, tmp_path_factory: pytest.TempPathFactory) -> Forgotten:
    folder = tmp_path_factory.mktemp("forgotten")
    root = copy_root(finished.data_root, folder / "run")
    logs = pl.read_parquet(folder / "run" / "simulated_logs" / "*" / "impressions" / "*.parquet")
    raw = str(logs["user_id"].value_counts(sort=True)["user_id"][0])
    before = tables(root)
    shown = before["impressions"].group_by("user").agg(pl.len(), pl.col("impression_id")).sort("len", descending=True)
    hashed, rows, ids = shown.row(0)
    assert rows == (logs["user_id"] == raw).sum()
    log_requests(root, hashed, ids[0])
    before = tables(root)
    # As servers keep them.
    shutil.copytree(next(root.glob("training/*/bundle")), root / "serving" / "bundles" / "ab12")
    out = folder / "forgotten.json"
    done = ctr("forget", "--data-root", root, "--user", raw, "--json", out)
    report = json.loads(out.read_text(encoding="utf-8"))
    return Forgotten(root, raw, hashed, set(ids), before, report, done.stdout + done.stderr + out.read_text("utf-8"))


THEIRS = {"by-row", "by-impression"}
"""Ids of the requests that are the user's."""


def log_requests(root: Path, hashed: str, impression: str) -> None:
    """Requests as a server logs them, fetched into the table and not yet fetched.

    One has the user among its inputs, one names an impression of the user's, and one is of somebody else.
    """
    bundle = Bundle.open(next(root.glob("training/*/bundle")))
    place = [column.name for column in bundle.layout.id_columns].index("user_id")
    numeric, ids = bundle.encode([{}, {}])
    requests = []
    for number, name in enumerate(("by-row", "by-impression", "other")):
        own = ids.astype(np.int32)
        own[:, place] = bundle.vocabulary["user_id"][hashed] if name == "by-row" else UNKNOWN_ROW
        scores = bundle.score(numeric, own)
        requests.append(
            LoggedRequest(
                record=number, request_id=name, ts=[START_OF_DAY, START_OF_DAY], arm="champion", snapshot="",
                impression_ids=[impression, None] if name == "by-impression" else None, model_sha=bundle.sha256,
                numeric=numeric, ids=own, logits=scores.logits, probabilities=scores.probabilities,
            )
        )  # fmt: skip
    spool = root / "serving_log" / "spool"
    spool.mkdir(parents=True, exist_ok=True)
    (spool / f"waiting-000001{SEALED}").write_bytes(MAGIC + b"".join(map(record_of, requests)))
    rows = with_cold_rows(rows_of(requests, "fetched-000001"), {bundle.sha256: bundle.layout})
    Lake(root / "lake").replace_days("serving_log", rows, [date.fromisoformat(DAY)])


def tables(root: Path) -> dict[str, pl.DataFrame]:
    lake = Lake(root / "lake")
    return {
        log.parent.name: lake.scan(log.parent.name).collect() for log in sorted((root / "lake").glob("*/_delta_log"))
    }


def texts(path: Path) -> Iterator[str]:
    """Everything that a file says in words: decoded columns, cells of a database, or its bytes."""
    if path.suffix == ".parquet":
        for column in pl.read_parquet(path, hive_partitioning=False).select(pl.col(pl.String)):
            yield from column.drop_nulls().unique()
    if path.suffix == ".db" and path.read_bytes()[:15] == b"SQLite format 3":
        with sqlite3.connect(path) as database:
            for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                for row in database.execute(f'select * from "{table}"'):
                    yield from (str(cell) for cell in row)
    yield path.read_bytes().decode("latin-1")


def test_no_file_below_the_data_root_knows_the_user(forgotten: Forgotten) -> None:
    files = [path for path in forgotten.data_root.rglob("*") if path.is_file()]
    assert not any((forgotten.data_root / "serving").glob("bundles/*"))
    assert len(files) > 100
    assert len(forgotten.report["snapshots"]) > 3
    for path in files:
        for text in texts(path):
            assert forgotten.hashed not in text, path
            assert not any(name in text for name in list(forgotten.ids)[:50]), path
    code = plh.col("hash").nchash.xxhash64(seed=0) & pl.lit(2**63 - 1, dtype=pl.UInt64)
    own = pl.DataFrame({"hash": [forgotten.hashed]}).select(code.cast(pl.Int64)).item()
    for path in forgotten.data_root.rglob("*.npy"):
        assert own not in np.load(path).astype(np.int64), path
    assert forgotten.report["remaining_files"] == []
    assert forgotten.report["hash"] == forgotten.hashed
    assert f"{forgotten.raw!r}" not in forgotten.output
    assert f" {forgotten.raw} " not in forgotten.output


def test_other_users_rows_are_as_they_were(forgotten: Forgotten) -> None:
    after = tables(forgotten.data_root)
    theirs = pl.col("impression_id").is_in(list(forgotten.ids)).fill_null(False)
    gone = {
        "impressions": theirs,
        "outcome_events": theirs,
        "labels": theirs,
        "scores": theirs,
        "history": pl.col("key") == forgotten.hashed,
        "profile": (pl.col("bin") == forgotten.hashed).fill_null(False),
        # Of a page that names an impression of the user's, the other candidates name nobody.
        "serving_log": (pl.col("request_id") == "by-row") | theirs,
    }
    removed = forgotten.report["tables"]
    assert removed["scores"]["rows"] > 0
    # What is left is read by a pattern of files too.
    pattern = str(forgotten.data_root / "lake" / "scores" / "day=*" / "*.parquet")
    assert pl.scan_parquet(pattern).select(pl.len()).collect().item() == after["scores"].height
    assert removed["impressions"]["rows"] == len(forgotten.ids) > 100
    for table, rows in forgotten.before.items():
        kept = rows.filter(~gone[table]) if table in gone else rows
        assert rows.height - kept.height == removed[table]["rows"], table
        # Models have another SHA-256 without the user.
        counts = {"labels": ["impressions"], "serving_log": ["model_sha"]}.get(table, [])
        assert_frame_equal(after[table].drop(counts), kept.drop(counts))
    headers = after["labels"].filter(pl.col("impression_id").is_null())
    shown = after["impressions"].group_by("day").len("impressions").with_columns(pl.col("impressions").cast(pl.Int64))
    # Not the last day, of which some impressions had not arrived when it was labelled.
    assert_frame_equal(headers.select("day", "impressions")[:-1], shown.sort("day")[:-1])


def test_models_are_named_and_their_bundles_still_open(forgotten: Forgotten) -> None:
    [model] = forgotten.report["models"]
    assert model["day"] == DAY
    assert (model["version"], model["aliases"]) == ("1", ["challenger", "champion"])
    assert model["training_rows"] > 50
    assert forgotten.report["datasets"] == [DAY]
    assert len(forgotten.report["bundles"]) == 2
    for folder in forgotten.report["bundles"]:
        bundle = Bundle.open(forgotten.data_root / folder)
        assert forgotten.hashed not in bundle.vocabulary["user_id"]
        numeric, ids = bundle.encode([{"user_id": forgotten.hashed}])
        assert np.isfinite(bundle.score(numeric, ids).logits).all()
    release = json.loads((forgotten.data_root / "training" / DAY / "release.json").read_text(encoding="utf-8"))
    assert release["bundle_sha256"] == bundle.sha256
    with sqlite3.connect(forgotten.data_root / "mlflow.db") as database:
        [(noted,)] = database.execute("select value from model_version_tags where key = 'bundle_sha256'").fetchall()
    assert noted == bundle.sha256


def test_the_users_requests_leave_the_log_and_its_files(forgotten: Forgotten) -> None:
    assert set(forgotten.before["serving_log"]["request_id"]) == {*THEIRS, "other"}
    log = tables(forgotten.data_root)["serving_log"]
    bundle = Bundle.open(next(forgotten.data_root.glob("training/*/bundle")))
    assert set(log["model_sha"]) == {bundle.sha256}
    assert forgotten.report["tables"]["serving_log"]["rows"] == 3
    [segment] = segments(forgotten.data_root / "serving_log" / "spool")
    waiting = read_segment(segment.path)
    assert [(one.request_id, one.model_sha) for one in waiting.requests] == [("other", bundle.sha256)]
    assert (forgotten.report["logged_requests"], waiting.unread_bytes) == (2, 0)


def test_the_run_cannot_be_reproduced_any_more(forgotten: Forgotten, ctr: Ctr) -> None:
    refused = ctr("reproduce", "latest", "--data-root", forgotten.data_root, expect=2)
    assert "is gone, or files of it are: `ctr forget` removes earlier versions" in " ".join(refused.stderr.split())


@pytest.mark.nightly
def test_later_runs_train_without_the_user_and_do_not_bring_them_back(
    forgotten: Forgotten, finished: Finished, ctr: Ctr, tmp_path: Path
) -> None:
    root, out = forgotten.data_root, tmp_path / "report.json"
    ctr("run", "--spec", finished.spec, "--data-root", root, "--json", out)
    report = json.loads(out.read_text(encoding="utf-8"))
    [run] = report["dagster_runs"]
    assert run["assets"][0] == "examples"
    assert report["model"]["sha256"] != finished.report["model"]["sha256"]
    rows = report["rows"]["impressions"]
    assert rows["in"] == rows["kept"] + rows["quarantined"]
    assert rows["ignored"] == len(forgotten.ids)

    # The log is read anew, for another set of features.
    content = yaml.safe_load(finished.spec.read_text(encoding="utf-8"))
    content["features"]["contextual"] = [f for f in content["features"]["contextual"] if f["name"] != "query_length"]
    # Longer than the log, so that there is no training.
    content["split"]["test"]["days"] = 60
    spec = tmp_path / "other.yaml"
    spec.write_text(yaml.safe_dump(content), encoding="utf-8")
    refused = ctr("run", "--spec", spec, "--data-root", root, expect=2)
    assert "too short to split" in refused.stderr
    shown = Lake(root / "lake").scan("impressions").collect()
    assert "query_length" not in shown.columns or shown["query_length"].null_count() == shown.height
    assert shown.height == forgotten.before["impressions"].height - len(forgotten.ids)
    assert forgotten.hashed not in shown["user"]
    kept = forgotten.before["outcome_events"].filter(~pl.col("impression_id").is_in(list(forgotten.ids)))
    assert Lake(root / "lake").scan("outcome_events").collect().height == kept.height
    again = ctr("forget", "--data-root", root, "--user-hash", forgotten.hashed)
    assert "was forgotten before" in again.stdout
    assert "Nothing was stored of them" in again.stdout
