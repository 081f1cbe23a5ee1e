"""What the stored comparisons of later retrains say of the champion, and what earlier ones add to the gate of days."""

import json
from pathlib import Path

import numpy as np
import pytest

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.evaluation.daily_entropy import DayEntropy
from ctr_pipeline.orchestration.assets.champion_comparison import (
    MODEL_SPEC,
    decay_of_champion,
    earlier_origins,
    model_spec,
)
from ctr_pipeline.orchestration.checks.definition import check_results
from ctr_pipeline.orchestration.checks.promotion import PromotionEvidence
from ctr_pipeline.orchestration.resources.tracking import ModelVersion


@pytest.fixture
def settings(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setenv("CTR_PSEUDONYM_KEY", "0123456789abcdef0123")
    text = (project / "specs" / "ads.yaml").read_text(encoding="utf-8")
    spec = tmp_path / "ads.yaml"
    spec.write_text(text.replace("evaluation:\n", "evaluation:\n  origins: 3\n"), encoding="utf-8")
    return Deployment.from_environment(Environment.of({"CTR_SPEC": str(spec), "CTR_DATA_ROOT": str(tmp_path / "data")}))


def seen_on(number: int, champion: float | None, own: float = 0.8) -> DayEntropy:
    beside = {} if champion is None else {
        "reference_ne": champion, "reference_error": 0.003, "relative": own / champion - 1, "relative_error": 0.002,
        "freedom": 90.0,
    }  # fmt: skip
    return DayEntropy(day=f"2026-01-{number:02}", task="click", rows=900, positives=300, ne=own, error=0.003, **beside)


def retrain(settings: Deployment, number: int, before: str | None, *days: DayEntropy, spec: str | None = None) -> Path:
    """What the retrain of a day of January leaves, version by version; its model is version ``number``."""
    folder = settings.paths.retrain(f"2026-01-{number:02}").training
    folder.mkdir(parents=True)
    content = {
        "version": str(number),
        "champion_before": before,
        "days": [day.to_json() for day in days],
        MODEL_SPEC: spec or model_spec(settings.spec),
    }
    (folder / "release.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def champion_of(folder: Path, version: str = "8") -> ModelVersion:
    return ModelVersion(version=version, run_id="r", tags={"folder": str(folder), "partition": "2026-01-08"})


def test_days_since_the_promotion_tell_of_a_decay(settings: Deployment) -> None:
    folder = retrain(settings, 8, None, *(seen_on(number, None) for number in range(3, 8)))
    noise = np.random.default_rng(0).normal(0, 0.002, 40)
    for number in range(9, 25):
        # Days of the promotion's test are in it too, and must not count again.
        tested = [
            seen_on(day, 0.8 * (1 + noise[day]) * (1.04 if day >= 16 else 1.0)) for day in range(number - 5, number)
        ]
        retrain(settings, number, "8", *tested)
    retrain(settings, 26, "25", *(seen_on(day, 9.0) for day in range(21, 26)))
    found = decay_of_champion(settings, champion_of(folder))["click"]
    assert found is not None
    assert found.days == 23 - 7
    assert found.since == "2026-01-16"
    assert found.reference == pytest.approx(0.8)
    evidence = PromotionEvidence(True, [], decay={"click": found, "checkout": None}, served="8")
    [check] = [check for check in check_results("champion", evidence) if check.check_name == "still_as_good"]
    assert not check.passed
    assert "Version 8 has become worse: click: NE is 4." in str(check.description)
    assert "since 2026-01-16" in str(check.description)


def test_a_champion_whose_file_was_replaced_tells_nothing(settings: Deployment) -> None:
    folder = retrain(settings, 8, None, *(seen_on(number, None) for number in range(3, 8)))
    retrain(settings, 9, "8", seen_on(8, 0.9))
    assert decay_of_champion(settings, champion_of(folder, "7"))["click"] is None
    evidence = PromotionEvidence(True, [], decay=decay_of_champion(settings, champion_of(folder, "7")), served="7")
    [check] = [check for check in check_results("champion", evidence) if check.check_name == "still_as_good"]
    assert check.passed
    assert check.description == "Of version 7 no later day has been tested yet."


def test_earlier_origins_are_the_newest_of_the_same_model_that_were_compared(settings: Deployment) -> None:
    retrain(settings, 3, None, seen_on(1, None))
    retrain(settings, 4, "3", seen_on(2, 0.9))
    retrain(settings, 5, "3", seen_on(3, 0.9))
    retrain(settings, 6, "3", seen_on(4, 0.9), spec="another")
    retrain(settings, 7, "3", seen_on(5, 0.9))
    retrain(settings, 8, "3", seen_on(6, 0.9))
    found = earlier_origins(settings, "2026-01-08")
    assert {day: [of.day for of in days] for day, days in found.items()} == {
        "2026-01-07": ["2026-01-05"],
        "2026-01-05": ["2026-01-03"],
    }


def test_the_limits_of_checks_do_not_make_another_model(settings: Deployment) -> None:
    stricter = settings.spec.quality.model_copy(update={"max_ne_regression": 0.001})
    assert model_spec(settings.spec.model_copy(update={"quality": stricter})) == model_spec(settings.spec)
    assert model_spec(settings.spec.model_copy(update={"seed": 8})) != model_spec(settings.spec)
