"""Optimizers, steps and states: a healthy training passes, each fault is found, and nothing is changed by looking."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.gradients.contracts.gradient_reset import check_accumulation, check_gradients_reset
from ctr_pipeline.gradients.contracts.kept_state import state_digest
from ctr_pipeline.gradients.contracts.optimizer_coverage import check_optimizer_coverage
from ctr_pipeline.gradients.contracts.overfitting import check_overfits_one_batch
from ctr_pipeline.gradients.contracts.resumption import check_resume
from ctr_pipeline.gradients.contracts.starting_prediction import starting_prediction_outcome
from ctr_pipeline.gradients.contracts.training_mode import check_training_mode
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.gradients.contracts.untouched_rows import check_untouched_rows
from ctr_pipeline.gradients.contracts.weight_movement import check_weights_move
from ctr_pipeline_tests.gradients.contracts.conftest import cross_entropy, forward

MakeSetup = Callable[..., TrainingSetup]
CHECKS = [
    check_optimizer_coverage,
    check_weights_move,
    check_untouched_rows,
    check_gradients_reset,
    check_training_mode,
    check_overfits_one_batch,
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_a_healthy_training_passes_and_is_left_as_it_was(
    make_setup: MakeSetup, model: nn.Sequential, check: Any, optimizer: Any
) -> None:
    own = optimizer(model.parameters(), lr=0.1 if optimizer is not torch.optim.AdamW else 0.01)
    setup = make_setup(optimizers=[own])
    setup.take_step()
    before = state_digest(
        model.state_dict(), own.state_dict(), torch.get_rng_state(), [p.grad for p in model.parameters()]
    )
    outcome = check(setup)
    assert outcome.verdict == "passed", outcome.message
    after = state_digest(
        model.state_dict(), own.state_dict(), torch.get_rng_state(), [p.grad for p in model.parameters()]
    )
    assert after == before


def test_parameters_without_an_optimizer_are_named(make_setup: MakeSetup, model: nn.Sequential) -> None:
    held = [p for name, p in model.named_parameters() if name != "0.weight"]
    setup = make_setup(optimizers=[torch.optim.SGD(held, lr=0.1)])
    outcome = check_optimizer_coverage(setup)
    assert (outcome.failed, outcome.where) == (True, "0.weight")
    moved = check_weights_move(setup)
    assert moved.failed
    assert "no optimizer holds it" in moved.message


def test_an_optimizer_older_than_its_model_is_named(make_setup: MakeSetup, model: nn.Sequential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[5] = nn.Linear(16, 1)
    outcome = check_optimizer_coverage(make_setup(optimizers=[optimizer]))
    assert outcome.failed
    assert "holds 2 tensors that are not in the model, and none holds 5.weight, 5.bias" in outcome.message


def test_a_parameter_in_two_optimizers_is_named(make_setup: MakeSetup, model: nn.Sequential) -> None:
    both = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)]
    outcome = check_optimizer_coverage(make_setup(optimizers=both))
    assert outcome.failed
    assert "held more than once" in outcome.message


def test_frozen_and_detached_towers_are_told_apart(make_setup: MakeSetup, model: nn.Sequential) -> None:
    def detached(own: nn.Module, batch: Any) -> Tensor:
        assert isinstance(own, nn.Sequential)
        logits: Tensor = own[3:](own[:3](batch[0]).detach()).squeeze(1)
        return logits

    outcome = check_weights_move(make_setup(forward=detached))
    assert outcome.failed
    assert "not reached by backward" in outcome.message
    model[2].requires_grad_(False)
    setup = make_setup()
    assert "frozen" in check_weights_move(setup).message
    assert check_optimizer_coverage(setup).where == "2.weight"
    assert check_optimizer_coverage(setup, frozen=["2.*"]).verdict == "passed"
    assert check_weights_move(setup, still=["2.*"]).verdict == "passed"


def test_dead_units_are_named(make_setup: MakeSetup, model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].bias.fill_(-100.0)
    assert "a gradient of 0" in check_weights_move(make_setup()).message


@pytest.mark.parametrize(
    ("optimizer", "fails"),
    [
        (lambda ps: torch.optim.Adam(ps, lr=0.01, weight_decay=0.1), True),
        (lambda ps: torch.optim.AdamW(ps, lr=0.01, weight_decay=0.1), False),
        (lambda ps: torch.optim.SGD(ps, lr=0.01, weight_decay=1.0), True),
    ],
)
def test_a_penalty_that_moves_untouched_rows_is_found(
    make_setup: MakeSetup, model: nn.Sequential, optimizer: Any, fails: bool
) -> None:
    outcome = check_untouched_rows(make_setup(optimizers=[optimizer(model.parameters())]))
    assert outcome.failed is fails
    assert outcome.where in ("0.weight", "")


def test_without_a_table_rows_cannot_be_measured(make_setup: MakeSetup, batch: tuple[Tensor, Tensor]) -> None:
    model = nn.Sequential(nn.Linear(3, 1))
    setup = make_setup(model=model, batch=(batch[0].float(), batch[1]))
    assert check_untouched_rows(setup).verdict == "not_measured"


def own_step(model: nn.Sequential, optimizer: torch.optim.Optimizer, clear: str) -> Callable[[Any], None]:
    def step(batch: Any) -> None:
        if clear == "before":
            optimizer.zero_grad()
        cross_entropy(forward(model, batch), batch).backward()
        optimizer.step()
        if clear == "after":
            optimizer.zero_grad()

    return step


@pytest.mark.parametrize(("clear", "fails"), [("before", False), ("after", False), ("never", True)])
def test_steps_that_add_up_gradients_are_found(
    make_setup: MakeSetup, model: nn.Sequential, clear: str, fails: bool
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    setup = make_setup(optimizers=[optimizer], step=own_step(model, optimizer, clear))
    assert check_gradients_reset(setup).failed is fails


def test_accumulation_divides_by_the_parts(make_setup: MakeSetup, batch: tuple[Tensor, Tensor]) -> None:
    setup = make_setup()
    parts = [(batch[0][n::4], batch[1][n::4]) for n in range(4)]
    assert check_accumulation(setup, parts).verdict == "passed"
    undivided = [setup.loss(setup.forward(setup.model, part), part) for part in parts]
    outcome = check_accumulation(setup, parts, undivided)
    assert outcome.failed
    assert "4 times as large" in outcome.message


def test_modes_are_looked_at_inside_the_step(make_setup: MakeSetup, model: nn.Sequential) -> None:
    def step(batch: Any) -> None:
        model.eval()
        forward(model, batch)

    outcome = check_training_mode(make_setup(step=step))
    assert outcome.failed
    assert model.training


def test_randomness_in_evaluation_is_found(make_setup: MakeSetup) -> None:
    setup = make_setup(forward=lambda model, batch: nn.functional.dropout(forward(model, batch), 0.5, training=True))
    assert "draws random numbers" in check_training_mode(setup).message


@pytest.mark.parametrize("rate", [0.0, -0.05])
def test_a_model_that_does_not_learn_is_found(make_setup: MakeSetup, model: nn.Sequential, rate: float) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=abs(rate), maximize=rate < 0)
    assert check_overfits_one_batch(make_setup(optimizers=[optimizer])).failed


class Run:
    """A training with dropout, an adaptive optimizer and a schedule."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        self.model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(torch.randn(4, 3)).square().mean().backward()
            self.optimizer.step()
            self.schedule.step()

    def save(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        return {name: part.state_dict() for name, part in parts.items()} | {"random": torch.get_rng_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        for name in ("model", "optimizer", "schedule"):
            if name in saved:
                getattr(self, name).load_state_dict(saved[name])
        if "random" in saved:
            torch.set_rng_state(saved["random"])


@pytest.mark.parametrize("left_out", ["nothing", "optimizer", "schedule", "random"])
def test_a_checkpoint_that_leaves_something_out_is_found(left_out: str) -> None:
    outcome = check_resume(
        build=Run,
        train=lambda run, steps: run.train(steps),
        save=lambda run: {name: value for name, value in run.save().items() if name != left_out},
        restore=lambda run, saved: run.restore(saved),
        state=lambda run: run.model.state_dict(),
    )
    assert outcome.failed is (left_out != "nothing"), outcome.message


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.full((8, 1), -3.0), "predicts the base rates"),
        (torch.zeros(8, 1), "shifted"),
        (torch.linspace(-9, 3, 8).unsqueeze(1), "scattered"),
        (torch.full((8, 1), float("nan")), "around its base rate"),
    ],
)
def test_the_untrained_prediction(logits: Tensor, message: str) -> None:
    outcome = starting_prediction_outcome(logits, [0.0474], ["click"])
    assert message in outcome.message
    assert outcome.failed is (message != "predicts the base rates")


def test_a_task_without_both_classes_has_no_starting_prediction() -> None:
    assert starting_prediction_outcome(torch.zeros(8, 1), [0.0], ["click"]).verdict == "not_measured"
