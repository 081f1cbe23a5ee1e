import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.ranker import load_ranker
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training.job_spec import TrainingError
from ctr_pipeline.training.step_bundle import load_step
from ctr_pipeline.training.stopping import Cancelled, Stopped

GOLDEN_FIRST_LOSSES = [1.0204488039016724, 0.8671464920043945, 1.1051701307296753]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(output: Path) -> dict[str, bytes]:
    names = ["model.pt", "steps.jsonl", "validation.jsonl", *(f"scores/{n}.npy" for n in ("validation", "test"))]
    return {name: (output / name).read_bytes() for name in names}


def moved(job, folder: str, **training):
    return job.model_copy(
        update={"output": job.output.parent / folder, "training": job.training.model_copy(update=training)}
    )


def test_golden_losses(job, make_trainer) -> None:
    make_trainer(job).run(False)
    losses = [line["loss"] for line in lines(job.output / "steps.jsonl")]
    assert losses[:3] == pytest.approx(GOLDEN_FIRST_LOSSES, rel=1e-5)


def test_a_run_learns_and_writes_everything(job, make_trainer) -> None:
    received, layers = [], {}

    class Recorder:
        def on_step(self, record, steps) -> None:
            received.append(("step", record.step, steps))
            layers[record.step] = dict(record.layer_norms)

        def on_epoch(self, metrics) -> None:
            received.append(("epoch", metrics["epoch"]))

    result = make_trainer(job, callbacks=[Recorder()]).run(False)
    output = job.output
    steps = lines(output / "steps.jsonl")
    assert [line["step"] for line in steps] == list(range(20))
    assert {line["rows"] for line in steps} == {100}
    assert all(line["loss"] == pytest.approx(line["loss_click"] + line["loss_cart"], rel=1e-5) for line in steps)
    assert received.count(("epoch", 1)) == 1
    assert ("step", 19, 20) in received
    validation = lines(output / "validation.jsonl")
    assert [line["epoch"] for line in validation] == [0, 1]
    best = min(validation, key=lambda line: line["ne"])
    assert result.best_epoch == best["epoch"]
    assert result.best_validation == best["ne"] < 1.0
    assert result.health.numbers["nonfinite"] == 0
    assert result.health.numbers["loss_gradient_error"] < 1e-3
    gradients = pl.read_parquet(output / "gradients.parquet")
    assert gradients.columns == ["step", "tensor", "kind", "stat", "value"]
    assert gradients["step"].unique().sort().to_list() == [0, 4, 8, 12, 16]
    assert set(gradients["kind"]) == {"gradient", "weight", "update", "activation", "loss"}
    known = gradients.filter(pl.col("stat") == "known_labels", pl.col("tensor") == "click")["value"].to_list()
    assert known == [100.0] * 5
    largest = gradients.filter(pl.col("stat") == "largest_row", pl.col("tensor").str.contains("width_2"))["value"]
    assert set(largest.to_list()) <= set(range(6))
    # Norms by layer, on the logged steps: together they are the global norm.
    assert [step for step, norms in layers.items() if norms] == [0, 4, 8, 12, 16]
    assert {"tower.0.linear", "tower.1.linear", "head", "wide.numbers"} < set(layers[4])
    assert math.hypot(*layers[4].values()) == pytest.approx(steps[4]["grad_norm"], rel=1e-5)
    assert "layer_norms" not in steps[4]


def test_scores_are_those_of_the_stored_model(job, make_trainer) -> None:
    make_trainer(job).run(False)
    dataset = PackedDataset.open(job.dataset)
    ranker = load_ranker(job.output / "model.pt", dataset.layout, job.model)
    for name in ("validation", "calibration", "test"):
        split = dataset.splits[name]
        with torch.no_grad():
            expected = ranker(torch.tensor(split.numeric), torch.tensor(split.ids)).numpy()
        found = np.load(job.output / "scores" / f"{name}.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # The oracle of the validation metric, in numpy.
    split, logits = dataset.splits["validation"], np.load(job.output / "scores" / "validation.npy").astype(float)
    entropies = []
    for task in range(2):
        known = split.labels[:, task] >= 0
        y, p = split.labels[known, task], 1 / (1 + np.exp(-logits[known, task]))
        rate = y.mean()
        log_loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
        entropies.append(log_loss / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate)))
    best = min(lines(job.output / "validation.jsonl"), key=lambda line: line["ne"])
    assert best["ne"] == pytest.approx(np.mean(entropies), rel=1e-5)


def test_the_best_epoch_is_kept_and_not_the_last(job, make_trainer) -> None:
    job = moved(job, "overfit", epochs=6, learning_rate=0.03, embedding_learning_rate=0.5)
    result = make_trainer(job).run(False)
    validation = lines(job.output / "validation.jsonl")
    assert result.best_epoch == min(validation, key=lambda line: line["ne"])["epoch"] < 5


