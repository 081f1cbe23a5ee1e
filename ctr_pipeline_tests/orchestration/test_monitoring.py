"""The asset `profile` on a real Dagster instance: checks name their days, and alerts follow."""

from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.features import SYMPTOMS as SOUGHT
from ctr_pipeline.lake import Lake
from ctr_pipeline.orchestration.automation.alerts import alerts_of_run
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.checks.drift import SYMPTOMS
from ctr_pipeline.orchestration.in_process import run_days

SCALE, MIX = date(2026, 1, 10), date(2026, 1, 12)


@pytest.fixture
def settings(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef")
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    content["source"]["simulator"].update(
        days=13,
        sessions_per_day=600,
        users=2000,
        queries=500,
        advertisers=60,
        incidents=[
            {"kind": "unit_change", "day": SCALE, "last_day": SCALE, "feature": "price"},
            {"kind": "traffic_shift", "day": MIX, "last_day": MIX, "device": "tablet"},
        ],
    )
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Deployment.from_environment(
        Environment.of({"CTR_SPEC": str(path), "CTR_DATA_ROOT": str(tmp_path / "root" / "data")})
    )


def newest_run(instance: dg.DagsterInstance) -> str:
    return instance.get_runs(limit=1)[0].run_id


def checks_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, Any]:
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [entry.dagster_event.asset_check_evaluation_data for entry in entries if entry.dagster_event]
    return {check.check_name: check for check in found if check.asset_key == dg.AssetKey("profile")}


def test_symptoms_and_checks_have_the_same_names() -> None:
    assert tuple(SYMPTOMS) == SOUGHT


def test_checks_name_their_days_whether_days_come_together_or_one_by_one(settings: Deployment) -> None:
    defs = build_definitions(settings)
    days = [date(2026, 1, n) for n in range(1, 14)]
    with dg.instance_for_test() as instance:
        run_days(defs, instance, "daily_ingest", ("impressions", "outcome_events"), days)
        run_days(defs, instance, "daily_ingest", ("profile",), days[:11])
        together = checks_of(instance, newest_run(instance))
        assert set(together) == set(SYMPTOMS)
        assert {name for name, check in together.items() if not check.passed} == {"feature_scale"}
        scale = together["feature_scale"]
        assert scale.severity == dg.AssetCheckSeverity.WARN
        assert scale.metadata["failing_days"].value == [str(SCALE)]
        assert scale.metadata["days_evaluated"].value == 8
        assert scale.description.startswith(f"{SCALE}: price has median ")
        run = instance.get_run_by_id(newest_run(instance))
        assert run is not None
        assert [alert["check"] for alert in alerts_of_run(instance, run)] == ["feature_scale"]

        # The days that follow, one by one, are compared with stored profiles.
        alone = {}
        for day in days[11:]:
            run_days(defs, instance, "daily_ingest", ("profile",), [day])
            alone[day] = {n: c for n, c in checks_of(instance, newest_run(instance)).items() if not c.passed}
        assert {day: set(failing) for day, failing in alone.items()} == {MIX: {"traffic_mix"}, days[12]: set()}
        assert alone[MIX]["traffic_mix"].metadata["failing_days"].value == [str(MIX)]
        assert "device_type 'tablet'" in alone[MIX]["traffic_mix"].description
        assert instance.get_materialized_partitions(dg.AssetKey("profile")) == {str(day) for day in days}
    stored = Lake(settings.paths.lake).scan("profile").collect()
    assert stored["day"].unique().sort().to_list() == days
