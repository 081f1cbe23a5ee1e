import math

import torch
from torch import Tensor

from ctr_pipeline.losses.binary_cross_entropy import WeightedBinaryCrossEntropy
from ctr_pipeline.losses.masking import known_counts
from ctr_pipeline.losses.multi_task import multi_task_loss


def loss_of(logits: Tensor, labels: Tensor, weights: Tensor, loss_weights: Tensor) -> tuple[Tensor, Tensor]:
    return multi_task_loss(
        WeightedBinaryCrossEntropy().task_sums(logits, labels, weights), known_counts(labels), loss_weights
    )


def test_value_by_hand() -> None:
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.0], [-0.3, 4.0]])
    labels = torch.tensor([[1, 0], [0, -1], [0, -1]], dtype=torch.int8)
    weights = torch.tensor([[1.0, 2.0], [0.5, 9.0], [1.5, 9.0]])
    click = (math.log1p(math.exp(-0.5)) + 0.5 * math.log1p(math.exp(2.0)) + 1.5 * math.log1p(math.exp(-0.3))) / 3
    cart = 2.0 * math.log1p(math.exp(-1.0))
    loss, means = loss_of(logits, labels, weights, torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(means, torch.tensor([click, cart]))
    torch.testing.assert_close(loss, torch.tensor(click + 0.25 * cart))


def test_finite_and_linear_at_saturation() -> None:
    logits = torch.tensor([[60.0], [-60.0], [60.0], [-60.0]], requires_grad=True)
    labels = torch.tensor([[0], [1], [1], [0]], dtype=torch.int8)
    loss, _ = loss_of(logits, labels, torch.ones((4, 1)), torch.ones(1))
    assert loss.item() == 30.0
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.25], [-0.25], [0.0], [0.0]]))


def test_a_task_without_known_labels_contributes_exactly_nothing() -> None:
    logits = torch.randn((5, 2), requires_grad=True)
    labels = torch.tensor([[1, -1]] * 5, dtype=torch.int8)
    loss, means = loss_of(logits, labels, torch.ones((5, 2)), torch.ones(2))
    assert float(means[1]) == 0.0
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert torch.count_nonzero(logits.grad[:, 1]) == 0


def test_masked_rows_do_not_matter_even_with_wild_logits() -> None:
    labels = torch.tensor([[1], [-1]], dtype=torch.int8)
    logits = torch.tensor([[0.2], [float("inf")]])
    weights = torch.tensor([[1.0], [float("nan")]])
    loss, _ = loss_of(logits, labels, weights, torch.ones(1))
    torch.testing.assert_close(loss, torch.tensor(math.log1p(math.exp(-0.2))))


def test_shares_of_two_processes_add_up() -> None:
    logits, weights = torch.randn((8, 2)), torch.rand((8, 2))
    labels = torch.randint(-1, 2, (8, 2)).to(torch.int8)
    whole, _ = loss_of(logits, labels, weights, torch.ones(2))
    counts = known_counts(labels)
    parts = [
        multi_task_loss(
            WeightedBinaryCrossEntropy().task_sums(logits[r::2], labels[r::2], weights[r::2]), counts, torch.ones(2)
        )[0]
        for r in (0, 1)
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)
