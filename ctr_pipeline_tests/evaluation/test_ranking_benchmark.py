"""What benchmarks/ranking.py computes by itself: changed specs, and paired replicates of the metrics."""

import copy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from ctr_pipeline.evaluation.metrics import average_precision, normalised_entropy, roc_auc
from ctr_pipeline.spec import parse_spec


@pytest.fixture
def ranking(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import ranking

    return ranking


@pytest.fixture
def figures(ranking: ModuleType) -> ModuleType:
    return sys.modules["_ranking_figures"]


@pytest.fixture
def ads(project: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    return content


def test_a_change_makes_absent_sections_and_leaves_the_spec_as_it_was(ranking: ModuleType) -> None:
    spec = {"model": {"hidden": [8]}, "calibration": "platt", "tasks": [{"name": "a"}, {"name": "b"}]}
    before = copy.deepcopy(spec)
    changes = {"model.position": "none", "calibration.prior": 0, "training.seed": 8, "tasks.*.window": "1d"}
    changed = ranking.overridden(spec, changes)
    assert changed == {
        "model": {"hidden": [8], "position": "none"}, "calibration": {"prior": 0}, "training": {"seed": 8},
        "tasks": [{"name": "a", "window": "1d"}, {"name": "b", "window": "1d"}],
    }  # fmt: skip
    assert spec == before


def test_each_ablation_is_another_spec_or_says_why_it_is_not_run(
    ranking: ModuleType, ads: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = parse_spec(yaml.safe_dump(ads), where="ads")
    found = dict(ranking.applicable(ads, ranking.ABLATIONS))
    assert list(found) == list(ranking.ABLATIONS)
    runnable = [changed for changed in found.values() if not isinstance(changed, str)]
    assert len(runnable) >= len(found) // 2
    assert all(parse_spec(yaml.safe_dump(changed), where="changed") != base for changed in runnable)
    monkeypatch.setitem(ranking.ABLATIONS, "unknown", {"model.no_such_field": 1})
    monkeypatch.setitem(ranking.ABLATIONS, "same", {"seed": ads["seed"]})
    refused = dict(ranking.applicable(ads, ["unknown", "same"]))
    assert "model.no_such_field" in refused["unknown"]
    assert refused["same"] == "the spec is so already"


def test_paths_of_the_spec_no_longer_depend_on_its_folder(ranking: ModuleType) -> None:
    source = {"impressions": {"paths": ["a.csv", "/b.csv", "s3://c/d.csv"]}, "events": [{"paths": ["e.csv"]}]}
    assert ranking.with_absolute_paths(source, Path("/logs")) == {
        "impressions": {"paths": ["/logs/a.csv", "/b.csv", "s3://c/d.csv"]},
        "events": [{"paths": ["/logs/e.csv"]}],
    }


def test_a_replicate_is_the_metric_of_rows_repeated_as_often_as_their_user_was_drawn(figures: ModuleType) -> None:
    random = np.random.default_rng(3)
    users, labels = random.integers(0, 60, 300), random.integers(-1, 2, 300).astype(np.int8)
    logits = np.round(labels + random.normal(size=300), 1)
    draws = figures.resampled(logits, labels, users, seed=5, replicates=4)
    known = labels >= 0
    names = np.unique(users[known])
    weights = [np.ones(len(names), dtype=int), *np.random.default_rng(5).poisson(1.0, (4, len(names)))]
    for drawn, own in zip(draws, weights, strict=True):
        rows = np.repeat(np.flatnonzero(known), own[np.searchsorted(names, users[known])])
        z, y = logits[rows], labels[rows]
        expected = (
            roc_auc(z, y),
            average_precision(z, y),
            normalised_entropy(z, y),
            y.sum() / (1 / (1 + np.exp(-z))).sum(),
        )
        assert drawn == pytest.approx(expected, rel=1e-12)


def test_the_same_scores_do_not_differ_and_each_side_is_paired_at_its_position(figures: ModuleType) -> None:
    random = np.random.default_rng(4)
    labels, users = random.integers(0, 2, 400).astype(np.int8), np.arange(400)
    logits = labels + random.normal(size=400)

    def of(side: str, position: str, scores: np.ndarray[Any, Any]) -> Any:
        run = figures.Run(
            side=side, position=position, logits=scores[:, None], calibrated_on={0: 0}, seconds=1.0, peak_mib=None
        )
        return figures.figures([run], 0, labels, users, None, replicates=40)

    sides = [
        of("product", "neutral", logits), of("same", "neutral", logits),
        of("worse", "neutral", random.normal(size=400)), of("alone", "logged", logits),
    ]  # fmt: skip
    found = {side.side: by_metric for side, by_metric in figures.differences(sides, "product")}
    assert set(found) == {"same", "worse"}
    assert all((own.value, own.low, own.high) == (0, 0, 0) for own in found["same"].values())
    assert found["worse"]["AUC"].low > 0 > found["worse"]["NE"].high
