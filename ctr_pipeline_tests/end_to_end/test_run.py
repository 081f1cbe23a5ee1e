"""`ctr run` on a small simulated marketplace: the report, idempotence, repeatability."""

import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from mlflow.entities import LoggedModelStatus

from ctr_pipeline.lake import Lake
from ctr_pipeline.serving import Bundle
from ctr_pipeline.simulator import write_days
from ctr_pipeline.spec import load_spec
from ctr_pipeline_tests.end_to_end.copies import copy_root
from ctr_pipeline_tests.end_to_end.fixtures import Finished

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]

TABLES = ("impressions", "outcome_events", "labels", "history")
MODEL_FILES = ("model.onnx", "vocabulary.parquet", "layout.json", "calibration.json", "golden.json", "manifest.json")


def test_a_run_leaves_the_temporary_directory_as_it_was(finished: Finished) -> None:
    assert list(finished.temporary.iterdir()) == []
    assert list((finished.data_root / "spill").iterdir()) == []


def test_the_report_accounts_for_every_row_and_label(finished: Finished) -> None:
    report = finished.report
    for rows in report["rows"].values():
        assert rows["in"] == rows["kept"] + rows["quarantined"]
        assert sum(rows["reasons"].values()) == rows["quarantined"]
    impressions = report["rows"]["impressions"]["in"]
    assert impressions == 16 * 1500 * 5
    for states in report["labels"].values():
        assert sum(states.values()) == impressions
    assert set(report["labels"]) == {"click", "add_to_cart", "checkout"}
    assert report["labels"]["checkout"]["CENSORED"] > report["labels"]["click"]["CENSORED"] > 0


def test_the_splits_are_a_simulated_deployment(finished: Finished) -> None:
    split = finished.report["split"]
    # A click settles within a day of the test; what follows it takes three days.
    for task, settled_end in (("click", "2026-01-11"), ("add_to_cart", "2026-01-09"), ("checkout", "2026-01-09")):
        parts = [split[name]["tasks"][task] for name in ("train", "validation", "calibration", "test")]
        ends, starts = [part["end"] for part in parts], [part["start"] for part in parts]
        assert ends[:2] == starts[1:3]
        refit = split["refit"]["tasks"][task]
        assert (refit["start"], refit["end"]) == (starts[0], starts[2])
        assert (ends[2][:10], starts[3][:10]) == (settled_end, "2026-01-12")
        assert all(part["rows"] == part["settled"] > part["positives"] > 0 == part["censored"] for part in parts)
    for part in split.values():
        for task, states in part["states"].items():
            assert states["CENSORED"] == 0
            assert sum(states.values()) == part["tasks"][task]["rows"] <= part["rows"]


def test_metrics_have_intervals_for_each_task_and_split(finished: Finished) -> None:
    for task, splits in finished.report["metrics"].items():
        assert set(splits) == {"validation", "calibration", "test"}
        test = splits["test"]
        assert test["rows"] + test["masked"] == finished.report["split"]["test"]["rows"]
        for name in ("auc", "ap", "log_loss", "ne", "oe"):
            assert test[name]["low"] <= test[name]["value"] <= test[name]["high"], (task, name)


def test_every_check_ran_and_the_summary_says_what_a_person_needs(finished: Finished) -> None:
    names = {f"{check['asset']}.{check['check']}" for check in finished.report["checks"]}
    assert names >= {
        "impressions.rows_conserved",
        "outcome_events.quarantine_share",
        "labels.late_positive_rate",
        "training_dataset.test_rows_mature",
        "advertiser_quality.advertiser_labels",
        "ranker.nonfinite",
        "serving_bundle.export_parity",
        "serving_bundle.latency_budget",
        "serving_bundle.stored_embeddings",
        "champion.not_worse_than_champion",
        "champion.gate_normalised_entropy",
        "champion.gate_ranking",
        "champion.gate_calibration",
        "champion.gate_slices",
        "champion.gate_days",
        "champion.gate_random_traffic",
        "champion.still_as_good",
    }
    for words in ("120,000 rows in", "Test, with 95 % intervals", "click", "Position propensity", "MLflow run"):
        assert words in finished.stdout
    # Nothing but lines of progress: no warning of a library, and nothing after the end.
    assert [line for line in finished.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)] == []


