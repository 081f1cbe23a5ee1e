"""Settings of optimizers under which they can learn: averages, epsilon, decay."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ctr_pipeline.gradients.contracts.first_steps import FirstSteps
from ctr_pipeline.gradients.contracts.optimizer_settings import (
    check_optimizer_settings,
    decay_outcome,
    epsilon_outcome,
    settings_outcome,
)
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup
from ctr_pipeline.training.optimizers import RowwiseAdagrad

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def stepped(make: Make, steps: int = 1) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model after some steps, with the gradients of the last one."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = make(list(model.parameters()))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(64, 6)).sub(1).square().mean().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam])
@pytest.mark.parametrize(
    ("betas", "failed"),
    [((0.9, 0.999), False), ((0.95, 0.98), False), ((0.0, 0.99), False), ((0.999, 0.9), True), ((0.99, 0.95), True)],
)
def test_betas_that_are_exchanged_are_found(kind: type, betas: tuple[float, float], failed: bool) -> None:
    _, optimizer = stepped(lambda p: kind(p, lr=0.01, betas=betas))
    found = settings_outcome([optimizer])
    assert (found.failed and found.hard) == failed


def test_a_long_momentum_is_a_warning() -> None:
    model, optimizer = stepped(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.99))
    found = check_optimizer_settings(
        TrainingSetup(
            model=model,
            batch=None,
            forward=lambda *_: torch.zeros(1),
            loss=lambda *_: torch.zeros(1),
            optimizers=[optimizer],
        )
    )
    assert (found.failed, found.hard, found.where) == (True, False, "SGD")
    assert settings_outcome([stepped(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))[1]]).verdict == "passed"


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda p: torch.optim.AdamW(p, lr=0.01), "passed"),
        (lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3), "passed"),
        (lambda p: torch.optim.AdamW(p, lr=0.01, eps=100.0), "failed"),
        (lambda p: torch.optim.RMSprop(p, lr=0.01), "passed"),
        (lambda p: torch.optim.RMSprop(p, lr=0.01, eps=100.0), "failed"),
        (lambda p: torch.optim.Adagrad(p, lr=0.01), "passed"),
        (lambda p: torch.optim.SGD(p, lr=0.01), "not_measured"),
        (lambda p: torch.optim.Adafactor(p, lr=0.01), "not_measured"),
    ],
)
def test_an_epsilon_is_small_beside_the_gradients(make: Make, verdict: str) -> None:
    assert epsilon_outcome([stepped(make, 3)[1]]).verdict == verdict


@pytest.mark.parametrize(
    ("make", "failed"),
    [
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), False),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=30.0), True),
        (lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=1e-3), False),
        (lambda p: torch.optim.SGD(p, lr=1e-5, weight_decay=100.0), True),
        (lambda p: torch.optim.Adam(p, lr=0.01), False),
    ],
)
def test_a_decay_that_is_stronger_than_the_loss_is_found(make: Make, failed: bool) -> None:
    model, optimizer = stepped(make)
    found = decay_outcome([optimizer], model.named_parameters())
    assert found.failed == failed
    assert not failed or found.where in {"0.weight", "2.weight"}


@pytest.mark.parametrize(("penalty", "failed"), [(1e-4, False), (10.0, True)])
def test_a_penalty_of_rows_is_compared_with_their_gradient(penalty: float, failed: bool) -> None:
    torch.manual_seed(1)
    table = nn.Embedding(50, 4, sparse=True)
    optimizer = RowwiseAdagrad([table.weight], 0.1, penalty)
    table(torch.tensor([1, 2, 2, 3])).mean().backward()
    assert decay_outcome([optimizer], table.named_parameters()).failed == failed


def test_it_is_judged_before_the_first_update() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=50.0)
    watch = FirstSteps(model, [optimizer], model[0])
    model(torch.randn(32, 6)).square().mean().backward()
    optimizer.step()
    broken = watch.broken()
    assert broken is not None
    assert (broken.name, broken.hard) == ("decay_strength", True)
