"""Broken logs and specs end in a plain message or in the quarantine, never in a traceback or a lost row."""

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from ctr_pipeline.lake import Lake

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]
ROWS, DAYS = 6000, 10

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "source": {"impressions": {"paths": ["log.parquet"]}},
    "impression": {"id": "id", "time": "time", "user": "user"},
    "features": {"dense": [{"name": "price", "minimum": 0}], "categorical": [{"name": "colour"}]},
    "tasks": [{"name": "click", "window": "0s", "label": {"column": "clicked"}}],
    "split": {"test": {"days": 2}, "calibration": {"days": 1}, "validation": {"days": 1}},
    "model": {"hidden": [8], "embedding_dim": 4},
    "training": {"batch_size": 512},
    "quality": {"max_quarantine_share": 0.05},
}


@pytest.fixture
def log() -> pl.DataFrame:
    draws = np.random.default_rng(0)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    seconds = np.sort(draws.integers(0, DAYS * 86_400, ROWS))
    price = draws.lognormal(2, 1, ROWS)
    return pl.DataFrame(
        {
            "id": [f"i{n}" for n in range(ROWS)],
            "time": [start + timedelta(seconds=int(s)) for s in seconds],
            "user": [f"u{n}" for n in draws.integers(0, 500, ROWS)],
            "price": price,
            "colour": draws.choice(["red", "green", "blue"], ROWS),
            "clicked": (draws.random(ROWS) < 0.05 + 0.1 * (price > 8)).astype(np.int8),
        }
    )


class Shop:
    """A folder with a log and a spec, and `ctr run` over them."""

    def __init__(self, ctr: Ctr, folder: Path) -> None:
        self.ctr, self.folder = ctr, folder

    def run(self, log: pl.DataFrame | None, spec: dict[str, Any] | str = SPEC, expect: int = 0) -> str:
        """Runs and returns what was said on stderr."""
        if log is not None:
            log.write_parquet(self.folder / "log.parquet")
        text = spec if isinstance(spec, str) else yaml.safe_dump(spec)
        (self.folder / "shop.yaml").write_text(text, encoding="utf-8")
        done = self.ctr(
            "run", "--spec", self.folder / "shop.yaml", "--data-root", self.folder / "data",
            "--json", self.folder / "out.json", expect=expect,
        )  # fmt: skip
        assert "Traceback" not in done.stderr + done.stdout
        assert "report this" not in done.stderr
        return " ".join(done.stderr.split())


@pytest.fixture
def shop(ctr: Ctr, tmp_path: Path) -> Shop:
    return Shop(ctr, tmp_path)


def test_too_many_broken_rows_are_refused_and_stay_refused(shop: Shop, log: pl.DataFrame) -> None:
    broken = log.with_columns(price=pl.when(pl.int_range(pl.len()) % 10 == 0).then(-1.0).otherwise(pl.col("price")))
    for _ in range(2):
        said = shop.run(broken, expect=2)
        assert "impressions refused: 600 of 6000 rows were quarantined (out_of_range: 600)" in said
        assert "Above quality.max_quarantine_share = 5.00%: 2026-03-01" in said
    assert not Lake(shop.folder / "data" / "lake").exists("impressions")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda log: log.drop("price"), ("price", "log.parquet")),
        (lambda log: log.rename({"time": "Time"}), ("time", "Time")),
        (lambda log: log.with_columns(price=pl.concat_list("price")), ("price", "log.parquet")),
        (lambda log: log.with_columns(price=pl.lit("n/a")), ("price", "n/a")),
        (lambda log: log.head(0), ("log.parquet", "no row")),
        (lambda log: log.filter(pl.col("time").dt.day() < 4), ("too short", "days")),
    ],
    ids=["missing column", "misspelt column", "nested column", "text column", "no rows", "too short"],
)
def test_a_log_that_cannot_be_used_is_refused_plainly(
    shop: Shop, log: pl.DataFrame, change: Callable[[pl.DataFrame], pl.DataFrame], words: tuple[str, ...]
) -> None:
    said = shop.run(change(log), expect=2)
    for word in words:
        assert word in said, said


