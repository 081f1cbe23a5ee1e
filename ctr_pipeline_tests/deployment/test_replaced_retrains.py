"""Of the retrains of a day the one that is to be compared with is kept when another takes its place."""

import shutil
from pathlib import Path

import pytest

from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.deployment.replaced_retrains import replaced_retrain, set_aside_dataset, set_aside_training

DAY = "2026-02-21"


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    """An empty data root."""
    return DataRoot(tmp_path)


def retrain(root: DataRoot, model: str, *, promoted: bool, arrays: str | None = None) -> None:
    """Makes a retrain of the day: with a dataset of its own where ``arrays`` names one, else of the dataset there is."""
    own = root.retrain(DAY)
    if arrays is not None:
        set_aside_dataset(root, DAY)
        shutil.rmtree(own.dataset, ignore_errors=True)
        write_json(own.packed_manifest, {"sha256": {"test/ts.npy": arrays}})
        for split in ("train", "test"):
            (own.packed / split).mkdir()
            (own.packed / split / "ts.npy").write_text(arrays)
    set_aside_training(root, DAY)
    shutil.rmtree(own.training, ignore_errors=True)
    write_json(own.provenance, {"arrays": read_json(own.packed_manifest)["sha256"]})
    write_json(own.mlflow_run, {"run_id": model})
    own.checkpoint.write_text("large")
    write_json(own.calibration, {})
    write_json(own.release, {"promoted": promoted})


def kept(root: DataRoot) -> tuple[str, str, bool] | None:
    """Run and arrays of what is kept, and whether its arrays are those of the day; None where nothing is."""
    found = replaced_retrain(root, DAY)
    if found is None:
        return None
    assert not (found.training / "checkpoint.pt").exists()
    arrays = (found.packed / "test" / "ts.npy").read_text()
    own = found.dataset == root.retrain(DAY).dataset
    assert own or not (found.packed / "train").exists()
    return read_json(found.mlflow_run)["run_id"], arrays, own


def test_a_retrain_that_another_takes_the_place_of_is_kept_with_its_dataset(root: DataRoot) -> None:
    retrain(root, "a", promoted=True, arrays="rows of a")
    assert kept(root) is None
    retrain(root, "b", promoted=False, arrays="rows of b")
    assert kept(root) == ("a", "rows of a", False)
    assert read_json(root.retrain(DAY).mlflow_run)["run_id"] == "b"


def test_where_the_model_alone_is_made_again_the_dataset_stays_that_of_the_day(root: DataRoot) -> None:
    retrain(root, "a", promoted=True, arrays="rows of a")
    retrain(root, "b", promoted=False)
    assert kept(root) == ("a", "rows of a", True)
    retrain(root, "c", promoted=False, arrays="rows of c")
    assert kept(root) == ("a", "rows of a", False)


def test_a_promoted_one_is_not_lost_to_later_attempts(root: DataRoot) -> None:
    retrain(root, "a", promoted=True, arrays="1")
    for attempt in ("b", "c"):
        retrain(root, attempt, promoted=False, arrays=f"rows of {attempt}")
        assert kept(root) == ("a", "1", False)
    retrain(root, "d", promoted=True, arrays="4")
    assert kept(root) == ("a", "1", False)
    retrain(root, "e", promoted=False, arrays="5")
    assert kept(root) == ("d", "4", False)


def test_without_a_promoted_one_the_last_is_kept(root: DataRoot) -> None:
    for attempt in ("a", "b", "c"):
        retrain(root, attempt, promoted=False, arrays=attempt)
    assert kept(root) == ("b", "b", False)


def test_what_did_not_finish_is_not_kept(root: DataRoot) -> None:
    retrain(root, "a", promoted=False, arrays="1")
    root.retrain(DAY).calibration.unlink()
    retrain(root, "b", promoted=False, arrays="2")
    assert kept(root) is None
