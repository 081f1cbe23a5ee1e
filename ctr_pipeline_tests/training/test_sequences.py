"""Sequences in training: they learn, resume exactly, follow the loss's gradient, and what breaks inside one is named."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr_pipeline.datasets import SPLITS, PackedDataset, PackedSplit, write_split
from ctr_pipeline.features.layout import EventList, IdColumn, Layout, NumericColumn, Pooled
from ctr_pipeline.gradients.adapters.ranker_contracts import profile
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.spec.model import Model
from ctr_pipeline.training.dataloader import epoch_order, gather
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.step import StepPosition, take_step, update
from ctr_pipeline.training.stopping import Cancelled

LENGTH = 6
KINDS = ("target_attention", "transformer")


def with_events(layout: Layout) -> Layout:
    ad = layout.ids[0]
    ages = [
        NumericColumn(f"recent_age[{place}]", "history", "signed_log1p", 1e5, False, 11.5, 1.5)
        for place in range(LENGTH)
    ]
    listed = (
        IdColumn("recent", "history", ad.rows, ad.dim, Pooled(LENGTH, "mean", "first"), table="ad"),
        IdColumn("recent_event", "history", 4, ad.dim, Pooled(LENGTH, "mean", "first")),
    )
    return replace(
        layout, numeric=(*layout.numeric, *ages), ids=(*layout.ids, *listed),
        event_lists=(EventList("recent", "ad", "recent_event", "recent_age", LENGTH),),
    )  # fmt: skip


def listing(rows: PackedSplit, seed: int) -> PackedSplit:
    """``rows`` with lists in which the candidate stands in half of the rows, and is then clicked far more often."""
    rng = np.random.default_rng([seed, 5])
    count = len(rows)
    items = rng.integers(2, 60, (count, LENGTH)).astype(np.int32)
    again = rng.random(count) < 0.5
    items[again, 0] = rows.ids[again, 0]
    ended = np.arange(LENGTH) >= rng.integers(1, LENGTH + 1, (count, 1))
    kinds = rng.integers(2, 4, (count, LENGTH))
    ages = np.exp(11.5 + 1.5 * rng.normal(size=(count, LENGTH))).astype(np.float32)
    labels = np.array(rows.labels)
    flipped = rng.random(count) < 0.8
    labels[flipped, 0] = again[flipped]
    labels[labels[:, 0] == 0, 1] = np.minimum(labels[labels[:, 0] == 0, 1], 0)
    return replace(
        rows, labels=labels, numeric=np.concatenate([rows.numeric, np.where(ended, np.nan, ages)], axis=1, dtype=np.float32),
        ids=np.concatenate([rows.ids, np.where(ended, -1, items), np.where(ended, -1, kinds)], axis=1, dtype=np.int32),
    )  # fmt: skip


@pytest.fixture
def listed(
    job: TrainingJob, layout: Layout, make_rows: Callable[[int, int], PackedSplit], tmp_path: Path
) -> TrainingJob:
    """The job on rows with lists, without a module that reads them."""
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "layout.json").write_text(with_events(layout).to_json())
    for seed, name in enumerate(SPLITS):
        write_split(packed, name, listing(make_rows(3000 if name == "train" else 300, seed), seed))
    return job.model_copy(update={"dataset": packed})


def reading(job: TrainingJob, *kinds: str, **training: object) -> TrainingJob:
    """The job with modules, read from its file as the trainer's process does."""
    model = Model.model_validate({**job.model.model_dump(), "sequences": list(kinds)})
    path = job.dataset.parent / "job.json"
    again = job.model_copy(update={"model": model, "training": job.training.model_copy(update=training)})
    again.save(path)
    return TrainingJob.load(path)


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_learns_that_the_candidate_is_among_the_events(kind: str, listed, make_trainer) -> None:
    without = make_trainer(listed.model_copy(update={"output": listed.output.parent / "without"})).run(False)
    job = reading(listed, kind, epochs=3 if kind == "target_attention" else 6)
    trainer = make_trainer(job)
    found = trainer.run(False)
    assert found.best_validation < without.best_validation - 0.05
    test = PackedDataset.open(job.dataset).splits["test"]
    ranker = load_ranker(job.output / "model.pt", trainer.dataset.layout, job.model)
    with torch.no_grad():
        expected = ranker(torch.tensor(np.asarray(test.numeric)), torch.tensor(np.asarray(test.ids))).numpy()
    np.testing.assert_allclose(np.load(job.output / "scores" / "test.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_interrupted_and_resumed_equals_uninterrupted(precision: str, listed, make_trainer) -> None:
    whole = reading(listed, *KINDS, precision=precision)
    expected = make_trainer(whole).run(False)
    parts = whole.model_copy(update={"output": whole.output.parent / "parts"})
    with pytest.raises(Cancelled):
        make_trainer(parts, stop_after=7).run(False)
    resumed = make_trainer(parts).run(True)
    assert losses(parts.output) == losses(whole.output)
    assert (resumed.best_epoch, resumed.model_sha256) == (expected.best_epoch, expected.model_sha256)


def test_the_gradient_of_the_logits_is_that_of_the_loss(listed, make_trainer) -> None:
    """The largest relative error of a logit's gradient beside the loss's formula, over the run."""
    assert make_trainer(reading(listed, *KINDS)).run(False).health.numbers["loss_gradient_error"] < 1e-3


def test_a_list_has_an_order_of_its_own_in_the_vocabulary_that_it_shares(listed, make_trainer) -> None:
    """Its most frequent id need not be that of the candidates, in whose order the rows are."""
    split = PackedDataset.open(listed.dataset).splits["train"]
    ids = np.array(split.ids)
    ids[:, 3 : 3 + LENGTH] = np.where(ids[:, 3 : 3 + LENGTH] >= 0, 50, -1)
    outcomes = {
        outcome.name: outcome for outcome in profile(replace(split, ids=ids), make_trainer(listed).dataset.layout)
    }
    assert outcomes["id_concentration"].verdict != "failed"
    ids[:, 0] = 50
    outcomes = {
        outcome.name: outcome for outcome in profile(replace(split, ids=ids), make_trainer(listed).dataset.layout)
    }
    assert outcomes["id_concentration"].verdict == "failed"


MODULE = "sequences.modules_by_kind."


@pytest.mark.parametrize(
    ("kind", "name", "fault"),
    [
        *((f"{kind}_{n}", part, "parameter") for n, kind in enumerate(KINDS) for part in ("encoder.project.weight", "output.bias", "recency.exponent", "encoder.kinds")),
        ("target_attention_0", "of_product", "parameter"),
        ("transformer_1", "layers.0.read.weight", "parameter"),
        ("target_attention_0", "of_event", "activation"),
        ("transformer_1", "layers.0.write", "activation"),
        ("transformer_1", "ask.weight", "gradient"),
        ("target_attention_0", "of_event.weight", "gradient"),
    ],
)  # fmt: skip
def test_a_fault_inside_a_module_is_named(kind: str, name: str, fault: str, listed, make_trainer) -> None:
    trainer = make_trainer(reading(listed, *KINDS, detail_every=1))
    full = f"{MODULE}{kind}.{name}"
    if fault == "parameter":
        trainer.model.get_parameter(full).data.view(-1)[0] = math.nan
    elif fault == "activation":
        trainer.model.get_submodule(full).register_forward_hook(lambda *call: call[2] + math.inf)
    else:
        trainer.model.get_parameter(full).register_hook(lambda gradient: gradient * math.nan)
    order = epoch_order(len(trainer.train), trainer.job.seed, 0)
    at = StepPosition(step=1, epoch=0, rows=100, rate_factor=1.0)
    cause = update(trainer.state, take_step(trainer.state, gather(trainer.train, order[:100]), at))
    assert cause is not None
    assert (cause.kind, cause.tensor) == (fault, full)