def test_equal_seeds_give_equal_bytes(job, make_trainer) -> None:
    make_trainer(job).run(False)
    other = moved(job, "again")
    make_trainer(other).run(False)
    assert files(job.output) == files(other.output)
    third = moved(job, "other_seed").model_copy(update={"seed": 4})
    make_trainer(third).run(False)
    assert files(third.output)["model.pt"] != files(job.output)["model.pt"]


@pytest.mark.parametrize("stop_after", [5, 10, 14])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_interrupted_and_resumed_equals_uninterrupted(job, make_trainer, stop_after: int, precision: str) -> None:
    whole, parts = moved(job, "whole", precision=precision), moved(job, "parts", precision=precision)
    expected = make_trainer(whole).run(False)
    with pytest.raises(Cancelled):
        make_trainer(parts, stop_after=stop_after).run(False)
    torch.rand(17)
    resumed = make_trainer(parts).run(True)
    assert files(parts.output) == files(whole.output)
    assert resumed.health == expected.health
    assert (resumed.best_epoch, resumed.model_sha256) == (expected.best_epoch, expected.model_sha256)
    assert pl.read_parquet(parts.output / "gradients.parquet").equals(
        pl.read_parquet(whole.output / "gradients.parquet")
    )


def test_resuming_a_finished_run_only_scores(job, make_trainer) -> None:
    make_trainer(job).run(False)
    before = files(job.output)
    result = make_trainer(job).run(True)
    assert (result.rows, result.steps) == (0, 20)
    assert files(job.output) == before


def test_a_checkpoint_of_another_job_or_a_damaged_one_is_refused(job, make_trainer) -> None:
    make_trainer(job).run(False)
    other = job.model_copy(update={"seed": 5})
    with pytest.raises(TrainingError, match="differs in seed"):
        make_trainer(other).run(True)
    checkpoint = job.output / "checkpoint.pt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(bytes(content))
    with pytest.raises(TrainingError, match="damaged"):
        make_trainer(job).run(True)
    (job.output / "checkpoint.pt.sha256").unlink()
    with pytest.raises(TrainingError, match="missing"):
        make_trainer(job).run(True)


def test_overfits_one_batch(make_packed, job, make_trainer) -> None:
    dataset = make_packed("tiny", 32)
    model = job.model.model_copy(update={"dropout": 0.0, "embedding_dropout": 0.0, "hidden": [32, 16]})
    job = moved(job, "tiny", epochs=150, patience=150, batch_size=32, learning_rate=0.01, embedding_learning_rate=0.2)
    job = job.model_copy(update={"dataset": dataset, "model": model, "checkpoint_every": 10_000})
    make_trainer(job).run(False)
    assert lines(job.output / "steps.jsonl")[-1]["loss"] < 0.02


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_learn_as_well(job, make_trainer, precision: str) -> None:
    full = make_trainer(moved(job, "fp32")).run(False)
    half = make_trainer(moved(job, precision, precision=precision)).run(False)
    assert half.best_validation == pytest.approx(full.best_validation, abs=0.01)
    assert half.health.numbers["loss_gradient_error"] < 1e-3


def test_a_rare_clip_is_counted(job, make_trainer) -> None:
    result = make_trainer(moved(job, "clipped", clip_norm=1e-3)).run(False)
    assert result.health.numbers["clipped_share"] == 1.0


def test_rows_outside_the_batches_never_move(job, make_trainer) -> None:
    trainer = make_trainer(job)
    used = set(PackedDataset.open(job.dataset).splits["train"].ids[:, 2].tolist())
    table = trainer.model.get_parameter("embeddings.tables.width_2.table.weight")
    before = table.detach().clone()
    trainer.run(False)
    still = {row for row in range(6) if torch.equal(table[row], before[row])}
    assert still == set(range(6)) - used


def test_settings_that_fit_no_task_or_no_rows_are_refused(job, make_packed, make_trainer) -> None:
    with pytest.raises(TrainingError, match="objectives names applause"):
        make_trainer(job.model_copy(update={"objectives": {"applause": Binary()}}))
    with pytest.raises(TrainingError, match="task_weights names applause"):
        make_trainer(job.model_copy(update={"task_weights": {"applause": 1.0}}))


def snapshot(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_stopped_before_the_update(trainer, step: int) -> Stopped:
    taken = {}
    inner = trainer._train_step

    def watched(batch):
        taken["state"] = snapshot(trainer)
        return inner(batch)

    trainer._train_step = watched
    with pytest.raises(Stopped) as caught:
        trainer.run(False)
    assert caught.value.cause.step == step
    assert caught.value.health.numbers["nonfinite"] == 1
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name].nan_to_num(), value.nan_to_num()) for name, value in taken["state"].items())
    return caught.value


def test_an_infinite_feature_stops_before_the_update(job, make_packed, make_trainer) -> None:
    dataset = make_packed("bad", 1000)
    numeric = np.load(dataset / "train" / "numeric.npy")
    numeric[417, 1] = np.inf
    np.save(dataset / "train" / "numeric.npy", numeric)
    trainer = make_trainer(job.model_copy(update={"dataset": dataset}))
    from ctr_pipeline.training.dataloader import epoch_order

    step = int(np.flatnonzero(epoch_order(1000, job.seed, 0) == 417)[0]) // 100
    cause = assert_stopped_before_the_update(trainer, step).cause
    assert (cause.kind, cause.feature, cause.row) == ("input", "rating", 417)


