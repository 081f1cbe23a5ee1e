"""Scores with the logged position and without, as the trainer writes them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ctr_pipeline.datasets import SPLITS, PackedDataset
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer


def test_both_are_written_and_the_second_goes_with_the_effect(
    make_packed: Callable[[str, int], Path], job: TrainingJob, make_trainer: Callable[..., Trainer]
) -> None:
    directory = make_packed("placed", 600)
    layout = replace(PackedDataset.open(directory).layout, positions=(0.5, 0.3, 0.2))
    (directory / "layout.json").write_text(layout.to_json())
    for split in SPLITS:
        rows = len(np.load(directory / split / "position.npy"))
        np.save(directory / split / "position.npy", (np.arange(rows) % 4).astype(np.int16))
    placed = job.model_copy(update={"dataset": directory, "training": Training(epochs=2, batch_size=50, threads=1)})
    make_trainer(placed).run(resume=False)
    scores = job.output / "scores"
    test = PackedDataset.open(directory).splits["test"]
    ranker = load_ranker(job.output / "model.pt", layout, placed.model)
    numeric, ids, position = (torch.from_numpy(np.array(a)) for a in (test.numeric, test.ids, test.position))
    with torch.no_grad():
        expected = {"test": ranker(numeric, ids), "test_logged_position": ranker(numeric, ids, position)}
    assert len(np.unique(test.position)) > 2
    for name, logits in expected.items():
        np.testing.assert_allclose(np.load(scores / f"{name}.npy"), logits.numpy(), atol=1e-6)
    assert not torch.equal(*expected.values())
    effect = json.loads((job.output / "position.json").read_text())
    assert (effect["kind"], effect["shares"], effect["relative"]["click"][0]) == ("additive", [0.5, 0.3, 0.2], 1.0)

    plain = placed.model_copy(update={"model": Model.model_validate({**job.model.model_dump(), "position": "none"})})
    make_trainer(plain).run(resume=False)
    assert sorted(path.name for path in scores.iterdir()) == ["calibration.npy", "test.npy", "validation.npy"]
    assert not (job.output / "position.json").exists()
