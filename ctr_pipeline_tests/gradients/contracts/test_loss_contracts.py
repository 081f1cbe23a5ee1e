"""Contracts of losses find each fault of a loss, and none in healthy ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ctr_pipeline.gradients.contracts.loss_values import check_empty_mask, check_logit_gradient, check_loss_range
from ctr_pipeline.gradients.contracts.training_setup import TrainingSetup

MakeSetup = Callable[..., TrainingSetup]


def bce(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, **options)


def weights_of(batch: tuple[Tensor, Tensor]) -> Tensor:
    return torch.linspace(0.5, 5.0, len(batch[1]))


def weighted(logits: Tensor, batch: tuple[Tensor, Tensor], power: float) -> Tensor:
    return (bce(logits, batch[1], reduction="none") * weights_of(batch) ** power).mean()


def logarithms(logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    p, y = torch.sigmoid(logits), batch[1]
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()


def test_a_healthy_loss_passes_all(make_setup: MakeSetup) -> None:
    setup = make_setup()
    assert check_logit_gradient(setup).verdict == "passed"
    assert check_loss_range(setup).verdict == "passed"
    assert check_empty_mask(setup).verdict == "passed"


def test_weights_belong_to_the_formula(make_setup: MakeSetup) -> None:
    setup = make_setup(loss=lambda z, b: weighted(z, b, 1.0), weights=weights_of)
    assert check_logit_gradient(setup).verdict == "passed"


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z, b: bce(z, b[1], reduction="sum"), "sum_reduction"),
        (lambda z, b: -bce(z, b[1]), "sign_flip"),
        (lambda z, b: bce(z, b[1]) / len(z), "divided_twice"),
        (lambda z, b: 4 * bce(z, b[1]), "accumulation: r = 4"),
        (lambda z, b: bce(torch.sigmoid(z), b[1]), "double_sigmoid"),
        (lambda z, b: (torch.sigmoid(z) - b[1]).square().mean(), "squared_error"),
        (lambda z, b: bce(z, 1 - b[1]), "labels_exchanged: 100.0%"),
        (lambda z, b: bce(z.detach(), b[1]) + 0 * z.sum(), "detached"),
        (lambda z, b: bce(z, b[1].roll(1)), "labels_exchanged"),
    ],
)
def test_faults_of_the_loss_are_named(make_setup: MakeSetup, loss: Any, message: str) -> None:
    outcome = check_logit_gradient(make_setup(loss=loss))
    assert outcome.failed
    assert message in outcome.message


@pytest.mark.parametrize(("power", "message"), [(2.0, "weights_twice"), (0.0, "weights_missing")])
def test_faults_of_the_weights_are_named(make_setup: MakeSetup, power: float, message: str) -> None:
    outcome = check_logit_gradient(make_setup(loss=lambda z, b: weighted(z, b, power), weights=weights_of))
    assert outcome.failed
    assert message in outcome.message


def test_a_gradient_that_is_no_number_is_named(make_setup: MakeSetup) -> None:
    outcome = check_logit_gradient(make_setup(loss=lambda z, b: bce(z, b[1]) * torch.tensor(float("nan"))))
    assert outcome.failed
    assert "not_finite" in outcome.message


def test_another_formula_can_be_given(make_setup: MakeSetup) -> None:
    setup = make_setup(loss=lambda z, b: (z - b[1]).square().mean())
    assert check_logit_gradient(setup).failed
    assert check_logit_gradient(setup, expected=lambda z, y, _: 2 * (z - y)).verdict == "passed"


@pytest.mark.parametrize("loss", [logarithms, lambda z, b: functional.binary_cross_entropy(torch.sigmoid(z), b[1])])
def test_losses_of_probabilities_are_refused_far_out(make_setup: MakeSetup, loss: Any) -> None:
    outcome = check_loss_range(make_setup(loss=loss))
    assert outcome.failed
    assert "compute the loss from logits" in outcome.message


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, b: bce(z[b[1] >= 0], b[1][b[1] >= 0]),
        lambda z, b: bce(z, b[1].clamp_min(0), reduction="none").sum() / (b[1] >= 0).sum(),
        lambda z, b: bce(z, b[1].clamp_min(0)),
    ],
)
def test_an_empty_mask_contributes_nothing(make_setup: MakeSetup, loss: Any) -> None:
    outcome = check_empty_mask(make_setup(loss=loss))
    assert outcome.failed
    assert "task 0" in outcome.message


def test_of_several_tasks_the_faulty_one_is_named(make_setup: MakeSetup) -> None:
    def loss(logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        labels = batch[1].unsqueeze(1).expand(-1, 2)
        return bce(logits[:, 0], labels[:, 0]) + bce(logits[:, 1], labels[:, 1], reduction="sum")

    outcome = check_logit_gradient(make_setup(loss=loss, labels=lambda b: b[1].unsqueeze(1).expand(-1, 2)))
    assert (outcome.failed, outcome.where) == (True, "task 1")


def test_what_cannot_be_measured_is_no_pass(make_setup: MakeSetup) -> None:
    setup = make_setup(labels=None, without_labels=None)
    found = [check(setup) for check in (check_logit_gradient, check_loss_range, check_empty_mask)]
    assert {outcome.verdict for outcome in found} == {"not_measured"}
