import math

import numpy as np
import pytest
import torch

from ctr_pipeline.training.lr_schedule import set_learning_rate
from ctr_pipeline.training.optimizers import RowwiseAdagrad, dense_optimizer


def test_rowwise_adagrad_against_numpy() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(6, 3)).astype(np.float32)
    table = torch.nn.Embedding.from_pretrained(torch.from_numpy(start.copy()), freeze=False, sparse=True)
    optimizer = RowwiseAdagrad([table.weight], learning_rate=0.1, l2=0.01)
    expected, accumulated = start.astype(np.float64), np.zeros(6)
    for step in range(4):
        ids = rng.integers(0, 5, 7)
        target = rng.normal(size=(7, 3)).astype(np.float32)
        optimizer.zero_grad()
        (table(torch.from_numpy(ids)) * torch.from_numpy(target)).sum().backward()
        set_learning_rate(optimizer, 0.1 / (step + 1))
        optimizer.step()
        gradient = np.zeros((6, 3))
        np.add.at(gradient, ids, target)
        for row in set(ids.tolist()):
            g = gradient[row] + 0.01 * expected[row]
            accumulated[row] += (g**2).mean()
            expected[row] -= 0.1 / (step + 1) * g / (math.sqrt(accumulated[row]) + 1e-8)
    np.testing.assert_allclose(table.weight.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("l2", [0.0, 0.5])
def test_untouched_rows_do_not_move(l2: float) -> None:
    table = torch.nn.Embedding(50, 4, sparse=True)
    before = table.weight.detach().clone()
    optimizer = RowwiseAdagrad([table.weight], learning_rate=1.0, l2=l2)
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([3, 7, 7])).square().sum().backward()
        optimizer.step()
    moved = (table.weight.detach() != before).any(dim=1).nonzero().flatten().tolist()
    assert moved == [3, 7]


def test_dense_gradients_and_closures_are_refused() -> None:
    table = torch.nn.Embedding(5, 2)
    optimizer = RowwiseAdagrad([table.weight], learning_rate=0.1, l2=0.0)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_biases_do_not_decay() -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = dense_optimizer(layer.named_parameters(), 0.1, 0.5)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias.detach(), before["bias"])
