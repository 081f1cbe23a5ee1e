"""Weights of the tasks' losses: by formula, and what they do to gradients that conflict."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.losses.balances import TaskBalance, needs_rates
from ctr_pipeline.losses.gradient_weighting import GradientWeighting
from ctr_pipeline.spec.balancing import DwaBalance, GradientBalance, StaticBalance, UncertaintyBalance

CPU = torch.device("cpu")
RATES = [0.1, 0.01, 0.001]


def entropy(p: float) -> float:
    return -(p * math.log(p) + (1 - p) * math.log(1 - p))


def test_static_weights_are_the_declared_ones() -> None:
    balance = TaskBalance(StaticBalance(), [1.0, 0.1, 0.1], [], CPU)
    assert not balance.moves
    balance.observe([5.0, 5.0, 5.0], [1, 1, 1])
    torch.testing.assert_close(balance.weights, torch.tensor([1.0, 0.1, 0.1]))


def test_normalised_losses_of_constants_weigh_alike() -> None:
    balance = TaskBalance(StaticBalance(normalise=True), [1.0, 1.0, 0.5], RATES, CPU)
    entropies = torch.tensor([entropy(p) for p in RATES])
    weighted = balance.weights * entropies
    torch.testing.assert_close(weighted, entropies[0] * torch.tensor([1.0, 1.0, 0.5]))
    assert float(balance.weights[0]) == pytest.approx(1.0)


def test_a_task_with_one_class_keeps_its_weight() -> None:
    balance = TaskBalance(StaticBalance(normalise=True), [1.0, 1.0], [0.1, 0.0], CPU)
    torch.testing.assert_close(balance.weights, torch.ones(2))
    torch.testing.assert_close(
        TaskBalance(StaticBalance(normalise=True), [1.0, 2.0], [0.0, 1.0], CPU).weights, torch.tensor([1.0, 2.0])
    )
    assert needs_rates(UncertaintyBalance())
    assert not needs_rates(DwaBalance())
    with pytest.raises(ValueError, match="2 base rates expected, found 0"):
        TaskBalance(StaticBalance(normalise=True), [1.0, 1.0], [], CPU)


def test_uncertainty_weights_descend_the_loss_of_the_paper() -> None:
    rate, losses = 0.05, [[0.3, 0.05, 0.004], [0.29, 0.06, 0.001], [0.31, 0.0, 0.002]]
    known = [[9, 9, 9], [9, 9, 9], [9, 0, 9]]
    balance = TaskBalance(UncertaintyBalance(rate=rate), [1.0, 0.1, 0.1], RATES, CPU)
    logs = torch.tensor([math.log(2 * entropy(p)) for p in RATES], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(
        balance.weights,
        torch.tensor([own * entropy(0.1) / entropy(p) for own, p in zip((1.0, 0.1, 0.1), RATES, strict=True)]),
    )
    for values, counts in zip(losses, known, strict=True):
        looked = torch.tensor(counts) > 0
        loss = (torch.exp(-logs) * torch.tensor(values, dtype=torch.float64) + logs / 2)[looked].sum()
        (gradient,) = torch.autograd.grad(loss, logs)
        logs = (logs - rate * gradient).detach().requires_grad_()
        balance.observe(values, counts)
        expected = torch.tensor([1.0, 0.1, 0.1]) * 2 * entropy(0.1) * torch.exp(-logs.detach()).float()
        torch.testing.assert_close(balance.weights, expected)


def test_uncertainty_weights_settle_where_each_task_weighs_alike() -> None:
    balance = TaskBalance(UncertaintyBalance(rate=0.1), [1.0, 1.0], [0.1, 0.01], CPU)
    for _ in range(500):
        balance.observe([0.2, 0.03], [1, 1])
    weighted = balance.weights * torch.tensor([0.2, 0.03])
    torch.testing.assert_close(weighted[0], weighted[1], rtol=1e-4, atol=0)


def test_dynamic_weights_follow_the_ratio_of_two_windows() -> None:
    balance = TaskBalance(DwaBalance(window=2, temperature=2.0), [1.0, 0.5], [], CPU)
    for losses in ([0.4, 0.2], [0.6, 0.2]):
        balance.observe(losses, [1, 1])
    torch.testing.assert_close(balance.weights, torch.tensor([1.0, 0.5]))
    for losses, counts in (([0.2, 0.2], [1, 1]), ([0.3, 0.0], [1, 0])):
        balance.observe(losses, counts)
    powers = torch.exp(torch.tensor([0.25 / 0.5, 0.2 / 0.2]) / 2.0)
    torch.testing.assert_close(balance.weights, torch.tensor([1.0, 0.5]) * 2 * powers / powers.sum())


@pytest.mark.parametrize("section", [UncertaintyBalance(), DwaBalance(window=3), StaticBalance(normalise=True)])
def test_a_stored_balance_continues_as_it_was(section: UncertaintyBalance | DwaBalance | StaticBalance) -> None:
    losses = torch.rand((20, 3), generator=torch.Generator().manual_seed(1)).tolist()
    whole, first = (TaskBalance(section, [1.0, 0.1, 0.1], RATES, CPU) for _ in range(2))
    for values in losses[:10]:
        first.observe(values, [5, 5, 5])
    second = TaskBalance(section, [1.0, 0.1, 0.1], RATES, CPU)
    second.load_state_dict(first.state_dict())
    for values in losses:
        whole.observe(values, [5, 5, 5])
    for values in losses[10:]:
        second.observe(values, [5, 5, 5])
    assert second.state_dict() == whole.state_dict()


def two_losses(weights: nn.Parameter, gradients: Tensor) -> Tensor:
    """Losses whose gradients are the rows of ``gradients``."""
    return gradients @ weights


def surgery(gradients: Tensor, orders: list[tuple[int, ...]]) -> Tensor:
    """Algorithm 1 of Yu et al. (NeurIPS 2020) on the vectors themselves; for each task the order of the others."""
    total = torch.zeros(gradients.shape[1], dtype=torch.float64)
    for task, order in enumerate(orders):
        own = gradients[task].clone()
        for other in order:
            if other != task and (product := own @ gradients[other]) < 0:
                own = own - product / gradients[other].square().sum() * gradients[other]
        total += own
    return total


def test_pcgrad_by_weights_is_surgery_on_the_vectors() -> None:
    pytest.importorskip("torchjd")
    gradients = torch.tensor([[1.0, 0.2, 0.0], [-0.9, 0.5, 0.3], [0.1, -1.0, 0.4]])
    weights = nn.Parameter(torch.zeros(3))
    found = GradientWeighting("pcgrad")(two_losses(weights, gradients), [weights])
    combined = (found @ gradients).double()
    orders = list(permutations(range(3)))
    possible = [surgery(gradients.double(), [a, b, c]) for a in orders for b in orders for c in orders]
    assert min(float((combined - one).abs().max()) for one in possible) < 1e-6


def test_upgrad_makes_no_task_worse() -> None:
    pytest.importorskip("torchjd")
    pytest.importorskip("quadprog")
    gradients = torch.tensor([[1.0, 0.2, 0.0], [-0.9, 0.5, 0.3], [0.1, -1.0, 0.4]])
    weights = nn.Parameter(torch.zeros(3))
    found = GradientWeighting("upgrad")(two_losses(weights, gradients), [weights])
    assert float((gradients @ (found @ gradients)).min()) > -1e-3
    assert float((gradients @ gradients.sum(dim=0)).min()) < 0


@pytest.mark.parametrize("aggregator", ["upgrad", "mgda", "imtl_g"])
def test_the_size_of_the_gradients_changes_no_weight(aggregator: str) -> None:
    pytest.importorskip("torchjd")
    pytest.importorskip("quadprog")
    gradients = torch.tensor([[1.0, 0.2, 0.0], [-0.9, 0.5, 0.3], [0.1, -1.0, 0.4]])
    weights = nn.Parameter(torch.zeros(3))
    found = [
        GradientWeighting(aggregator)(two_losses(weights, size * gradients), [weights]) for size in (1e-3, 1.0, 1e3)
    ]
    assert float((found[1] - 1).abs().max()) > 0.1, "weights of 1 would be those of gradients that are not looked at"
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregator", ["pcgrad", "upgrad"])
def test_gradients_that_agree_keep_the_declared_weights(aggregator: str) -> None:
    pytest.importorskip("torchjd")
    pytest.importorskip("quadprog")
    gradients = torch.tensor([[1.0, 0.2], [0.9, 0.5]])
    weights = nn.Parameter(torch.zeros(2))
    balance = TaskBalance(GradientBalance(aggregator=aggregator), [1.0, 0.1], [], CPU)
    assert balance.reads_gradients
    balance.from_gradients(two_losses(weights, gradients), [weights])
    torch.testing.assert_close(balance.weights, torch.tensor([1.0, 0.1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("aggregator", ["pcgrad", "mgda", "imtl_g"])
def test_gradients_that_say_nothing_change_no_weight(aggregator: str) -> None:
    pytest.importorskip("torchjd")
    weights = nn.Parameter(torch.zeros(2))
    balance = TaskBalance(GradientBalance(aggregator=aggregator), [1.0, 0.1], [], CPU)
    for gradients in ([[1.0, math.inf], [0.9, 0.5]], [[1.0, math.nan], [0.9, 0.5]]):
        balance.from_gradients(two_losses(weights, torch.tensor(gradients)), [weights])
        torch.testing.assert_close(balance.weights, torch.tensor([1.0, 0.1]))
    balance.from_gradients(two_losses(weights, torch.eye(2)), [])
    torch.testing.assert_close(balance.weights, torch.tensor([1.0, 0.1]))
