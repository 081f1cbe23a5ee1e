"""Late labels, alerts and schedules, on real Dagster instances."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.orchestration.automation.alerts import alerts_of_run
from ctr_pipeline.orchestration.automation.jobs import pipeline_jobs
from ctr_pipeline.orchestration.automation.schedules import pipeline_schedules
from ctr_pipeline.orchestration.automation.sensors import late_label_sensor
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.records import (
    EVENTS_VERSION,
    WATERMARK,
    Seen,
    arrival_day_watermark,
    stale_label_days,
)
from ctr_pipeline.orchestration.resources import NotifierResource

START = date(2026, 1, 1)
days = st.integers(0, 40).map(lambda n: START + timedelta(days=n))


@pytest.fixture
def settings(tmp_path: Path, project: Path) -> Deployment:
    return Deployment.from_environment(
        Environment.of({"CTR_SPEC": str(project / "specs" / "ads.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")})
    )


@given(
    shown=st.sets(days, max_size=12),
    watermark=days,
    horizon=st.integers(0, 20),
    early=st.integers(0, 2),
    data=st.data(),
)
def test_labels_that_saw_every_arrival_are_never_stale(
    shown: set[date], watermark: date, horizon: int, early: int, data: st.DataObject
) -> None:
    arrived = data.draw(st.dictionaries(days, st.integers(0, 9), max_size=12))
    seen = data.draw(st.dictionaries(days, st.builds(Seen, days, st.integers(0, 9)), max_size=12))
    stale = stale_label_days(shown, seen, arrived, watermark, horizon, early)
    assert all(day in shown and day <= watermark for day in stale)
    caught_up = {**seen, **dict.fromkeys(stale, Seen(watermark, max(arrived.values(), default=0)))}
    assert stale_label_days(shown, caught_up, arrived, watermark, horizon, early) == set()
    for day in shown - stale:
        last = min(watermark, day + timedelta(days=horizon))
        first = day - timedelta(days=early)
        unseen = [version for arrival, version in arrived.items() if first <= arrival <= last]
        assert day > watermark or (seen[day].watermark >= last and max(unseen, default=-1) <= seen[day].version)


def test_the_watermark_stops_at_the_first_hole() -> None:
    read = [START, START + timedelta(days=1), START + timedelta(days=3)]
    assert arrival_day_watermark(read, START) == START + timedelta(days=1)
    assert arrival_day_watermark(read[1:], START) is None


def test_the_sensor_asks_again_after_each_arrival_and_only_then(settings: Deployment) -> None:
    defs = build_definitions(settings)
    sensor = late_label_sensor(settings, pipeline_jobs(settings)["label_refresh"])

    def requests(instance: dg.DagsterInstance) -> dict[str, str]:
        context = dg.build_sensor_context(instance=instance, definitions=defs)
        result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return {}
        return {str(request.partition_key): str(request.run_key) for request in result.run_requests or []}

    def report(instance: dg.DagsterInstance, asset: str, day: str, **metadata: str | int) -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=day, metadata=metadata))

    with dg.DagsterInstance.ephemeral() as instance:
        assert requests(instance) == {}
        report(instance, "impressions", "2026-01-01")
        report(instance, "outcome_events", "2026-01-01", delta_version=1)
        assert requests(instance) == {"2026-01-01": "2026-01-01:2026-01-01:1"}
        report(instance, "labels", "2026-01-01", **{WATERMARK: "2026-01-01", EVENTS_VERSION: 1})
        assert requests(instance) == {}
        report(instance, "outcome_events", "2026-01-02", delta_version=2)
        assert requests(instance) == {"2026-01-01": "2026-01-01:2026-01-02:2"}
        # The request was lost: the level still differs, so the next tick asks again.
        assert requests(instance) == {"2026-01-01": "2026-01-01:2026-01-02:2"}
        report(instance, "labels", "2026-01-01", **{WATERMARK: "2026-01-02", EVENTS_VERSION: 2})
        assert requests(instance) == {}
        # A repaired day is read anew: the same watermark, another content.
        report(instance, "outcome_events", "2026-01-01", delta_version=3)
        assert requests(instance) == {"2026-01-01": "2026-01-01:2026-01-02:3"}
        # A day that is missing holds the watermark back.
        report(instance, "outcome_events", "2026-01-04", delta_version=4)
        assert requests(instance) == {"2026-01-01": "2026-01-01:2026-01-02:4"}


def test_schedules_ask_for_yesterday_and_only_within_the_log(settings: Deployment) -> None:
    schedules = pipeline_schedules(settings, pipeline_jobs(settings))
    daily = {"daily_ingest_schedule", "daily_retrain_schedule"}
    assert {schedule.name for schedule in schedules} == {*daily, "canary_watch_schedule"}
    for schedule in (schedule for schedule in schedules if schedule.name in daily):
        inside = schedule(dg.build_schedule_context(scheduled_execution_time=datetime(2026, 1, 6, 4)))
        assert inside.partition_key == "2026-01-05"
        outside = schedule(dg.build_schedule_context(scheduled_execution_time=datetime(2027, 1, 6, 4)))
        assert isinstance(outside, dg.SkipReason)


def test_failing_checks_become_alerts_and_repeats_are_held_back(tmp_path: Path) -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("fresh", asset="table"), dg.AssetCheckSpec("whole", asset="table")])
    def table() -> dg.MaterializeResult:
        return dg.MaterializeResult(
            check_results=[
                dg.AssetCheckResult(passed=True, check_name="whole"),
                dg.AssetCheckResult(
                    passed=False, check_name="fresh", severity=dg.AssetCheckSeverity.WARN, description="two days old"
                ),
            ]
        )

    notifier = NotifierResource(path=str(tmp_path / "alerts.jsonl"))
    with dg.instance_for_test() as instance:
        result = dg.materialize([table], instance=instance)
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        alerts = alerts_of_run(instance, run)
    assert [(a["check"], a["severity"]) for a in alerts] == [("fresh", "WARN")]
    assert notifier.notify(alerts, now=1000.0) == 1
    assert notifier.notify(alerts, now=2000.0) == 0
    assert notifier.notify(alerts, now=1000.0 + 3600) == 1
    lines = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["message"] for line in lines] == ["WARN table.fresh []: two days old"] * 2
