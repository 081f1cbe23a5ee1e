"""The gradient that a loss gives by formula against autograd and against finite differences."""

import pytest
import torch
from torch import Tensor

from ctr_pipeline.losses import Loss
from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.focal import FocalLoss
from ctr_pipeline.losses.label_smoothing import SmoothedBinaryCrossEntropy

LOSSES: dict[str, Loss] = {
    "binary_cross_entropy": WeightedBinaryCrossEntropy(),
    "binary_cross_entropy, smoothed": SmoothedBinaryCrossEntropy(0.1, [0.02, 0.4]),
    "focal": FocalLoss(2.0),
    "focal, balanced": FocalLoss(2.0, 0.25),
    "focal, below one": FocalLoss(0.5),
    "focal, without focus": FocalLoss(0.0),
}


def sample(largest: float = 60.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits over the whole range with each label at each, and weights."""
    z = torch.cat([torch.linspace(-largest, largest, 241), torch.linspace(-2, 2, 41)]).double()
    logits = z.repeat(3).reshape(-1, 1).repeat(1, 2)
    labels = torch.tensor([1, 0, -1], dtype=torch.int8).repeat_interleave(len(z)).reshape(-1, 1).repeat(1, 2)
    weights = torch.linspace(0.1, 3.0, logits.numel()).double().reshape(logits.shape)
    return logits, labels, weights


@pytest.fixture(params=list(LOSSES))
def loss(request: pytest.FixtureRequest) -> Loss:
    return LOSSES[request.param]


def test_the_formula_is_what_autograd_finds(loss: Loss) -> None:
    logits, labels, weights = sample()
    logits.requires_grad_()
    loss.task_sums(logits, labels, weights).sum().backward()
    found = loss.logit_gradient(logits.detach(), labels, weights)
    assert found is not None
    torch.testing.assert_close(found, logits.grad, rtol=1e-9, atol=1e-30)
    assert torch.count_nonzero(found[labels < 0]) == 0


def test_the_formula_is_the_slope_of_the_sums(loss: Loss) -> None:
    logits, labels, weights = sample(15.0)
    step = 1e-5
    slopes = []
    for row in range(len(logits)):  # one logit at a time: the sums are over rows
        part = logits[row : row + 1], labels[row : row + 1], weights[row : row + 1]
        above, below = (loss.task_sums(part[0] + sign * step, *part[1:]) for sign in (1, -1))
        slopes.append((above - below) / (2 * step))
    found = loss.logit_gradient(logits, labels, weights)
    torch.testing.assert_close(found, torch.stack(slopes), rtol=1e-6, atol=1e-9)


def test_finite_in_single_precision_over_the_whole_range(loss: Loss) -> None:
    logits, labels, weights = (tensor.float() if tensor.is_floating_point() else tensor for tensor in sample())
    logits.requires_grad_()
    sums = loss.task_sums(logits, labels, weights)
    sums.sum().backward()
    assert torch.isfinite(sums).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    found = loss.logit_gradient(logits.detach(), labels, weights)
    torch.testing.assert_close(found, logits.grad, rtol=1e-4, atol=1e-7)