def test_an_unreadable_file_is_named(shop: Shop) -> None:
    (shop.folder / "log.parquet").write_bytes(b"PAR1 this is no Parquet file")
    said = shop.run(None, expect=2)
    assert "log.parquet" in said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.csv", lambda text: text.split(b"\n", 1)[1], "the first line has none of the declared columns"),
        ("log.csv", lambda text: text.decode().encode("utf-16"), "this is text in UTF-16, and not text in UTF-8"),
        ("log.csv.gz", lambda text: gzip.compress(text)[:-9], "is no complete gzip file"),
        ("log.csv", lambda text: text.replace(b",red,", b',"red,', 1), "a quote is opened and never closed"),
        ("log.ndjson", lambda text: text, "none of its 6001 lines is a row"),
    ],
    ids=["no header", "UTF-16", "truncated gzip", "unclosed quote", "CSV named NDJSON"],
)
def test_a_file_that_cannot_be_read_is_refused_without_a_word_of_its_ids(
    shop: Shop, log: pl.DataFrame, name: str, content: Callable[[bytes], bytes], words: str
) -> None:
    text = log.with_columns(pl.col("id").str.replace("^i", "secret-")).write_csv().encode()
    (shop.folder / name).write_bytes(content(text))
    said = shop.run(None, {**SPEC, "source": {"impressions": {"paths": [name]}}}, expect=2)
    assert f"{name}: " in said
    assert words in said
    assert "secret-" not in said


