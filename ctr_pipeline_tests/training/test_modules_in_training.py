"""What must hold for each registered interaction in a training: exact resume, loss gradient, faults found inside it."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients import Diagnosis
from ctr_pipeline.spec.interactions import InteractionSection
from ctr_pipeline.training.dataloader import epoch_order, gather
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.step import StepPosition, take_step, update
from ctr_pipeline.training.stopping import Cancelled
from ctr_pipeline_tests.every_module import KINDS, model_of

every_kind = pytest.mark.parametrize("section", KINDS.values(), ids=list(KINDS))


@pytest.fixture
def make_job(job: TrainingJob, layout, tmp_path: Path):
    """A job with an interaction, on embeddings of one width."""
    packed = tmp_path / "packed"
    shutil.copytree(job.dataset, packed)
    equal = replace(layout, ids=tuple(replace(column, dim=4) for column in layout.ids))
    (packed / "layout.json").write_text(equal.to_json())

    def make(section: InteractionSection, output: str = "out", *, detail_every: int = 4) -> TrainingJob:
        # At a tenth of the fixture's learning rate: a module is taught as a person would teach it.
        training = job.training.model_copy(update={"detail_every": detail_every, "learning_rate": 0.003})
        model = model_of(section, dropout=0.2, embedding_dropout=0.1)
        changed = {"dataset": packed, "model": model, "training": training, "output": tmp_path / output}
        return job.model_copy(update=changed)

    return make


@every_kind
def test_interrupted_and_resumed_equals_uninterrupted(section: InteractionSection, make_job, make_trainer) -> None:
    expected = make_trainer(make_job(section, "whole")).run(False)
    parts = make_job(section, "parts")
    with pytest.raises(Cancelled):
        make_trainer(parts, stop_after=14).run(False)
    torch.rand(17)
    resumed = make_trainer(parts).run(True)
    assert (resumed.best_epoch, resumed.model_sha256) == (expected.best_epoch, expected.model_sha256)
    for name in ("model.pt", "steps.jsonl", "scores/test.npy"):
        assert (parts.output / name).read_bytes() == (parts.output.with_name("whole") / name).read_bytes(), name
    # The gradient at the logits is that of the formula in every measured step.
    assert expected.health.numbers["loss_gradient_error"] < 1e-3
    assert expected.health.numbers["nonfinite"] == 0


def stopped_by(trainer: Trainer, spoil) -> Diagnosis:
    """Why the second step stops, which ``spoil`` broke."""
    order = epoch_order(len(trainer.train), trainer.job.seed, 0)
    at = [StepPosition(step=step, epoch=0, rows=100, rate_factor=1.0) for step in range(2)]
    assert update(trainer.state, take_step(trainer.state, gather(trainer.train, order[:100]), at[0])) is None
    spoil()
    cause = update(trainer.state, take_step(trainer.state, gather(trainer.train, order[100:200]), at[1]))
    assert cause is not None, "nothing was found"
    return cause


def places(trainer: Trainer) -> tuple[str, nn.Module]:
    ((name, module),) = trainer.model.interactions.items()
    return f"interactions.{name}", module


def one_row_missing(*call) -> Tensor:
    spoilt = torch.zeros_like(call[2])
    spoilt[5] = math.nan
    return call[2] + spoilt


def one_missing(gradient: Tensor) -> Tensor:
    spoilt = gradient.clone()
    spoilt.view(-1)[-1] = math.nan
    return spoilt


@every_kind
def test_a_fault_inside_a_module_is_placed_there(section: InteractionSection, make_job, make_trainer) -> None:
    def trainer() -> Trainer:
        return make_trainer(make_job(section, detail_every=1))

    # An output that is no number, of the module itself and of each part of it.
    _, module = places(trainer())
    within = [name for name, part in module.named_modules() if name and not list(part.children())]
    used = [name for name in within if not isinstance(module.get_submodule(name), nn.Identity | nn.ModuleList)]
    for part in ["", *used[:1], *used[len(used) // 2 : len(used) // 2 + 1], *used[-1:]]:
        own = trainer()
        name, module = places(own)
        found = stopped_by(
            own, lambda module=module, part=part: module.get_submodule(part).register_forward_hook(one_row_missing)
        )
        assert (found.kind, found.tensor) == ("activation", f"{name}.{part}".rstrip(".")), found

    for parameter, _ in [*module.named_parameters()][::3]:
        own = trainer()
        name, module = places(own)
        weight = module.get_parameter(parameter)

        def spoil(weight: nn.Parameter = weight) -> None:
            with torch.no_grad():
                weight.view(-1)[-1] = math.nan

        found = stopped_by(own, spoil)
        assert (found.kind, found.tensor) == ("parameter", f"{name}.{parameter}"), found

    for parameter, _ in [*module.named_parameters()][1::4]:
        own = trainer()
        name, module = places(own)
        weight = module.get_parameter(parameter)
        found = stopped_by(own, lambda weight=weight: weight.register_hook(one_missing))
        assert (found.kind, found.tensor) == ("gradient", f"{name}.{parameter}"), found
