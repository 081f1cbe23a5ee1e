"""A training that is wrong is stopped where it goes wrong, and says why."""

import json
import math

import pytest
import torch

from ctr_pipeline.losses.multi_task import TaskObjectives
from ctr_pipeline.training import step as steps
from ctr_pipeline.training.execution import STOPPED, ProcessContext, execute
from ctr_pipeline.training.stopping import Stopped


def with_training(job, **changed):
    return job.model_copy(update={"training": job.training.model_copy(update=changed)})


def stopped(trainer) -> Stopped:
    with pytest.raises(Stopped) as caught:
        trainer.run(False)
    return caught.value


def parameters(trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for _, parameter in trainer.state.named]


def test_a_summed_loss_is_refused_at_its_first_step_and_nothing_was_learnt(
    job, make_trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = steps.multi_task_loss

    def summed(sums, counts, loss_weights):
        return (sums * loss_weights).sum(), inner(sums, counts, loss_weights)[1]

    monkeypatch.setattr(steps, "multi_task_loss", summed)
    trainer = make_trainer(job)
    before = parameters(trainer)
    found = stopped(trainer)
    assert (found.cause.kind, found.cause.step, found.cause.leading) == ("health", 0, "loss_gradient")
    assert "the loss is summed and not averaged" in found.cause.message
    assert found.health.numbers["loss_fault"] == "sum_reduction"
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainer), before, strict=True))
    assert not (job.output / "model.pt").exists()


def test_a_formula_without_a_number_stops_the_training(job, make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_number(*given):
        return torch.full_like(given[1], math.nan)

    monkeypatch.setattr(TaskObjectives, "logit_gradient", no_number)
    assert stopped(make_trainer(job)).cause.leading == "loss_gradient"


def test_a_huge_learning_rate_is_named_and_not_an_innocent_row(job, make_trainer) -> None:
    trainer = make_trainer(with_training(job, learning_rate=1000.0))
    before = parameters(trainer)
    found = stopped(trainer)
    assert (found.cause.kind, found.cause.step, found.cause.leading) == ("health", 0, "update_ratio")
    assert found.cause.feature is None
    assert found.health.strongest[0].name == "update_ratio"
    assert found.health.finding("update_ratio").value > 1e3
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainer), before, strict=True))
    assert json.loads((job.output / "failed_step" / "diagnosis.json").read_text())["leading"] == "update_ratio"


def test_a_training_that_diverged_is_refused_for_that(job, make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr_pipeline.training.loop.validate", lambda *_: ([30.0, 20.0], [48.0, 40.0]))
    found = stopped(make_trainer(job))
    assert (found.cause.kind, found.cause.tensor) == ("divergence", "click")
    assert "44 times that of the best constant" in found.cause.message
    assert not (job.output / "scores").exists()


def test_a_validation_without_a_number_is_no_best_one(job, make_trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([math.nan, 0.9])
    monkeypatch.setattr("ctr_pipeline.training.loop.validate", lambda *_: ([1.0, 1.0], [next(said), None]))
    assert make_trainer(job).run(False).best_epoch == 1


def test_a_real_divergence_names_what_led_to_it(job, make_trainer) -> None:
    # Updates of a few times the weights: nothing is infinite, and no single step is beyond the limit of a stop.
    trainer = make_trainer(with_training(job, learning_rate=0.6, embedding_learning_rate=5.0, clip_norm=1e30))
    found = stopped(trainer)
    assert found.cause.leading == "update_ratio", found.cause


def test_the_findings_of_a_stop_are_in_the_result(job) -> None:
    process = ProcessContext(
        rank=0, local_rank=0, world=1, under_pipes=False, clock=lambda: 0.0, milliseconds=lambda: 0,
        cancelled=lambda: False,
    )  # fmt: skip
    result = {"status": "running", "warnings": []}
    try:
        assert execute(with_training(job, learning_rate=1000.0), False, process, result) == STOPPED
    finally:
        torch.use_deterministic_algorithms(False)
    assert result["strongest"][0] == "update_ratio"
    found = {finding["name"]: finding for finding in result["findings"]}["update_ratio"]
    assert (found["step"], found["limit"], found["severity"]) == (0, 0.5, "error")
    assert found["value"] > 1e3
    assert found["tensor"]