def test_an_infinite_gradient_stops_before_the_update_and_can_be_repeated(job, make_trainer) -> None:
    trainer = make_trainer(job)
    calls = []

    def spoil(gradient):
        calls.append(1)
        # The first call is the rehearsal of the first step.
        return gradient * math.inf if len(calls) == 9 else gradient

    trainer.model.tower[1].linear.weight.register_hook(spoil)
    cause = assert_stopped_before_the_update(trainer, 7).cause
    assert (cause.kind, cause.tensor) == ("gradient", "tower.1.linear.weight")
    bundle = job.output / "failed_step"
    assert json.loads((bundle / "diagnosis.json").read_text()) == cause.to_dict()
    records = lines(bundle / "records.jsonl")
    assert [record["step"] for record in records] == list(range(8))
    # From the bundle alone the step repeats to the last bit.
    [taken] = load_step(bundle / "step.pt").replay()
    assert taken.record.loss == records[-1]["loss"]


def test_a_parameter_that_became_infinite_is_found(job, make_trainer) -> None:
    trainer = make_trainer(job)
    with torch.no_grad():
        trainer.model.get_parameter("embeddings.tables.width_4.table.weight")[60:100] = math.nan
    cause = assert_stopped_before_the_update(trainer, 0).cause
    assert (cause.kind, cause.feature, cause.row) == ("parameter", "query", 0)


def test_fp16_searches_its_scale_but_gives_up_in_the_end(job, make_trainer) -> None:
    trainer = make_trainer(moved(job, "fp16", precision="fp16", epochs=4))
    trainer.model.tower[0].linear.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Stopped) as caught:
        trainer.run(False)
    assert caught.value.health.numbers["scaler_skips"] == 20
    assert caught.value.cause.tensor == "tower.0.linear.weight"


def test_a_stopped_fp16_step_is_replayed_in_fp16(job, make_trainer) -> None:
    trainer = make_trainer(moved(job, "fp16", precision="fp16"))
    with torch.no_grad():
        # Above 65,504, the largest number of fp16, and far below the largest of fp32.
        trainer.model.tower[0].linear.weight.mul_(1e6)
    cause = assert_stopped_before_the_update(trainer, 0).cause
    assert (cause.kind, cause.tensor) == ("activation", "tower.0.linear")


def test_a_stopped_step_is_replayed_with_its_own_dropout(job, make_trainer) -> None:
    dropout = job.model.model_copy(update={"dropout": 0.5, "normalisation": "none"})
    trainer = make_trainer(moved(job, "dropout").model_copy(update={"model": dropout}))
    outputs, states, rows = [], [], []
    trainer.model.tower[1].linear.register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    trainer.model.head.register_forward_hook(lambda *_: states.append(torch.get_rng_state()))
    with torch.no_grad():
        # Infinite in those rows in which dropout keeps units that are large enough.
        trainer.model.tower[1].linear.weight.fill_(7e37)
    inner = trainer._train_step

    def watched(batch):
        rows.append(batch.rows)
        return inner(batch)

    trainer._train_step = watched
    with pytest.raises(Stopped) as caught:
        trainer.run(False)
    cause = caught.value.cause
    infinite = (~torch.isfinite(outputs[0])).any(dim=1)
    assert 0 < int(infinite.sum()) < 20
    first = int(infinite.nonzero()[0, 0])
    assert (cause.kind, cause.tensor, cause.row) == ("activation", "tower.1.linear", int(rows[0][first]))
    # Rehearsed, taken, and replayed.
    assert len(outputs) == 3
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    # The generator goes on from where the step left it.
    assert torch.equal(torch.get_rng_state(), states[0])


def test_smoothed_labels_are_drawn_to_the_rate_of_the_weighted_rows(job, make_trainer) -> None:
    smoothed = moved(job, "smoothed", label_smoothing=0.3)
    train = PackedDataset.open(job.dataset).splits["train"]
    logits = torch.randn((len(train), 2), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = []
    for task in range(2):
        y, weight = train.labels[:, task], train.weights[:, task].astype(np.float64)
        rate = weight[y == 1].sum() / weight[y >= 0].sum()
        target, z = 0.7 * y + 0.3 * rate, logits[:, task].numpy()
        expected.append((weight * (np.log1p(np.exp(z)) - target * z))[y >= 0].sum())
    trainer = make_trainer(smoothed)
    batch = (torch.from_numpy(np.array(train.labels)), torch.from_numpy(np.array(train.weights)).double())
    assert trainer.objectives.task_sums(logits, *batch).tolist() == pytest.approx(expected, rel=1e-9)
    assert trainer.run(False).health.numbers["loss_gradient_error"] < 1e-3
