"""What makes stored tables stale, and what does not."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.fingerprints import (
    TAG,
    contract_fingerprint,
    fresh_days,
    history_fingerprint,
    ingest_fingerprint,
    label_fingerprint,
    retrain_fingerprint,
)
from ctr_pipeline.spec import parse_spec

DAY = date(2026, 1, 5)


@pytest.fixture
def settings(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> PipelineSettings:
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef0123")
    return PipelineSettings.from_environment(
        {"CTR_SPEC": str(project / "specs" / "ads.yaml"), "CTR_DATA_ROOT": str(tmp_path / "data")}
    )


def _changed(settings: PipelineSettings, section: str, **values: object) -> PipelineSettings:
    content = yaml.safe_load(settings.spec_text)
    content[section] = {**content.get(section, {}), **values}
    return replace(settings, spec=parse_spec(yaml.safe_dump(content), where="changed"))


def test_a_longer_lag_makes_labels_and_history_anew_but_not_the_raw_tables(settings: PipelineSettings) -> None:
    longer = _changed(settings, "split", ingest_lag="6h")
    assert ingest_fingerprint(longer) == ingest_fingerprint(settings)
    assert label_fingerprint(longer, DAY) != label_fingerprint(settings, DAY)
    assert history_fingerprint(longer, DAY) != history_fingerprint(settings, DAY)


def test_another_key_makes_everything_anew(settings: PipelineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contract_fingerprint(settings), ingest_fingerprint(settings)
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "another-key-0123456789")
    assert contract_fingerprint(settings) != before[0]
    assert ingest_fingerprint(settings) != before[1]


def test_training_settings_make_the_model_anew_and_nothing_else(settings: PipelineSettings) -> None:
    other = _changed(settings, "training", epochs=9)
    with dg.DagsterInstance.ephemeral() as instance:
        assert retrain_fingerprint(other, instance, DAY) != retrain_fingerprint(settings, instance, DAY)
    assert label_fingerprint(other, DAY) == label_fingerprint(settings, DAY)
    assert history_fingerprint(other, DAY) == history_fingerprint(settings, DAY)


def test_a_model_is_stale_once_a_day_that_it_read_was_read_anew(settings: PipelineSettings) -> None:
    def read(instance: dg.DagsterInstance, day: str, fingerprint: str) -> None:
        instance.report_runless_asset_event(
            dg.AssetMaterialization("impressions", partition=day, tags={TAG: fingerprint})
        )

    with dg.DagsterInstance.ephemeral() as instance:
        read(instance, "2026-01-04", "a")
        before = retrain_fingerprint(settings, instance, DAY)
        read(instance, "2026-01-06", "a")
        assert retrain_fingerprint(settings, instance, DAY) == before
        read(instance, "2026-01-04", "b")
        assert retrain_fingerprint(settings, instance, DAY) != before
        assert fresh_days(instance, "impressions", [date(2026, 1, 4), date(2026, 1, 6)], "a") == {date(2026, 1, 6)}


def test_another_objective_makes_the_model_anew_and_nothing_else(settings: PipelineSettings) -> None:
    content = yaml.safe_load(settings.spec_text)
    content["tasks"][0]["objective"] = {"kind": "binary", "loss": {"kind": "focal"}}
    other = replace(settings, spec=parse_spec(yaml.safe_dump(content), where="changed"))
    with dg.DagsterInstance.ephemeral() as instance:
        assert retrain_fingerprint(other, instance, DAY) != retrain_fingerprint(settings, instance, DAY)
    assert ingest_fingerprint(other) == ingest_fingerprint(settings)
    assert label_fingerprint(other, DAY) == label_fingerprint(settings, DAY)
