"""A stopped step repeats from its bundle alone: loss, gradients and what the update writes, to the last bit."""

import json
import math

import pytest
import torch

from ctr_pipeline.gradients.core.diagnosis import Diagnosis
from ctr_pipeline.gradients.triage.failed_step import dump_failed_step
from ctr_pipeline.training import loop
from ctr_pipeline.training.dataloader import epoch_order, gather
from ctr_pipeline.training.job_spec import MlflowTarget, TrainingError
from ctr_pipeline.training.step import StepPosition, take_step, update
from ctr_pipeline.training.step_bundle import load_step, own_part, step_content
from ctr_pipeline.training.stopping import Stopped


def gradients(state) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in state.named if parameter.grad is not None}
    return {name: value.to_dense() if value.is_sparse else value.clone() for name, value in found.items()}


def stop_at(trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Stopped, dict[str, torch.Tensor], object]:
    """Stop a run before the update of ``step``; the gradients and the step as they were."""
    kept = {}

    def watched(state, batch, at, cancelled=False):
        taken = take_step(state, batch, at, cancelled)
        kept.update(gradients=gradients(state), taken=taken)
        return taken

    def stopping(state, taken):
        if taken.record.step < step:
            return update(state, taken)
        state.monitor.stop(taken.record, taken.loss)
        return Diagnosis(kind="loss", tensor="made up", feature=None, row=None, step=step, message="made up")

    monkeypatch.setattr(loop, "take_step", watched)
    monkeypatch.setattr(loop, "update", stopping)
    with pytest.raises(Stopped) as caught:
        trainer.run(False)
    return caught.value, kept["gradients"], kept["taken"]


@pytest.mark.parametrize("changed", [{}, {"precision": "fp16"}, {"label_smoothing": 0.2, "embedding_l2": 0.01}])
def test_loss_and_gradients_repeat(job, make_trainer, monkeypatch: pytest.MonkeyPatch, changed) -> None:
    training = job.training.model_copy(update=changed)
    job = job.model_copy(update={"training": training, "task_weights": {"cart": 3.0}})
    found, expected, taken = stop_at(make_trainer(job), 13, monkeypatch)
    torch.rand(5)
    bundle = load_step(found.bundle / "step.pt")
    [again] = bundle.replay()
    assert again.record.loss == taken.record.loss
    assert again.record.task_losses == taken.record.task_losses
    assert again.record.grad_norm == taken.record.grad_norm
    replayed = gradients(bundle.state)
    assert replayed.keys() == expected.keys()
    assert all(torch.equal(replayed[name], value) for name, value in expected.items())
    assert len((found.bundle / "records.jsonl").read_text().splitlines()) == 14


def test_the_update_repeats_too(job, make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(job)
    found, _, taken = stop_at(trainer, 7, monkeypatch)
    bundle = load_step(found.bundle / "step.pt")
    [again] = bundle.replay()
    for state in (bundle.state, trainer.state):
        state.last_good.always = True
    assert update(bundle.state, again) is None
    assert update(trainer.state, taken) is None
    touched = {change.name: change for change in trainer.state.last_good.updates()}
    for change in bundle.state.last_good.updates():
        assert torch.equal(change.after, touched[change.name].after), change.name


def test_of_a_table_only_the_rows_of_the_batch_are_kept(job, make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job.model_copy(update={"training": job.training.model_copy(update={"batch_size": 16})})
    found, _, taken = stop_at(make_trainer(job), 3, monkeypatch)
    content = torch.load(found.bundle / "step.pt", weights_only=True)
    rows = content["model"]["embeddings.tables.width_4.table.weight"]["rows"].tolist()
    ads, queries = taken.batch.ids[:, 0].tolist(), taken.batch.ids[:, 1].tolist()
    assert rows == sorted({*ads, *(60 + query for query in queries)})
    assert len(content["optimizers"][1]["embeddings.tables.width_4.table.weight"]["accumulated"]["values"]) == len(rows)


def test_neither_paths_nor_addresses_leave_with_it(job, make_trainer) -> None:
    trainer = make_trainer(
        job.model_copy(update={"mlflow": MlflowTarget(tracking_uri="http://u:secret@h", run_id="1")})
    )
    batch = gather(trainer.train, epoch_order(1000, 3, 0)[:100])
    at = StepPosition(step=0, epoch=0, rows=100, rate_factor=1.0)
    part = own_part(take_step(trainer.state, batch, at))
    content = step_content(trainer.job, trainer.plan, trainer.state, at, [part], None, ())
    assert "secret" not in content["job"]
    assert str(job.output.parent) not in json.dumps([content["job"], content["layout"]])


def test_the_parts_of_several_processes_repeat_together(job, make_trainer, tmp_path) -> None:
    trainer, at = make_trainer(job), StepPosition(step=1, epoch=0, rows=100, rate_factor=1.0)
    order = epoch_order(1000, 3, 0)[:100]
    parts = [own_part(take_step(trainer.state, gather(trainer.train, order[rank::2]), at)) for rank in range(2)]
    content = step_content(job, trainer.plan, trainer.state, at, parts, None, ())
    torch.save(content, tmp_path / "step.pt")
    bundle = load_step(tmp_path / "step.pt")
    first, second = bundle.replay()
    assert (len(first.batch.rows), len(second.batch.rows)) == (50, 50)
    # The oracle, without dropout by rank: the mean over the known labels of all rows.
    labels = trainer.train.labels[order]
    assert first.counts.tolist() == (labels >= 0).sum(axis=0).tolist()
    whole = 0.0
    for part, batch in zip(parts, bundle.batches, strict=True):
        torch.set_rng_state(part["random"]["torch"])
        own = trainer.state.forward(batch)
        known = torch.as_tensor(part["batch"]["labels"]) >= 0
        target = part["batch"]["labels"].clamp_min(0).float()
        each = torch.nn.functional.binary_cross_entropy_with_logits(own, target, reduction="none")
        whole += float(((each * part["batch"]["weights"] * known).sum(0) / first.counts).sum())
    assert first.record.loss + second.record.loss == pytest.approx(whole, rel=1e-5)


def test_a_bundle_stays_when_another_step_fails(job, make_trainer, tmp_path) -> None:
    cause = Diagnosis(kind="loss", tensor="t", feature=None, row=None, step=1, message="first")
    folders = [dump_failed_step(tmp_path / "failed_step", cause, {"n": n}, [{"n": n}]) for n in range(3)]
    assert [str(folder.relative_to(tmp_path)) for folder in folders] == [
        "failed_step",
        "failed_step/2",
        "failed_step/3",
    ]
    assert [torch.load(folder / "step.pt")["n"] for folder in folders] == [0, 1, 2]


def test_a_training_that_fails_twice_keeps_both(job, make_trainer) -> None:
    def fail() -> Stopped:
        trainer = make_trainer(job)
        trainer.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
        with pytest.raises(Stopped) as caught:
            trainer.run(False)
        return caught.value

    first, second = fail().bundle, fail().bundle
    assert first != second
    assert first.is_dir()


def test_what_is_no_bundle_is_refused(tmp_path) -> None:
    with pytest.raises(TrainingError, match="is no file"):
        load_step(tmp_path / "step.pt")
    torch.save({"model": {}}, tmp_path / "step.pt")
    with pytest.raises(TrainingError, match="format none"):
        load_step(tmp_path / "step.pt")
