"""The product's side of benchmarks/multi_task.py trains on the made-up arrays."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.evaluation.metrics import roc_auc


@pytest.fixture
def sides(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import _multi_task_sides

    return _multi_task_sides


@pytest.mark.parametrize("architecture", ["mmoe", "ple"])
def test_it_learns_and_its_time_is_measured(sides: ModuleType, tmp_path: Path, architecture: str, monkeypatch) -> None:
    monkeypatch.setattr(sides, "VOCABULARIES", (200, 100, 50, 40, 30, 20, 20, 10, 10, 10, 10, 10))
    dataset = PackedDataset.open(sides.make_dataset(tmp_path / "packed", 6_000, 2_000))
    side = sides.Side(
        library="ours", architecture=architecture, dataset=str(dataset.directory), output=str(tmp_path), seed=1,
        batch_size=128, epochs=2,
    )  # fmt: skip
    logits, seconds = sides.train_ours(side, dataset)
    test = dataset.splits["test"]
    assert logits.shape == (2_000, 2)
    assert seconds > 0
    assert all((roc_auc(logits[:, task], np.asarray(test.labels[:, task])) or 0) > 0.55 for task in range(2))