def test_mlflow_holds_one_finished_run_with_everything(finished: Finished) -> None:
    run = finished.report["mlflow"]["run_id"]
    with sqlite3.connect(finished.data_root / "mlflow.db") as database:
        [(status, folder)] = database.execute("select status, artifact_uri from runs").fetchall()
        tags = dict(database.execute("select key, value from tags where run_uuid = ?", (run,)).fetchall())
        params = dict(database.execute("select key, value from params where run_uuid = ?", (run,)).fetchall())
        metrics = {name for (name,) in database.execute("select distinct key from metrics where run_uuid = ?", (run,))}
        models = database.execute("select name, version, source from model_versions").fetchall()
        datasets = dict(database.execute("select name, digest from datasets").fetchall())
        kinds = database.execute("select source_type, destination_id from inputs order by source_type").fetchall()
        [(model, model_files, model_status)] = database.execute(
            "select model_id, artifact_location, status from logged_models"
        ).fetchall()
    assert status == "FINISHED"
    assert tags["dagster.run_id"] == finished.report["dagster_runs"][-1]["run_id"]
    assert tags["dagster.partition"] == "2026-01-16"
    assert {"delta.impressions", "delta.labels", "code.version", "spec.hash"} <= tags.keys()
    assert params["training.batch_size"] == "512"
    assert {"test_ranking_score/click/auc", "test_ranking_score/checkout/ap"} <= metrics
    assert {"loss", "grad_norm", "test/click/auc", "test/click/auc_low", "export/max_logit_difference"} <= metrics
    versions = {name.removeprefix("delta."): version for name, version in tags.items() if name.startswith("delta.")}
    assert {name: digest.split("-")[0] for name, digest in datasets.items() if name in versions} == {
        name: f"v{version}" for name, version in versions.items()
    }
    assert datasets.keys() - versions.keys() == {"train", "validation", "calibration", "test"}
    assert kinds == [("DATASET", run)] * 8 + [("RUN_OUTPUT", model)]
    assert (tags["mlflow.source.type"], tags["mlflow.source.name"]) == ("JOB", "ctr_pipeline daily_retrain")
    assert models == [("ads", 1, model_files)]
    assert model_status == LoggedModelStatus.READY.to_int()
    artifacts = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
    assert {"spec.yaml", "steps.jsonl", "plots/reliability.png", "report.html"} <= artifacts
    # The page of `champion`, and that of the whole run.
    for page in (Path(folder) / "report.html", finished.data_root / "reports" / "2026-01-16.html"):
        assert 'ads, 2026-01-16: <span class="good">promoted</span>' in page.read_text(encoding="utf-8")
    exported = finished.data_root / "training" / "2026-01-16" / "bundle"
    assert Bundle.open(Path(model_files)).sha256 == Bundle.open(exported).sha256
    assert "advertiser_quality.json" in artifacts


def test_each_advertiser_is_counted_and_judged_before_the_gap(finished: Finished) -> None:
    found = finished.report["label_quality"]
    keys = pl.read_parquet(finished.data_root / "datasets" / "2026-01-16" / "advertiser_quality.parquet")
    assert found["key"] == "advertiser_id"
    assert [(task["task"], task["parent"]) for task in found["tasks"]] == [
        ("add_to_cart", "click"),
        ("checkout", "add_to_cart"),
    ]
    split = finished.report["split"]
    for task in found["tasks"]:
        own = keys.filter(pl.col("task") == task["task"])
        counts = (own["trials"].sum(), own["positives"].sum(), own.height)
        assert counts == (task["trials"], task["positives"], task["keys"])
        # Each settled row whose parent step happened is a trial of somebody; the parent of a first step settles earlier.
        before = {
            step: sum(split[name]["tasks"][step]["positives"] for name in ("refit", "calibration"))
            for step in (task["task"], task["parent"])
        }
        assert task["positives"] == before[task["task"]]
        assert (
            task["trials"] < before["click"] if task["parent"] == "click" else task["trials"] == before[task["parent"]]
        )
        assert f"{task['task']}: {task['inflated']} inflated" in finished.stdout


