"""The event log holds the same rows whether the events of many days come together or one by one."""

import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.orchestration.event_storage import BATCH_VARIABLE, BatchedEventLogStorage
from ctr_pipeline.orchestration.instance import prepare_home

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01", end_date="2026-01-12")
KEYS = [f"2026-01-{day:02d}" for day in range(1, 12)]


@dg.asset(
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("fine", asset="one")],
)
def one(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
    for key in context.partition_keys:
        context.add_asset_metadata({"rows": int(key[-2:])}, asset_key="one", partition_key=key)
    return dg.MaterializeResult(
        tags={"made": "from"}, check_results=[dg.AssetCheckResult(passed=True, check_name="fine")]
    )


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[one])
def other(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
    if "2026-01-11" in context.partition_keys and context.run.tags.get("fails"):
        raise RuntimeError
    return dg.MaterializeResult(metadata={"days": len(context.partition_keys)}, tags={"made": "anew"})


def events_of(folder: Path, *, batch: str, monkeypatch: pytest.MonkeyPatch, own: bool = True) -> dict[str, Any]:
    """What the index holds after one good run of eleven days, one that failed, and one of a single day."""
    monkeypatch.setenv(BATCH_VARIABLE, batch)
    home = prepare_home(DataRoot(folder))
    if not own:
        (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    defs = dg.Definitions(assets=[one, other], jobs=[dg.define_asset_job("both")], executor=dg.in_process_executor)
    span = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert isinstance(instance.event_log_storage, BatchedEventLogStorage) is own
        job = defs.resolve_job_def("both")
        for tags, key in ((span, None), ({**span, "fails": "yes"}, None), ({}, KEYS[3])):
            job.execute_in_process(instance=instance, tags=tags, partition_key=key, raise_on_error=False)
        newest = instance.fetch_materializations(dg.AssetKey("one"), limit=100).records
        metadata = {
            record.partition_key: record.asset_materialization.metadata["rows"].value
            for record in newest
            if record.asset_materialization
        }
        assert metadata == {key: int(key[-2:]) for key in KEYS}
        assert instance.get_materialized_partitions(dg.AssetKey("other")) == set(KEYS)
        status = instance.get_status_by_partition(dg.AssetKey("other"), KEYS, DAYS) or {}
        states = [str(status[key]) for key in KEYS]
    runs = folder / "dagster" / "history" / "runs"
    with sqlite3.connect(runs / "index.db") as index:
        found = {
            "events": index.execute(
                "SELECT dagster_event_type, step_key, asset_key, partition FROM event_logs ORDER BY id"
            ),
            "tags": index.execute(
                "SELECT t.asset_key, t.key, e.dagster_event_type, e.partition FROM asset_event_tags t JOIN event_logs e ON e.id = t.event_id "
                "ORDER BY t.event_id, t.key"
            ),
            "assets": index.execute(
                "SELECT asset_key, last_materialization IS NULL FROM asset_keys ORDER BY asset_key"
            ),
            "checks": index.execute(
                "SELECT asset_key, check_name, execution_status, partition FROM asset_check_executions"
            ),
        }
        rows: dict[str, Any] = {name: list(cursor) for name, cursor in found.items()}
    shards = []
    for path in runs.glob("*.db"):
        if path.stem != "index":
            with sqlite3.connect(path) as shard:
                shards.append(
                    list(shard.execute("SELECT dagster_event_type, step_key, partition FROM event_logs ORDER BY id"))
                )
    return {**rows, "shards": sorted(shards, key=str), "states": [tuple(states)]}


def test_events_are_the_same_together_and_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    together = events_of(tmp_path / "together", batch="4", monkeypatch=monkeypatch)
    singly = events_of(tmp_path / "singly", batch="0", monkeypatch=monkeypatch)
    assert "Exception while storing event batch" not in capsys.readouterr().err
    for name in ("tags", "assets", "checks", "states"):
        assert together[name] == singly[name]
    # Those that Dagster plans come in its own order.
    for name in ("events", "shards"):
        assert sorted(map(str, together[name])) == sorted(map(str, singly[name]))
    # As Dagster's own storage has them, but for the checks that it plans for each day of a run and judges once.
    plain = events_of(tmp_path / "plain", batch="0", monkeypatch=monkeypatch, own=False)
    for name in ("events", "tags", "assets", "shards", "states"):
        assert sorted(map(str, plain[name])) == sorted(map(str, together[name])), name
    assert {(status, partition) for _, _, status, partition in together["checks"]} == {("SUCCEEDED", None)}
    assert len(together["checks"]) == 3
    versions = [row for row in together["tags"] if row[1] == "dagster/data_version"]
    assert len(versions) == 3 * len(KEYS) + 2
