"""Interactions on their whole way: spec, training, scores, export, parity; one of them made here by class and call."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.calibration import PlattCalibrator
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.ranker import RankerError, load_ranker
from ctr_pipeline.ranker.interactions import register_interaction
from ctr_pipeline.ranker.shapes import InputShape
from ctr_pipeline.serving.export import check_parity, export_bundle
from ctr_pipeline.spec import parse_spec
from ctr_pipeline.spec.model import Model
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.stopping import Stopped
from ctr_pipeline_tests.serving.shop import SPEC


class MixedNumbers(nn.Module):
    """The toy: a linear map of the numbers, through a saturating function."""

    out_width = 3

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.mix = nn.Linear(shape.numbers, self.out_width)

    def forward(self, numbers: Tensor, _fields: tuple[Tensor, ...]) -> Tensor:
        return torch.tanh(self.mix(numbers))


register_interaction("mixed_for_training", MixedNumbers)

INTERACTIONS = [{"kind": "factorisation_machine"}, {"kind": "mixed_for_training"}]


@pytest.fixture
def interacting(job: TrainingJob, layout, tmp_path: Path) -> TrainingJob:
    """The job with both interactions, on embeddings of one width, read from its file as the trainer's process does."""
    packed = tmp_path / "packed"
    shutil.copytree(job.dataset, packed)
    equal = replace(layout, ids=tuple(replace(column, dim=4) for column in layout.ids))
    (packed / "layout.json").write_text(equal.to_json())
    model = Model.model_validate({**job.model.model_dump(), "interactions": INTERACTIONS})
    job.model_copy(update={"dataset": packed, "model": model}).save(tmp_path / "job.json")
    return TrainingJob.load(tmp_path / "job.json")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_interactions_are_trained_scored_exported_and_served_alike(interacting, make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(interacting)
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.run(False)
    name = "interactions.mixed_for_training_1.mix.weight"
    assert bool((trainer.model.get_parameter(name) != start[name]).all())
    losses = [line["loss"] for line in lines(interacting.output / "steps.jsonl")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])

    dataset = PackedDataset.open(interacting.dataset)
    ranker = load_ranker(interacting.output / "model.pt", dataset.layout, interacting.model)
    test = dataset.splits["test"]
    with torch.no_grad():
        expected = ranker(torch.tensor(np.asarray(test.numeric)), torch.tensor(np.asarray(test.ids))).numpy()
    np.testing.assert_allclose(np.load(interacting.output / "scores" / "test.npy"), expected, atol=1e-6)

    with torch.no_grad():
        # Embeddings as large as after a long training: the pairwise products then move the logits.
        ranker.get_parameter("embeddings.tables.width_4.table.weight").mul_(10)
    keys = [(c.name, f"{c.name}{row}", row) for c in dataset.layout.ids for row in range(2, c.rows)]
    pl.DataFrame(keys, schema=["feature", "key", "row"], orient="row").write_parquet(tmp_path / "v.parquet")
    calibrators = {"click": PlattCalibrator(a=0.9, b=0.1), "cart": PlattCalibrator()}
    spec = parse_spec(SPEC, "test")
    spec = spec.model_copy(update={"model": interacting.model})
    bundle = export_bundle(ranker, calibrators, dataset.layout, tmp_path / "v.parquet", spec, tmp_path / "bundle")
    parity = check_parity(bundle, ranker, calibrators, np.asarray(test.numeric), np.asarray(test.ids))
    assert parity.passed, parity
    assert "kind: factorisation_machine" in (tmp_path / "bundle" / "spec.yaml").read_text()
    served = bundle.score(np.asarray(test.numeric), np.asarray(test.ids).astype(np.int64)).logits
    with torch.no_grad():
        ranker.head.weight[:, -4] = 0
        without = ranker(torch.tensor(np.asarray(test.numeric)), torch.tensor(np.asarray(test.ids))).numpy()
    assert np.abs(served - without).max() > 1e-3, "a pairwise term without influence would prove nothing"


def test_interactions_run_at_the_precision_of_the_tower(interacting, make_trainer) -> None:
    seen: set[tuple[str, torch.dtype]] = set()
    training = interacting.training.model_copy(update={"precision": "bf16", "epochs": 1})
    trainer = make_trainer(interacting.model_copy(update={"training": training}))

    def note(_module, received, output) -> None:
        seen.update({("numbers", received[0].dtype), ("products", output.dtype)})

    trainer.model.interactions["factorisation_machine_0"].register_forward_hook(note)
    trainer.model.interactions["mixed_for_training_1"].register_forward_hook(
        lambda *call: seen.add(("mixed", call[2].dtype))
    )
    trainer.model.tower[1].linear.register_forward_hook(lambda *call: seen.add(("tower", call[2].dtype)))
    trainer._train_epoch(None)
    # Matrix products gain from 16 bits; sums of squares would lose their digits.
    assert seen == {
        ("tower", torch.bfloat16),
        ("mixed", torch.bfloat16),
        ("numbers", torch.float32),
        ("products", torch.float32),
    }
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trainer.model.parameters())


def test_a_step_that_an_interaction_breaks_is_named(interacting, make_trainer) -> None:
    plain = interacting.model.model_copy(update={"normalisation": "none"})
    trainer = make_trainer(interacting.model_copy(update={"model": plain}))
    with torch.no_grad():
        # Products of such embeddings overflow; sums do not, squares of them in a normalisation would.
        trainer.model.get_parameter("embeddings.tables.width_4.table.weight").fill_(1e20)
    with pytest.raises(Stopped) as stopped:
        trainer.run(False)
    assert (stopped.value.cause.kind, stopped.value.cause.tensor) == (
        "activation",
        "interactions.factorisation_machine_0",
    )


def test_embeddings_of_different_widths_are_refused_before_training(job, make_trainer) -> None:
    model = Model.model_validate({**job.model.model_dump(), "interactions": INTERACTIONS[:1]})
    with pytest.raises(RankerError, match="they differ: 2 for device; 4 for ad, query"):
        make_trainer(job.model_copy(update={"model": model}))
