"""Means from which new ids begin, in the loop: they follow the embeddings, and a resumed run has the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_pipeline.features.layout import Layout, ParentMean
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.training import loop
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.stopping import Cancelled


@pytest.fixture
def cold_layout(layout: Layout) -> Layout:
    ad, *others = layout.ids
    return replace(layout, ids=(replace(ad, cold_start=ParentMean("device", 5.0)), *others))


@pytest.fixture
def cold(job: TrainingJob, cold_layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    monkeypatch.setattr(loop, "STEPS_BETWEEN_MEANS", 3)
    packed = tmp_path / "packed"
    shutil.copytree(job.dataset, packed)
    (packed / "layout.json").write_text(cold_layout.to_json())
    return job.model_copy(update={"dataset": packed, "output": tmp_path / "whole"})


def test_the_stored_means_are_those_of_the_stored_embeddings(cold, cold_layout, make_trainer) -> None:
    trainer = make_trainer(cold)
    trainer.run(False)
    ranker = load_ranker(cold.output / "model.pt", cold_layout, cold.model)
    for table in ranker._tables():
        for module in table.cold_starts.values():
            own = table.table.weight.detach()[: len(module.share)].double()
            ids = np.asarray(trainer.train.ids)
            known = ids[ids[:, 0] >= 2]
            overall = own[known[:, 0]].mean(dim=0)
            for device in range(len(module.means)):
                rows = own[known[known[:, 2] == device, 0]]
                expected = (rows.sum(dim=0) + 5.0 * overall) / (len(rows) + 5.0)
                torch.testing.assert_close(module.means[device].double(), expected, atol=1e-6, rtol=1e-5)
    contracts = json.loads((cold.output / "contracts.json").read_text())
    assert {contract["verdict"] for contract in contracts} <= {"passed", "not_measured"}, contracts
    scores = np.load(cold.output / "scores" / "test.npy")
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("stop_after", [5, 10])
def test_a_resumed_run_has_the_same_means(cold, make_trainer, stop_after: int) -> None:
    expected = make_trainer(cold).run(False)
    parts = cold.model_copy(update={"output": cold.output.with_name("parts")})
    with pytest.raises(Cancelled):
        make_trainer(parts, stop_after=stop_after).run(False)
    assert make_trainer(parts).run(True).model_sha256 == expected.model_sha256
