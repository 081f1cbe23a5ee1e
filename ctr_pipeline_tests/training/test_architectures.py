"""Each architecture of the heads in training: it learns, resumes to the last bit, and a fault inside is placed there."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ctr_pipeline.spec.model import Model
from ctr_pipeline.training.job_spec import TrainingJob
from ctr_pipeline.training.stopping import Cancelled, Stopped
from ctr_pipeline.training.triage_survey import static_clues

HEADS = {
    "shared_bottom": {"kind": "shared_bottom", "gate_on": "parent", "stop_gradient": ["cart"]},
    "task_towers": {"kind": "task_towers", "tower": [6]},
    "mmoe": {"kind": "mmoe", "experts": 2, "expert": [6], "tower": [5]},
    "ple": {"kind": "ple", "levels": 2, "expert": [6], "gate_on": "parent"},
    "aitm": {"kind": "aitm", "tower": [6]},
}


@pytest.fixture(params=list(HEADS))
def with_heads(request: pytest.FixtureRequest, job: TrainingJob, tmp_path: Path) -> TrainingJob:
    """The job with one architecture, read from its file as the trainer's process does."""
    model = Model.model_validate({**job.model.model_dump(), "multi_task": HEADS[request.param]})
    job.model_copy(update={"model": model}).save(tmp_path / "job.json")
    return TrainingJob.load(tmp_path / "job.json")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_learns_by_the_losses_formula_and_resumes_exactly(with_heads, make_trainer, tmp_path: Path) -> None:
    trainer = make_trainer(with_heads)
    start = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    result = trainer.run(False)
    still = [name for name, value in trainer.model.named_parameters() if torch.equal(value, start[name])]
    assert not [name for name in still if not name.startswith("position")]
    assert result.health.numbers["loss_gradient_error"] < 1e-3
    steps = lines(with_heads.output / "steps.jsonl")
    assert sum(step["loss"] for step in steps[-5:]) < sum(step["loss"] for step in steps[:5])

    again = with_heads.model_copy(update={"output": tmp_path / "again"})
    with pytest.raises(Cancelled):
        make_trainer(again, stop_after=8).run(False)
    assert make_trainer(again).run(True).model_sha256 == result.model_sha256
    assert lines(again.output / "steps.jsonl") == steps


def test_an_untrained_model_has_nothing_that_triage_would_blame(with_heads, make_trainer) -> None:
    """Gates start at zeros: that is no mistake."""
    trainer = make_trainer(with_heads)
    assert [clue for clue in static_clues(trainer) if clue.weight > 0.5] == []


def test_it_trains_in_16_bits(with_heads, make_trainer) -> None:
    training = with_heads.training.model_copy(update={"precision": "bf16", "epochs": 1})
    result = make_trainer(with_heads.model_copy(update={"training": training})).run(False)
    assert result.health.numbers["loss_gradient_error"] < 1e-3


def test_a_value_that_is_not_finite_is_placed_inside(with_heads, make_trainer) -> None:
    trainer = make_trainer(with_heads)
    inside = [name for name, _ in trainer.model.named_parameters() if name.startswith("multi_task")]
    with torch.no_grad():
        trainer.model.get_parameter(inside[-1]).fill_(float("nan"))
    with pytest.raises(Stopped) as stopped:
        trainer.run(False)
    assert stopped.value.cause.tensor == inside[-1]


def test_a_layer_that_overflows_is_placed_inside(with_heads, make_trainer) -> None:
    trainer = make_trainer(with_heads)
    linear = next(
        m for name, m in trainer.model.named_modules() if name.startswith("multi_task") and isinstance(m, nn.Linear)
    )
    path = next(name for name, module in trainer.model.named_modules() if module is linear)
    linear.register_forward_hook(lambda *call: call[2] * float("inf"))
    with pytest.raises(Stopped) as stopped:
        trainer.run(False)
    assert stopped.value.cause.tensor == path
