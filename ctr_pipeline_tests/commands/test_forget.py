"""Forgetting a user on a small deployment made by hand: tables, headers, files beside them, interruptions."""

import json
import sqlite3
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from polars.testing import assert_frame_equal

from ctr_pipeline.commands.forget import ForgetError, forget_user
from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.environment import Environment, process_environment
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.lock import DataRootBusyError, exclusive
from ctr_pipeline.labels import TABLE_ORDER, label_days, label_table
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.assets.release import KEY_TAG, key_reasons
from ctr_pipeline.orchestration.instance import prepare_home
from ctr_pipeline.orchestration.resources.tracking import ModelVersion
from ctr_pipeline.privacy.forgotten_users import FORGOTTEN_TABLE, forgotten, leave_out_forgotten
from ctr_pipeline.privacy.scrub import ScrubError, holders, scrub
from ctr_pipeline.sources import ReadResult
from ctr_pipeline_tests.labels.worlds import DAY_US

FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(4)]
TODAY = date(2026, 3, 1)
ANNA, BEN = "a" * 32, "b" * 32
TABLES = ("impressions", "impressions_quarantine", "outcome_events", "labels", "history", "profile")


@pytest.fixture
def settings(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    content["features"]["history"] += [
        {"name": "viewed", "kind": "sequence", "key": "user", "item": "ad_id"},
        {"name": "viewers", "kind": "sequence", "key": "ad_id", "item": "user_id"},
        {"name": "recent", "kind": "count", "key": "user", "days": 1, "exact": True},
    ]
    # Features of the past of an ad differ as the ad does.
    content["serving"]["candidate_features"].append("viewers")
    spec = tmp_path / "ads.yaml"
    spec.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Deployment.from_environment(Environment.of({"CTR_SPEC": str(spec), "CTR_DATA_ROOT": str(tmp_path / "data")}))


def shown(day: date, user: str | None, number: int) -> dict[str, Any]:
    ts = end_of_day_us(day) - DAY_US + number * 60_000_000
    # One place was Anna's in the first reading only; see below.
    moved = (day, number) == (DAYS[3], 3)
    name = f"{'m' if moved else 'n' if user is None else user[0]}{day.day:02}{number:02}".ljust(32, "0")
    return {"day": day, "impression_id": name, "ts": ts, "ingest_ts": ts, "user": user, "user_id": user}


@pytest.fixture
def deployment(settings: Deployment) -> Deployment:
    """Anna is shown something on the first three days, and clicks on the first; the log of each day was read twice.

    On the third day nothing is ever heard of her, so that the labels of that day name nobody. On the fourth she is in
    the first reading only: by the second one row was Ben's, and the other does not exist.
    """
    lake = Lake(settings.paths.lake)
    for reading in (1, 2):
        for day in DAYS:
            people = (ANNA, BEN, None, ANNA, BEN)
            if day == DAYS[3] and reading == 2:
                people = (None, BEN, None, BEN, BEN)
            rows = [shown(day, user, number) for number, user in enumerate(people)]
            lake.replace_days("impressions", pl.DataFrame(rows), [day])
    rows = lake.scan("impressions").collect()
    clicked = rows.filter(pl.col("day").is_in(DAYS[:2]), pl.col("user").is_not_null())
    events = clicked.select(
        "day", "impression_id", event=pl.lit("click"), kind=pl.lit("outcome"), event_ts=pl.col("ts") + 1,
        ingest_ts=pl.col("ts") + 1,
    )  # fmt: skip
    lake.replace_days("outcome_events", events, DAYS)
    labels = label_table(rows.lazy(), events.lazy(), settings.spec.tasks, end_of_day_us(DAYS[3])).collect()
    lake.replace_days("labels", labels.sort("day", *TABLE_ORDER), DAYS)
    history = [
        {"day": DAYS[1], "feature": feature, "key": key, "value": 1.0, "item": item}
        # An ad whose id has the hash of a user is another matter.
        for feature, key, item in (
            ("user_ctr_7d", ANNA, None), ("user_ctr_7d", BEN, None), ("historical_ctr_7d", ANNA, None),
            ("old", ANNA, None), ("viewed_1", ANNA, BEN), ("viewed_1", BEN, ANNA), ("viewers_1", "ad", ANNA),
            ("viewers_1", "ad", BEN), ("recent", shown(DAYS[1], ANNA, 0)["impression_id"], None),
            ("recent", shown(DAYS[1], BEN, 1)["impression_id"], None), ("recent", ANNA, None),
        )
    ]  # fmt: skip
    lake.replace_days("history", pl.DataFrame(history), DAYS)
    profile = [
        {"day": DAYS[0], "measure": "category", "name": name, "bin": ANNA, "value": 2.0}
        for name in ("user_id", "ad_id")
    ]
    lake.replace_days("profile", pl.DataFrame(profile), DAYS)
    lake.replace_days("impressions_quarantine", pl.DataFrame({"day": [FIRST], "reason": ["bad_time"]}), DAYS)
    return settings


def tables(settings: Deployment) -> dict[str, pl.DataFrame]:
    lake = Lake(settings.paths.lake)
    return {table: lake.scan(table).collect() for table in TABLES}


def expected(before: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The tables without Anna, worked out in another way."""
    ids = before["impressions"].filter(pl.col("user") == ANNA)["impression_id"]
    labels = before["labels"].filter(~pl.col("impression_id").is_in(ids.implode()) | pl.col("impression_id").is_null())
    fewer = pl.when(pl.col("impression_id").is_null() & (pl.col("day") < DAYS[3])).then(2).otherwise(0)
    return {
        "impressions": before["impressions"].filter((pl.col("user") != ANNA) | pl.col("user").is_null()),
        "impressions_quarantine": before["impressions_quarantine"],
        "outcome_events": before["outcome_events"].filter(~pl.col("impression_id").is_in(ids.implode())),
        "labels": labels.with_columns(impressions=pl.col("impressions") - fewer),
        # Kept by number: those of other keys and items, and the ad and the impression that share a hash.
        "history": before["history"][[1, 2, 5, 7, 9, 10]],
        "profile": before["profile"].filter(pl.col("name") != "user_id"),
    }


def test_the_user_leaves_every_table_and_nobody_else_does(deployment: Deployment) -> None:
    before = tables(deployment)
    report = forget_user(deployment, ANNA, TODAY)
    after = tables(deployment)
    for table, rows in expected(before).items():
        assert_frame_equal(after[table], rows)
    assert {name: found["rows"] for name, found in report["tables"].items() if found["rows"]} == {
        "impressions": 6, "outcome_events": 4, "labels": 12, "history": 5, "profile": 1,
    }  # fmt: skip
    assert report["impressions"] == 7
    headers = label_days(Lake(deployment.paths.lake).scan("labels"))
    assert [headers[day].impressions for day in DAYS] == [3, 3, 3, 5]
    # What is left is the hash of an ad.
    assert {path.split("/")[1] for path in report["remaining_files"]} == {"history", "profile"}
    assert holders(deployment.paths.lake / "impressions", ANNA) == []


def test_a_call_that_is_cut_short_anywhere_is_completed_by_the_next(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(deployment)
    replace, writes = Lake.replace_days, 0

    def once(self: Lake, table: str, *arguments: Any) -> int:
        nonlocal writes
        writes += 1
        if writes > 1:
            raise KeyboardInterrupt
        return replace(self, table, *arguments)

    monkeypatch.setattr(Lake, "replace_days", once)
    for call in range(40):  # noqa: B007 - the number of calls is looked at below
        writes = 0
        try:
            forget_user(deployment, ANNA, TODAY)
            break
        except KeyboardInterrupt:
            continue
    else:
        raise AssertionError("never completed")
    # Each call made one write: whom to leave out (user, impressions), then each day of each table.
    assert call + 1 == 2 + len(["history", *["labels"] * 3, *["outcome_events"] * 2, "profile", *["impressions"] * 3])
    for table, rows in expected(before).items():
        assert_frame_equal(tables(deployment)[table], rows)


def test_a_call_that_is_cut_short_before_the_history_is_purged_is_completed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ctr_pipeline.lake.erasure.purge_history", interrupted)
        with pytest.raises(KeyboardInterrupt):
            forget_user(deployment, ANNA, TODAY)
    impressions = deployment.paths.lake / "impressions"
    assert holders(impressions, ANNA)
    report = forget_user(deployment, ANNA, TODAY)
    assert holders(impressions, ANNA) == []
    assert report["known_before"]
    assert report["tables"]["impressions"]["old_files"] > 0
    again = forget_user(deployment, ANNA, TODAY)
    assert again["tables"] == {}


def read(rows: list[dict[str, Any]]) -> ReadResult:
    kept = pl.DataFrame(rows)
    by_day = {DAYS[0]: kept.height}
    return ReadResult(
        kept=kept, quarantined=kept.clear(), rows_in=kept.height, ignored=0, rows_in_by_day=by_day, undated=0,
        rows_in_log=kept.height,
    )  # fmt: skip


def key() -> str:
    return key_fingerprint(process_environment())


def test_ingest_leaves_the_user_and_the_outcomes_of_their_impressions_out(deployment: Deployment) -> None:
    forget_user(deployment, ANNA, TODAY)
    lake, warnings = Lake(deployment.paths.lake), []
    new = date(2026, 1, 9)
    rows = [shown(new, ANNA, 0), shown(new, BEN, 1)]
    result = leave_out_forgotten(lake, deployment.spec, "impressions", read(rows), key(), warnings.append)
    assert result.kept["user"].to_list() == [BEN]
    assert result.rows_in == result.kept.height + result.quarantined.height + result.ignored
    events = [
        {"day": new, "impression_id": row["impression_id"], "event": "click"}
        for row in (*rows, shown(DAYS[0], ANNA, 0), shown(DAYS[3], ANNA, 0), shown(DAYS[3], BEN, 3))
    ]
    arrived = leave_out_forgotten(lake, deployment.spec, "outcome_events", read(events), key(), warnings.append)
    assert [name[0] for name in arrived.kept["impression_id"]] == ["b", "m"]
    assert arrived.ignored == 3
    assert warnings == []
    assert set(lake.scan(FORGOTTEN_TABLE).collect()["kind"]) == {"user", "impression"}


def test_a_user_forgotten_under_another_key_is_reported(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_user(deployment, ANNA, TODAY)
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "another-key-of-hashes")
    lake, warnings = Lake(deployment.paths.lake), []
    assert forgotten(lake, key()).users == frozenset()
    rows = [shown(DAYS[0], ANNA, 0)]
    result = leave_out_forgotten(lake, deployment.spec, "impressions", read(rows), key(), warnings.append)
    assert result.kept.height == 1
    [warning] = warnings
    assert "1 users were forgotten under another key" in warning


def test_a_champion_of_another_key_is_said_to_know_nobody() -> None:
    assert key_reasons(None, "new") == []
    assert key_reasons(ModelVersion("3", "run", {}), "new") == []
    assert key_reasons(ModelVersion("3", "run", {KEY_TAG: "new"}), "new") == []
    [reason] = key_reasons(ModelVersion("3", "run", {KEY_TAG: "old"}), "new")
    assert "The champion (version 3) was made under another key" in reason


def test_nobody_else_may_be_at_work(deployment: Deployment) -> None:
    with exclusive(deployment.data_root), pytest.raises(DataRootBusyError, match="another run is at work there"):
        forget_user(deployment, ANNA, TODAY)
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="ctr_pipeline.definitions"))
    launched = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "daily_ingest")
    with dg.DagsterInstance.from_config(str(prepare_home(deployment.paths))) as instance:
        create_run_for_test(instance, "daily_ingest", status=dg.DagsterRunStatus.STARTED, remote_job_origin=launched)
    before = tables(deployment)
    with pytest.raises(ForgetError, match="the Dagster page has 1 runs at work"):
        forget_user(deployment, ANNA, TODAY)
    assert not Lake(deployment.paths.lake).exists(FORGOTTEN_TABLE)
    assert_frame_equal(tables(deployment)["impressions"], before["impressions"])


def dataset(settings: Deployment, day: str, first: date, last: date, *, before_tasks_had_parts: bool = False) -> Path:
    """A dataset that learns from ``first`` to before ``last``, and tests on the day of ``last``."""

    def instant(of: date) -> int:
        return int(datetime(of.year, of.month, of.day, tzinfo=UTC).timestamp()) * 1_000_000

    def text(found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: text(of)
            if isinstance(of, dict)
            else datetime.fromtimestamp(of / 1e6, UTC).isoformat().replace("+00:00", "Z")
            for name, of in found.items()
        }

    of_all = {"test_start": instant(last), "test_end": instant(last) + DAY_US, "as_of": instant(last) + DAY_US}
    parts = {"train_start": instant(first), "validation_start": instant(last), "calibration_start": instant(last)}
    settled: dict[str, Any] = {task: {**parts, "settled_end": instant(last)} for task in ("click", "buy")}
    settled["buy"]["settled_end"] -= DAY_US
    bounds = {**parts, "train_end": instant(last), **of_all} if before_tasks_had_parts else {"tasks": settled, **of_all}
    folder = settings.paths.retrain(day).dataset
    (folder / "packed").mkdir(parents=True)
    (folder / "packed" / "manifest.json").write_text(json.dumps({"bounds": text(bounds)}))
    (folder / "examples.json").write_text(json.dumps({"bounds": bounds, "versions": {}}))
    training = settings.paths.retrain(day).training
    training.mkdir(parents=True)
    facts = {"day": day, "examples": {"bounds": bounds}}
    (training / "provenance.json").write_text(json.dumps(facts))
    (training / "run.json").write_text(json.dumps({"run_id": day}))
    return folder


def test_datasets_with_a_row_of_the_user_go_and_models_that_learnt_from_one_are_named(
    deployment: Deployment,
) -> None:
    learnt = dataset(deployment, "learnt", FIRST, DAYS[2])
    tested = dataset(deployment, "tested", date(2025, 1, 1), DAYS[1], before_tasks_had_parts=True)
    (tested / "examples.json").unlink()
    before = dataset(deployment, "before", date(2024, 1, 1), date(2024, 2, 1))
    report = forget_user(deployment, ANNA, TODAY)
    assert (report["datasets"], report["views"]) == (["learnt", "tested"], ["before"])
    assert not learnt.exists()
    assert not tested.exists()
    assert (before / "packed").is_dir()
    assert not (before / "examples.json").exists()
    assert [(model["run_id"], model["training_rows"]) for model in report["models"]] == [("learnt", 4), ("tested", 2)]


def stopped(deployment: Deployment, day: str, run_id: str) -> list[Path]:
    """A stopped training of ``day``: its batch in its own folder, kept for good, and in MLflow; a copy of each."""
    paths = deployment.paths.retrain(day)
    folders = [
        paths.training / "failed_step",
        paths.kept_failure(run_id) / "failed_step",
        deployment.paths.mlflow_artifacts / run_id / "artifacts" / "failed_step",
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "step.pt").write_bytes(b"rows")
        (folder.parent / "triage.json").write_text(json.dumps({"hypotheses": [], "text": ANNA}))
    paths.mlflow_run.write_text(json.dumps({"run_id": run_id}))
    return folders


def test_batches_that_trainings_stopped_at_go_though_their_dataset_is_gone_or_is_another_one(
    deployment: Deployment,
) -> None:
    gone = stopped(deployment, DAYS[2].isoformat(), "gone")
    other = stopped(deployment, DAYS[3].isoformat(), "other")
    # Since then the day was split otherwise: nothing of the user is in its dataset now.
    now = deployment.paths.retrain(DAYS[3].isoformat()).dataset / "packed"
    now.mkdir(parents=True)
    (now / "manifest.json").write_text(
        json.dumps(
            {"bounds": {"tasks": {"click": {"train_start": 0, "settled_end": 1}}, "test_start": 1, "test_end": 2}}
        )
    )
    earlier = stopped(deployment, "2025-12-31", "earlier")
    report = forget_user(deployment, ANNA, TODAY)
    for folder in (*gone, *other):
        assert not folder.exists()
        # What was found stays, without the hash.
        assert json.loads((folder.parent / "triage.json").read_text())["text"] == "0" * 32
    assert report["failed_steps"] == [f.relative_to(deployment.data_root).as_posix() for f in dropped(gone, other)]
    assert now.is_dir()
    assert all(folder.is_dir() for folder in earlier)
    assert forget_user(deployment, ANNA, TODAY)["failed_steps"] == []


def test_batches_that_further_trainings_of_a_retrain_stopped_at_go(deployment: Deployment) -> None:
    training = deployment.paths.retrain(DAYS[2].isoformat()).training
    folders = [training / of / "failed_step" for of in ("ablation/no_linear_part-1", "controls/click-1")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "step.pt").write_bytes(b"rows")
    report = forget_user(deployment, ANNA, TODAY)
    assert not any(folder.exists() for folder in folders)
    assert report["failed_steps"] == [folder.relative_to(deployment.data_root).as_posix() for folder in folders]


def dropped(*steps: list[Path]) -> list[Path]:
    """In the order in which they are found: that of the training with its copy in MLflow, then the one that was kept."""
    return [folder for own, kept, copy in steps for folder in (own, copy, kept)]


def test_vocabularies_texts_and_databases_lose_the_hash(tmp_path: Path) -> None:
    words = pl.DataFrame({"feature": ["user_id", "user_id", "ad_id"], "key": [ANNA, BEN, ANNA], "row": [2, 3, 2]})
    (tmp_path / "fitted").mkdir()
    words.write_parquet(tmp_path / "fitted" / "vocabulary.parquet")
    (tmp_path / "alerts.jsonl").write_text(json.dumps({"key": ANNA, "other": BEN}))
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("create table logs (id integer, event text, raw blob)")
        database.executemany("insert into logs values (?, ?, ?)", [(1, f"user {ANNA} is new", b"x"), (2, BEN, b"y")])
    done = scrub(tmp_path, [], ANNA, ["user", "user_id"])
    assert (done.vocabularies, done.texts, done.databases) == (
        ["fitted/vocabulary.parquet"], ["alerts.jsonl"], ["events.db"],
    )  # fmt: skip
    left = pl.read_parquet(tmp_path / "fitted" / "vocabulary.parquet")
    assert left.rows() == [("user_id", BEN, 3), ("ad_id", ANNA, 2)]
    assert json.loads((tmp_path / "alerts.jsonl").read_text()) == {"key": "0" * 32, "other": BEN}
    with sqlite3.connect(tmp_path / "events.db") as database:
        assert database.execute("select event from logs order by id").fetchall() == [
            (f"user {'0' * 32} is new",),
            (BEN,),
        ]
    assert ANNA.encode() not in (tmp_path / "events.db").read_bytes()
    assert holders(tmp_path, ANNA) == ["fitted/vocabulary.parquet"]


def test_a_database_in_use_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr_pipeline.privacy.scrub.PATIENCE_SECONDS", 0.1)
    with sqlite3.connect(tmp_path / "events.db") as database:
        database.execute("create table logs (event text)")
        database.execute("insert into logs values (?)", (ANNA,))
    with sqlite3.connect(tmp_path / "events.db") as busy:
        busy.execute("begin exclusive")
        with pytest.raises(ScrubError, match="Stop `ctr ui`"):
            scrub(tmp_path, [], ANNA, [])
