"""The hidden layers against formulas written out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctr_pipeline.ranker.tower import Dropout, InputLinear, Tower
from ctr_pipeline.spec.model import Model


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))
def test_two_products_are_one_over_both(numbers: int, embedded: int, rows: int) -> None:
    if not numbers + embedded:
        return
    split, whole = InputLinear(numbers, embedded, 3), torch.nn.Linear(numbers + embedded, 3)
    whole.load_state_dict(split.state_dict())
    parts = random(rows, numbers), random(rows, embedded, seed=1).requires_grad_()
    found, expected = split(*parts), whole(torch.cat(parts, dim=1))
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    own = parts[1].grad.clone() if embedded else None
    parts[1].grad = None
    expected.square().sum().backward()
    torch.testing.assert_close(split.weight.grad, whole.weight.grad)
    if own is not None:
        torch.testing.assert_close(own, parts[1].grad)


@pytest.mark.parametrize("normalisation", ["layer", "none"])
@pytest.mark.parametrize("residual", [True, False])
def test_layers_follow_the_formula(normalisation: str, residual: bool) -> None:
    # The first layer is as wide as its input and the third as the second: only that one can add what it reads.
    model = Model(hidden=[5, 4, 4], normalisation=normalisation, residual=residual, dropout=0.3)
    tower = Tower(3, 2, model).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(random(*parameter.shape, seed=parameter.numel()))
    numbers, embedded = random(6, 3), random(6, 2, seed=1)
    state = {name: value.double().numpy() for name, value in tower.state_dict().items()}
    hidden = np.concatenate([numbers.double().numpy(), embedded.double().numpy()], axis=1)
    for place in range(3):
        own = hidden @ state[f"{place}.linear.weight"].T + state[f"{place}.linear.bias"]
        if normalisation == "layer":
            own = (own - own.mean(axis=1, keepdims=True)) / np.sqrt(own.var(axis=1, keepdims=True) + 1e-5)
            own = own * state[f"{place}.norm.weight"] + state[f"{place}.norm.bias"]
        own = np.maximum(own, 0)
        hidden = hidden + own if residual and place == 2 else own
    np.testing.assert_allclose(tower(numbers, embedded).detach().numpy(), hidden, rtol=1e-4, atol=1e-5)
    assert ("0.norm.weight" in state) == (normalisation == "layer")
    assert tower.out_width == 4


def test_without_hidden_layers_it_gives_its_inputs() -> None:
    tower = Tower(3, 2, Model(hidden=[]))
    assert torch.equal(tower(random(4, 3), random(4, 2)), torch.cat([random(4, 3), random(4, 2)], dim=1))
    assert tower.out_width == 5


@pytest.mark.parametrize("share", [0.2, 0.5, 0.999])
def test_dropout_zeroes_its_share_of_each_value_and_keeps_the_mean(share: float) -> None:
    dropout, ones = Dropout(share), torch.ones(801, 250)
    torch.manual_seed(0)
    found = dropout(ones)
    assert found.unique().tolist() == pytest.approx([0, 1 / (1 - share)], rel=0.01)
    deviation = (share * (1 - share)) ** 0.5
    dropped = (found == 0).double()
    assert float(dropped.mean()) == pytest.approx(share, abs=5 * deviation / 801**0.5 / 250**0.5)
    # Four values of one draw are as independent as others.
    for distance in (1, 2, 3):
        together = float((dropped[:, distance:] * dropped[:, :-distance]).mean()) - share**2
        assert abs(together) < 6 * deviation * share / 200_000**0.5 + 1e-4
    assert dropout.eval()(ones) is ones
    assert Dropout(0.0)(ones) is ones
    assert Dropout(share)(torch.ones(3, 0)).shape == (3, 0)
