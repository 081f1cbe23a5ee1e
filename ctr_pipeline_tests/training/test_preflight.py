"""Contracts in the first steps of real trainings: faults stop them at once, healthy variants pass, nothing is changed."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from ctr_pipeline.gradients.adapters.ranker_contracts import BrokenContract
from ctr_pipeline.gradients.contracts.kept_state import state_digest
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.spec.losses import Focal
from ctr_pipeline.spec.objectives import Binary
from ctr_pipeline.training import step as steps
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.stopping import Cancelled, Stopped


def first_steps(trainer: Trainer) -> BrokenContract | None:
    """Runs the steps in which contracts are checked; the one that is broken."""
    asked = iter(range(100))
    trainer._cancelled = lambda: next(asked) >= 5
    try:
        trainer.run(False)
    except Cancelled:
        return None
    except Stopped as stopped:
        cause = stopped.cause
    assert isinstance(cause, BrokenContract), cause
    return cause


def variant(job: Any, model: dict[str, Any] | None = None, **training: Any) -> Any:
    return job.model_copy(
        update={
            "training": job.training.model_copy(update={"epochs": 30} | training),
            "model": job.model.model_copy(update=model or {}),
        }
    )


@pytest.mark.parametrize(
    ("training", "model"),
    [
        ({}, {}),
        ({"batch_size": 16}, {}),
        ({"batch_size": 1}, {}),
        ({"batch_size": 8192}, {}),
        ({"precision": "bf16"}, {}),
        ({"precision": "fp16"}, {}),
        ({"label_smoothing": 0.2}, {}),
        ({"clip_norm": 0.01}, {}),
        ({"learning_rate": 0.3, "weight_decay": 0.1, "embedding_l2": 0.1}, {}),
        ({}, {"hidden": [], "wide": True}),
        ({}, {"normalisation": "none", "heads": "independent"}),
    ],
)
def test_healthy_variants_pass(job, make_trainer: Callable[..., Trainer], training, model) -> None:
    own = variant(job, model, **training)
    trainer = make_trainer(own)
    assert first_steps(trainer) is None
    outcomes = json.loads((job.output / "contracts.json").read_text())
    assert len(outcomes) > (8 if training.get("batch_size") == 1 else 15)
    assert not [outcome for outcome in outcomes if outcome["verdict"] == "failed" and outcome["hard"]]


def test_other_losses_pass(job, make_trainer: Callable[..., Trainer]) -> None:
    focal = variant(job).model_copy(update={"objectives": {"click": Binary(loss=Focal(gamma=1.5, alpha=0.3))}})
    assert first_steps(make_trainer(focal)) is None


def test_the_state_is_left_as_it_was(job, make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(job)
    digests = []

    def digest() -> str:
        states = [trainer.model.state_dict(), [optimizer.state_dict() for optimizer in trainer.optimizers]]
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        modes = [module.training for module in trainer.model.modules()]
        return state_digest(*states, gradients, modes, torch.get_rng_state(), trainer.precision.state_dict())

    preflight = trainer._new_preflight()
    trainer._preflight = preflight
    for name in ("before", "after"):
        inner = getattr(preflight, name)

        def looked(*arguments: Any, inner: Any = inner) -> Any:
            digests.append(digest())
            found = inner(*arguments)
            digests.append(digest())
            return found

        setattr(preflight, name, looked)
    assert first_steps(trainer) is None
    assert digests[::2] == digests[1::2]
    assert len(set(digests)) > 4


def no_optimizer_for_tables(trainer: Trainer) -> None:
    trainer.optimizers.pop()
    trainer.state.peaks.pop()


def stale_optimizer(trainer: Trainer) -> None:
    trainer.model.head = nn.Linear(trainer.model.head.in_features, 2)
    trainer.state.named[:] = list(trainer.model.named_parameters())


def frozen(trainer: Trainer) -> None:
    trainer.model.tower.requires_grad_(False)


def detached(trainer: Trainer) -> None:
    inner = trainer.model.hidden
    trainer.model.hidden = lambda inputs: inner(inputs).detach()


def evaluation_mode(trainer: Trainer) -> None:
    trainer.model.eval()
    trainer.model.train = lambda _=True: trainer.model


def large_embedding(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.embeddings.tables["width_4"].table.weight.normal_(0, 5)


def large_head(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.head.weight.mul_(100)


def no_base_rate(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.head.bias.fill_(3.0)


def wrong_offsets(trainer: Trainer) -> None:
    trainer.model.embeddings.tables["width_4"].offsets.zero_()


def mixed_samples(trainer: Trainer) -> None:
    inner = trainer.model.hidden
    trainer.model.hidden = lambda inputs: (lambda hidden: hidden - hidden.mean(dim=0))(inner(inputs))


def changed_gradient(trainer: Trainer) -> None:
    inner = trainer.precision.step

    def step(optimizers: Any) -> None:
        for _, parameter in trainer.state.named:
            if parameter.grad is not None and not parameter.grad.is_sparse:
                nn.utils.clip_grad_norm_([parameter], 1e-3)
        inner(optimizers)

    trainer.precision.step = step


def kept_gradients(trainer: Trainer) -> None:
    trainer.optimizers[0].zero_grad = lambda **_: None


def moved_untouched_rows(trainer: Trainer) -> None:
    table = trainer.model.embeddings.tables["width_4"].table.weight
    inner = trainer.optimizers[-1]._update

    def update(own: Any, learning_rate: float, l2: float) -> None:
        inner(own, learning_rate, l2)
        if own is table:
            own[:] -= learning_rate * torch.sign(own)

    trainer.optimizers[-1]._update = update


@pytest.mark.parametrize(
    ("fault", "contract", "step"),
    [
        (no_optimizer_for_tables, "optimizer_coverage", 0),
        (stale_optimizer, "optimizer_coverage", 0),
        (frozen, "optimizer_coverage", 0),
        (detached, "weights_move", 2),
        (evaluation_mode, "training_mode", 0),
        (large_embedding, "table_scale", 0),
        (large_head, "starting_prediction", 0),
        (no_base_rate, "starting_prediction", 0),
        (wrong_offsets, "own_rows", 0),
        (mixed_samples, "cross_sample", 0),
        (changed_gradient, "first_gradient", 0),
        (kept_gradients, "gradients_reset", 1),
        (moved_untouched_rows, "untouched_rows", 0),
    ],
)
def test_faults_of_the_training_stop_it(job, make_trainer: Callable[..., Trainer], fault, contract, step) -> None:
    trainer = make_trainer(variant(job))
    fault(trainer)
    broken = first_steps(trainer)
    assert broken is not None
    assert (broken.kind, broken.contract, broken.step) == ("contract", contract, step), broken.message
    assert broken.to_dict()["message"].startswith(f"step {step}: contract {contract}: ")
    assert json.loads((job.output / "contracts.json").read_text())


FAULTY_LOSSES: dict[str, Any] = {
    "summed": lambda inner: lambda z, y, w: inner(z, y, w) * len(z),
    "reversed": lambda inner: lambda z, y, w: -inner(z, y, w),
    "two sigmoids": lambda inner: lambda z, y, w: inner(torch.sigmoid(z), y, w),
    "weighted twice": lambda inner: lambda z, y, w: inner(z, y, w * w),
    "unknown counts as 0": lambda inner: lambda z, y, w: inner(z, y.clamp_min(0), w),
    "opposite labels": lambda inner: lambda z, y, w: inner(z, torch.where(y < 0, y, 1 - y), w),
}


@pytest.mark.parametrize("fault", FAULTY_LOSSES)
def test_faults_of_the_loss_stop_it(job, make_trainer, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    made = FAULTY_LOSSES[fault](WeightedBinaryCrossEntropy().task_sums)
    monkeypatch.setattr(WeightedBinaryCrossEntropy, "task_sums", lambda _, z, y, w: made(z, y, w))
    broken = first_steps(make_trainer(variant(job)))
    assert broken is not None
    assert broken.contract == "loss_oracle", broken.message


def test_a_factor_inside_the_step_is_found_after_it(job, make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = steps.multi_task_loss
    monkeypatch.setattr(steps, "multi_task_loss", lambda sums, counts, weights: inner(4 * sums, counts, weights))
    trainer = make_trainer(variant(job))
    # The check of the gradient at the logits would find it before.
    trainer.monitor._detectors.clear()
    broken = first_steps(trainer)
    assert broken is not None
    assert (broken.contract, broken.step) == ("first_loss", 0)


def test_data_faults_are_found(job, make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(variant(job))
    numeric = trainer.train.numeric.copy()
    numeric[:, 1] = trainer.train.labels[:, 0]
    trainer.train = replace(trainer.train, numeric=numeric)
    broken = first_steps(trainer)
    assert broken is not None
    assert (broken.contract, broken.feature) == ("single_feature", "rating")
    assert broken.measured == 1.0


def test_a_continued_run_need_not_start_from_the_base_rate(job, make_trainer: Callable[..., Trainer]) -> None:
    again = make_trainer(job, stop_after=5)
    with pytest.raises(Cancelled):
        again.run(False)
    assert make_trainer(job).run(True).steps == 20
    names = {outcome["name"] for outcome in json.loads((job.output / "contracts.json").read_text())}
    assert "weights_move" in names
    assert "starting_prediction" not in names


def test_a_part_that_ignores_the_mode_is_found(job, make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(variant(job))
    trainer.model.tower.register_forward_hook(lambda _, __, hidden: nn.functional.dropout(hidden, 0.2, training=True))
    broken = first_steps(trainer)
    assert broken is not None
    assert broken.contract == "evaluation_mode"
