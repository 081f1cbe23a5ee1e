"""Each balance of the tasks in training: its weights are recorded, are those of the loss, and resume to the last bit."""

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ctr_pipeline.spec.balancing import BALANCES, AnyBalance, GradientBalance
from ctr_pipeline.spec.training import Training
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.step_bundle import load_step
from ctr_pipeline.training.stopping import Cancelled, Stopped

INSTALLED = all(importlib.util.find_spec(name) for name in ("torchjd", "quadprog"))
KINDS: dict[str, dict[str, Any]] = {
    "normalised": {"kind": "static", "normalise": True},
    "uncertainty": {"kind": "uncertainty", "rate": 0.1},
    "dwa": {"kind": "dwa", "window": 3},
    "pcgrad": {"kind": "gradient", "aggregator": "pcgrad"},
    "upgrad": {"kind": "gradient", "aggregator": "upgrad"},
}


def balanced(job: TrainingJob, kind: str, tmp_path: Path) -> TrainingJob:
    if KINDS[kind]["kind"] == "gradient" and not INSTALLED:
        pytest.skip("needs torchjd and quadprog")
    training = Training.model_validate({**job.training.model_dump(), "balance": KINDS[kind]})
    changed = job.model_copy(update={"training": training, "task_weights": {"cart": 0.5}, "output": tmp_path / kind})
    changed.save(tmp_path / "job.json")
    return TrainingJob.load(tmp_path / "job.json")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", list(KINDS))
def test_weights_are_recorded_and_are_those_of_the_loss(job, make_trainer, tmp_path: Path, kind: str) -> None:
    own = balanced(job, kind, tmp_path)
    result = make_trainer(own).run(False)
    # The loss's gradient at the logits is compared with its formula under the weights of that step.
    assert result.health.numbers["loss_gradient_error"] < 1e-3
    steps = lines(own.output / "steps.jsonl")
    if kind == "normalised":
        assert not any(key.startswith("weight_") for step in steps for key in step)
        return
    for step in steps:
        total = sum(step[f"weight_{task}"] * step[f"loss_{task}"] for task in ("click", "cart"))
        assert step["loss"] == pytest.approx(total, rel=1e-5)
    assert len({step["weight_cart"] for step in steps}) > 1 or kind in ("pcgrad", "upgrad")


@pytest.mark.parametrize("kind", list(KINDS))
def test_it_resumes_exactly(job, make_trainer, tmp_path: Path, kind: str) -> None:
    own = balanced(job, kind, tmp_path)
    whole = make_trainer(own).run(False)
    again = own.model_copy(update={"output": tmp_path / "again"})
    with pytest.raises(Cancelled):
        make_trainer(again, stop_after=8).run(False)
    assert make_trainer(again).run(True).model_sha256 == whole.model_sha256
    assert lines(again.output / "steps.jsonl") == lines(own.output / "steps.jsonl")


def test_gradients_of_16_bits_are_compared_at_the_scale_of_the_loss(job, make_trainer) -> None:
    training = Training.model_validate({**job.training.model_dump(), "precision": "fp16"})
    seen: list[list[float]] = []
    recorder = SimpleNamespace(reads_gradients=True, from_gradients=lambda losses, _: seen.append(losses.tolist()))
    trainer = make_trainer(job.model_copy(update={"training": training}))
    state = replace(trainer.state, balance=recorder)
    state.weigh(torch.tensor([6.0, 2.0], requires_grad=True), torch.tensor([3, 0]))
    factor = state.precision.factor
    assert factor > 1
    assert seen == [[2 * factor, 2 * factor]]


@pytest.mark.parametrize("kind", ["uncertainty", "pcgrad"])
def test_a_failed_step_is_repeated_with_its_weights(job, make_trainer, tmp_path: Path, kind: str) -> None:
    own = balanced(job, kind, tmp_path)
    trainer = make_trainer(own)

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf if trainer.step == 7 else gradient

    trainer.model.tower[1].linear.weight.register_hook(spoil)
    with pytest.raises(Stopped):
        trainer.run(False)
    (step,) = own.output.rglob("step.pt")
    stopped = lines(own.output / "steps.jsonl")
    found = load_step(step)
    weights = trainer.state.loss_weights
    (taken,) = found.replay()
    torch.testing.assert_close(found.state.loss_weights, weights, rtol=0, atol=0)
    assert taken.record.step == 7 == len(stopped)


def test_gradients_are_compared_on_what_the_tasks_share(job, make_trainer, tmp_path: Path) -> None:
    own = balanced(job, "pcgrad", tmp_path)
    trainer = make_trainer(own)
    trainer._train_epoch(None)
    assert trainer.state.shared
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in trainer.state.shared} == {"tower"}


def test_a_library_that_is_not_installed_is_named(job, make_trainer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchjd", None)
    training = Training.model_validate({**job.training.model_dump(), "balance": "gradient"})
    with pytest.raises(Exception, match=r"needs the library torchjd: pip install 'ctr-pipeline\[balance\]'"):
        make_trainer(job.model_copy(update={"training": training}))


def test_a_spec_without_it_is_what_it_was() -> None:
    assert "balance" not in Training().model_dump()
    assert isinstance(BALANCES.validate("gradient", _NO_CONTEXT), GradientBalance)  # type: ignore[arg-type]
    assert AnyBalance is not None


class _NoContext:
    context = None


_NO_CONTEXT = _NoContext()
