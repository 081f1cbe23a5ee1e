import pytest
import torch
from torch import nn
from torch.nn import functional

from ctr_pipeline.gradients.core.activations import CAN_SATURATE, Activation, dead_share, observed_activations

# Inputs where the function is flat, and where it is not.
DYING = [
    (nn.ReLU(), -1.0, 1.0),
    (nn.ReLU(inplace=True), -1.0, 1.0),
    (nn.ReLU6(), -1.0, 3.0),
    (nn.ReLU6(), 7.0, 3.0),
    (nn.LeakyReLU(0.0), -1.0, 1.0),
    (nn.GELU(), -8.0, -1.0),
    (nn.SiLU(), -20.0, -2.0),
    (nn.Mish(), -20.0, -2.0),
    (nn.Hardswish(), -4.0, -2.0),
    (nn.ELU(), -20.0, -1.0),
    (nn.SELU(), -20.0, -1.0),
    (nn.CELU(), -20.0, -1.0),
    (nn.Softplus(), -20.0, -1.0),
    (nn.Hardsigmoid(), 4.0, 1.0),
    (nn.Sigmoid(), 20.0, 1.0),
    (nn.Tanh(), -10.0, 1.0),
    (nn.Threshold(2.0, 0.0), 1.0, 3.0),
]


@pytest.mark.parametrize(("module", "dead", "alive"), DYING, ids=lambda value: str(value))
def test_a_unit_is_dead_where_its_activation_is_flat_for_every_row(module: nn.Module, dead: float, alive: float):
    # Of four units one is flat for all rows, one for all but one, two for none.
    entered = torch.tensor([[dead, dead, alive, alive], [dead, alive, alive, alive], [dead, dead, alive, alive]])
    expected = module(entered.clone())
    with observed_activations(module) as found:
        output = module(entered)
    assert torch.equal(output, expected)
    assert [activation.name for activation in found] == ["model"]
    assert float(dead_share(found[0])) == 1 / 4


@pytest.mark.parametrize("module", [nn.LeakyReLU(0.01), nn.PReLU(init=0.25)])
def test_a_slope_below_zero_keeps_a_unit_alive(module: nn.Module) -> None:
    with observed_activations(module) as found:
        module(torch.full((3, 2), -100.0))
    assert float(dead_share(found[0])) == 0.0


@pytest.mark.parametrize("call", [torch.relu, functional.relu, torch.Tensor.relu, torch.relu_, torch.Tensor.relu_])
def test_functions_are_seen_like_modules(call) -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return call(self.linear(x)) + call(self.linear(-x))

    model = nn.Sequential(nn.Linear(2, 2), Gate())
    with observed_activations(model) as found:
        model(torch.ones((4, 2))).sum().backward()
    assert [(activation.name, activation.slope.shape) for activation in found] == [("1", (4, 3)), ("1#2", (4, 3))]
    assert model[0].weight.grad is not None
    model(torch.ones((4, 2)))
    assert len(found) == 2


def test_what_is_no_activation_is_not_observed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Identity(), nn.Softmax(dim=1))
    with observed_activations(model) as found:
        model(torch.randn(5, 3))
        model(torch.randn(0, 3))
    assert found == []


def test_observing_draws_no_random_numbers_and_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Dropout(0.5), nn.RReLU(), nn.Tanh())
    entered = torch.randn(5, 3)
    torch.manual_seed(1)
    expected = model(entered)
    torch.manual_seed(1)
    with observed_activations(model) as found:
        output = model(entered)
    assert torch.equal(output, expected)
    assert [activation.name for activation in found] == ["1", "4"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_in_half_precision_too() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([-1e4, 1e4])
    with observed_activations(model) as found, torch.autocast("cpu", dtype=torch.float16):
        model(torch.ones((8, 2)))
    assert found[0].slope.dtype == torch.float16
    assert float(dead_share(found[0])) == 0.5


def test_every_name_is_a_function_of_torch() -> None:
    known = {*dir(torch), *dir(functional)}
    assert known >= CAN_SATURATE


def test_positions_of_a_sequence_are_no_units() -> None:
    slope = torch.zeros((2, 5, 3))
    slope[0, 2, 0] = 1.0
    assert float(dead_share(Activation("a", slope))) == pytest.approx(2 / 3)
    assert float(dead_share(Activation("a", torch.zeros(4)))) == 1.0
