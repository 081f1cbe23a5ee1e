import math

import pytest
import torch

from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.focal import FocalLoss


def test_value_by_hand() -> None:
    logits = torch.tensor([[0.5], [2.0], [7.0]], dtype=torch.float64)
    labels = torch.tensor([[1], [0], [-1]], dtype=torch.int8)
    weights = torch.tensor([[2.0], [0.5], [9.0]], dtype=torch.float64)
    p, q = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(-2.0))
    expected = -2.0 * 0.25 * (1 - p) ** 3 * math.log(p) - 0.5 * 0.75 * q**3 * math.log(1 - q)
    found = FocalLoss(3.0, 0.25).task_sums(logits, labels, weights)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))


def test_without_focus_it_is_the_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = 5 * torch.randn((50, 3), dtype=torch.float64)
    labels, weights = torch.randint(-1, 2, (50, 3)).to(torch.int8), torch.rand((50, 3), dtype=torch.float64)
    plain, focal = WeightedBinaryCrossEntropy(), FocalLoss(0.0)
    torch.testing.assert_close(focal.task_sums(logits, labels, weights), plain.task_sums(logits, labels, weights))
    torch.testing.assert_close(
        focal.logit_gradient(logits, labels, weights), plain.logit_gradient(logits, labels, weights)
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_confident_mistake_keeps_its_full_weight_and_a_confident_hit_loses_it(gamma: float) -> None:
    logits = torch.tensor([[-60.0, 60.0]])
    labels = torch.ones((1, 2), dtype=torch.int8)
    sums = FocalLoss(gamma).task_sums(logits, labels, torch.ones((1, 2)))
    assert float(sums[0]) == 60.0
    assert 0 <= float(sums[1]) < 1e-30


def test_its_minimum_lies_nearer_to_one_half_than_the_rate() -> None:
    """So its predictions need calibration: of one positive in ten, γ = 2 makes more than one in ten."""
    logits = torch.linspace(-6, 2, 8001, dtype=torch.float64).reshape(1, -1)
    one = torch.ones_like(logits)
    loss = FocalLoss(2.0)
    risk = 0.1 * loss.task_sums(logits, one.to(torch.int8), one) + 0.9 * loss.task_sums(
        logits, torch.zeros_like(logits, dtype=torch.int8), one
    )
    predicted = float(torch.sigmoid(logits[0, risk.argmin()]))
    assert 0.15 < predicted < 0.5
