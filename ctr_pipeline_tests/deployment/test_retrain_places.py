"""Which retrain a new one is compared with, and where it lies."""

import json
from pathlib import Path

import pytest

from ctr_pipeline.deployment.paths import DataRoot, RetrainPaths
from ctr_pipeline.deployment.retrain_places import NoRetrainError, RetrainPlace
from ctr_pipeline.orchestration.assets.attribution import retrain_before

DAY, DAY_BEFORE = "2026-03-02", "2026-03-01"


def made(paths: RetrainPaths, arrays: str = "a") -> RetrainPaths:
    """A finished retrain, as far as looking for one needs it."""
    for folder in (paths.packed, paths.training):
        folder.mkdir(parents=True, exist_ok=True)
    for path in (paths.spec, paths.calibration):
        path.write_text("{}", encoding="utf-8")
    paths.packed_manifest.write_text(json.dumps({"sha256": {"x": arrays}}), encoding="utf-8")
    paths.provenance.write_text(json.dumps({"arrays": {"x": arrays}}), encoding="utf-8")
    return paths


def test_a_champion_elsewhere_comes_before_the_replaced_one_and_that_before_the_day_before(tmp_path: Path) -> None:
    root = DataRoot(tmp_path / "root")
    own = RetrainPlace(root.root, DAY)
    made(root.retrain(DAY))
    assert retrain_before(root, own, None) == (None, "nothing")
    # The champion is this retrain itself, made once more.
    assert retrain_before(root, own, own.paths.training) == (None, "nothing")
    made(root.retrain(DAY_BEFORE))
    assert retrain_before(root, own, None)[0] == RetrainPlace(root.root, DAY_BEFORE)
    made(root.replaced(DAY))
    before, which = retrain_before(root, own, own.paths.training)
    assert before is not None
    assert before.paths.training == root.replaced(DAY).training
    assert "same day" in which
    champion = made(DataRoot(tmp_path / "other").retrain(DAY))
    assert retrain_before(root, own, champion.training)[0] == RetrainPlace((tmp_path / "other").resolve(), DAY)
    # Of a champion whose files are gone nothing can be compared.
    assert retrain_before(root, own, tmp_path / "gone" / "training" / DAY)[0] == before


def test_a_replaced_retrain_is_named_by_its_folder_and_read_from_the_lake_of_its_root(tmp_path: Path) -> None:
    root = DataRoot(tmp_path)
    kept = made(root.replaced(DAY))
    found = RetrainPlace.of_folder(kept.training)
    assert (found.root, found.day, found.paths.packed) == (tmp_path, DAY, kept.packed)
    own = made(root.retrain(DAY))
    assert RetrainPlace.of_folder(own.training) == RetrainPlace(tmp_path, DAY)
    assert found != RetrainPlace(tmp_path, DAY)
    with pytest.raises(NoRetrainError, match="no retrain here"):
        RetrainPlace.of_folder(tmp_path)