def test_too_many_events_of_no_impression_are_refused_and_listed(shop: Shop, log: pl.DataFrame) -> None:
    clicks = log.filter(pl.col("clicked") == 1)
    ids = pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.concat_str(pl.lit("secret-"), "id")).otherwise("id")
    clicks.select(impression_id=ids, event_type=pl.lit("click"), event_ts="time").write_parquet(
        shop.folder / "events.parquet"
    )
    spec = {
        **SPEC,
        "source": {**SPEC["source"], "events": [{"paths": ["events.parquet"]}]},
        "tasks": [{"name": "click", "window": "24h", "label": {"event": "click"}}],
    }
    said = shop.run(log, spec, expect=2)
    lost = -(-len(clicks) // 5)
    assert f"event_references: Of {len(clicks)} events, {lost} have no impression in the log" in said
    assert "above quality.max_orphan_share = 1.00%" in said
    lake = Lake(shop.folder / "data" / "lake")
    listed = lake.scan("event_references_quarantine").collect()
    assert (listed["reason"].unique().to_list(), listed.height) == (["orphan_event"], lost)
    assert "secret-" not in said + listed.write_ndjson()
    assert not lake.exists("labels")


def test_a_missing_file_is_named(shop: Shop) -> None:
    assert "log.parquet" in shop.run(None, expect=2)


def test_a_spec_with_an_unknown_key_names_it_and_the_likely_one(shop: Shop, log: pl.DataFrame) -> None:
    said = shop.run(log, {**SPEC, "trainning": {}}, expect=2)
    assert "trainning: unknown key; did you mean `training`?" in said


def test_an_outcome_log_that_stopped_is_refused_however_often_one_asks(shop: Shop, log: pl.DataFrame) -> None:
    """Its silence would count as negatives. A refusal must not pass for a finished step the second time."""
    clicks = log.filter((pl.col("clicked") == 1) & (pl.col("time").dt.day() <= 5))
    clicks.select(impression_id="id", event_type=pl.lit("click"), event_ts="time").write_parquet(
        shop.folder / "events.parquet"
    )
    spec = {
        **SPEC,
        "source": {**SPEC["source"], "events": [{"paths": ["events.parquet"]}]},
        "tasks": [{"name": "click", "window": "24h", "label": {"event": "click"}}],
        "features": {"dense": [{"name": "price", "minimum": 0}]},
    }
    for _ in range(2):
        said = shop.run(log, spec, expect=2)
        assert "test_rows_mature: Only 0.00% of the test labels are past their maturity" in said
    assert not (shop.folder / "data" / "training").exists()


TWO_LOGS: dict[str, Any] = {
    **SPEC,
    "source": {**SPEC["source"], "events": [{"name": n, "paths": [f"{n}.parquet"]} for n in ("site", "shop")]},
    "tasks": [
        {"name": "click", "window": "12h", "label": {"event": "click"}},
        {"name": "buy", "parent": "click", "window": "12h", "window_from": "click", "label": {"event": "order"}},
    ],
}


def write_two_logs(folder: Path, log: pl.DataFrame, delivered: pl.Expr) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The clicks of the site, and those orders of the shop that were ``delivered``."""
    clicks = log.filter(pl.col("clicked") == 1)
    orders = clicks.filter(pl.int_range(pl.len()) % 3 == 0, delivered)
    for name, rows, kind in (("site", clicks, "click"), ("shop", orders, "order")):
        rows.select(impression_id="id", event_type=pl.lit(kind), event_ts="time").write_parquet(
            folder / f"{name}.parquet"
        )
    return clicks, orders


def test_one_of_two_logs_that_stopped_is_named(shop: Shop, log: pl.DataFrame) -> None:
    """The site's clicks go on arriving, so that only the shop's own silence shows that its orders are missing."""
    clicks, orders = write_two_logs(shop.folder, log, pl.col("time").dt.day() <= 5)
    said = shop.run(log, TWO_LOGS, expect=2)
    assert "Only 50.00% of the test labels are past their maturity" in said
    assert "Logs have stopped: delivered is `shop` up to 2026-03-0" in said
    assert "`site`" not in said
    stored = Lake(shop.folder / "data" / "lake").scan("outcome_events").collect()
    assert dict(stored.group_by("source_log").len().iter_rows()) == {"site": clicks.height, "shop": orders.height}


@pytest.mark.nightly
def test_negatives_of_an_outage_that_has_ended_are_left_out_and_counted(
    shop: Shop, log: pl.DataFrame, ctr: Ctr
) -> None:
    """When the test began the shop had been silent for two days; it sends again, so that the test itself is whole."""
    day = pl.col("time").dt.day()
    write_two_logs(shop.folder, log, ~day.is_in([6, 7]))
    # A model whose calibration slice has no outcomes is made, and must not be served.
    said = shop.run(log, TWO_LOGS, expect=3)
    assert "training_dataset.both_classes: buy: the calibration part" in said
    split = json.loads((shop.folder / "out.json").read_text(encoding="utf-8"))["split"]
    assert split["test"]["first"][:10] == "2026-03-08"
    left_out = {name: found["awaiting_data"] for name, found in split.items()}
    assert {name for name, found in left_out.items() if found["buy"]} == {"validation", "calibration"}
    assert all(found["click"] == 0 for found in left_out.values())
    # Nothing of that day was delivered: only its known orders, none, have a label.
    assert left_out["calibration"]["buy"] == split["calibration"]["tasks"]["buy"]["rows"]
    shown = ctr("report", "latest", "--data-root", shop.folder / "data").stdout
    assert f"calibration: buy {left_out['calibration']['buy']:,} negatives have no label" in shown


def test_a_training_that_breaks_says_why_keeps_its_evidence_and_leaves_no_model(
    shop: Shop, log: pl.DataFrame, ctr: Ctr
) -> None:
    spec = {**SPEC, "training": {"batch_size": 512, "learning_rate": 1e30, "clip_norm": 1e30, "warmup_fraction": 0}}
    said = shop.run(log, spec, expect=2)
    assert "ranker: Training stopped:" in said
    # The first update is refused, before anything infinite follows from it.
    assert "step 0: update_ratio: the update of step 0 moved" in said
    assert "torch.distributed" not in said
    alerts = [
        json.loads(line) for line in (shop.folder / "data" / "notifications.jsonl").read_text("utf-8").splitlines()
    ]
    assert ("ranker", "update_ratio", "ERROR") in {(a.get("asset"), a.get("check"), a["severity"]) for a in alerts}
    [folder] = (shop.folder / "data" / "training").iterdir()
    assert (folder / "failed_step" / "diagnosis.json").is_file()
    assert not (folder / "bundle").exists()
    # What the console says: the cause, the lead that the detectors had, and where the evidence lies.
    assert "Strongest findings: ERROR update_ratio: the update of step 0 moved" in said
    [kept] = (shop.folder / "data" / "failed_trainings").glob("*/*")
    assert f"Evidence: {kept}" in said
    assert (kept / "failed_step" / "step.pt").read_bytes() == (folder / "failed_step" / "step.pt").read_bytes()
    [failed] = [alert for alert in alerts if alert["kind"] == "run_failure"]
    assert "update_ratio" in failed["message"]
    logged = shop.folder / "data" / "mlflow-artifacts" / kept.name / "artifacts"
    assert (logged / "failed_step" / "diagnosis.json").is_file()
    assert (logged / "failure" / "failure.json").is_file()
    # The trainer's own triage: in the console, beside the evidence and in MLflow; and what the command says of it.
    assert re.search(r"[Cc]ause.*: huge_lr at .* Fix: lower it to its default", said)
    for triage in (kept / "triage.json", logged / "failure" / "triage.json"):
        assert json.loads(triage.read_text(encoding="utf-8"))["hypotheses"][0]["cause"] == "huge_lr"
    assert f"More: ctr why {kept}" in said
    assert "huge_lr" in ctr("why", "latest", "--data-root", shop.folder / "data").stdout
    for name in ("latest", kept.name):
        shown = ctr("report", name, "--data-root", shop.folder / "data").stdout
        assert "The training failed" in shown
        assert "update_ratio: the update of step 0 moved" in shown
        assert str(kept) in shown
    # Without a report of `ctr run`, as of a training that Dagster launched.
    shutil.rmtree(shop.folder / "data" / "reports")
    shown = ctr("report", "latest", "--data-root", shop.folder / "data").stdout
    assert "The training failed" in shown