def test_the_bundle_opens_and_scores_raw_values(finished: Finished) -> None:
    bundle = Bundle.open(finished.data_root / "training" / "2026-01-16" / "bundle")
    numeric, ids = bundle.encode([{"price": 12.5, "device_type": "mobile"}, {}])
    probabilities = bundle.score(numeric, ids).probabilities
    assert probabilities.shape == (2, 3)
    assert ((probabilities > 0) & (probabilities < 1)).all()


def test_a_second_run_does_nothing(finished: Finished, ctr: Ctr, tmp_path: Path) -> None:
    root = copy_root(finished.data_root, tmp_path / "run")
    versions = {table: Lake(root / "lake").version(table) for table in TABLES}
    done = ctr("run", "--spec", finished.spec, "--data-root", root, "--json", tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert again["dagster_runs"] == []
    assert again["metrics"] == finished.report["metrics"]
    assert {table: Lake(root / "lake").version(table) for table in TABLES} == versions
    assert "Everything was up to date." in done.stdout


@pytest.mark.nightly
def test_the_same_seed_gives_the_same_logs_tables_and_model_and_the_truth_is_not_needed(
    finished: Finished, ctr: Ctr, tmp_path: Path
) -> None:
    """The truth is deleted before the lake, dataset and model are made again: none of them depends on it."""
    spec = load_spec(finished.spec)
    [logs] = (finished.data_root.parent / "simulated_logs").iterdir()
    again = tmp_path / "simulated_logs" / logs.name
    assert spec.source.simulator is not None
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(16)]
    write_days(spec.source.simulator, spec.seed, days, again)
    files = sorted(path.relative_to(logs) for path in logs.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [file for file in files if (logs / file).read_bytes() != (again / file).read_bytes()] == []
    shutil.rmtree(again / "truth")
    other = tmp_path / "data"

    ctr("run", "--spec", finished.spec, "--data-root", other)

    assert not (again / "truth").exists()
    for table in TABLES:
        first, second = (Lake(root / "lake").scan(table).collect() for root in (finished.data_root, other))
        assert first.equals(second), table
    folders = [root / "training" / "2026-01-16" for root in (finished.data_root, other)]
    for name in ("model.pt", *(f"bundle/{name}" for name in MODEL_FILES)):
        first, second = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in folders)
        assert first == second, name


def test_a_report_is_found_by_day_run_and_latest(finished: Finished, ctr: Ctr) -> None:
    for name in ("latest", "2026-01-16", finished.report["mlflow"]["run_id"]):
        done = ctr("report", name, "--data-root", finished.data_root, "--json")
        assert json.loads(done.stdout)["spec"] == finished.report["spec"]
    missing = ctr("report", "2020-01-01", "--data-root", finished.data_root, expect=2)
    assert "no report '2020-01-01'" in missing.stderr
    assert "Reports there: 2026-01-16" in missing.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "2026-13-01"), "--from '2026-13-01': expected a day such as 2026-01-31."),
        (("--to", "2026-02-01"), "--to 2026-02-01 is after the last day of the log, 2026-01-16"),
        (("--to", "2026-01-04"), "needs"),
        (("--input", "x.parquet"), "a simulated source takes no --input"),
    ],
)
def test_impossible_options_are_refused_plainly(
    small_spec: Path, ctr: Ctr, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    done = ctr("run", "--spec", small_spec, "--data-root", tmp_path / "data", *options, expect=2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
