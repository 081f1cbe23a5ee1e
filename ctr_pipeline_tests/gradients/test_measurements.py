"""What the detailed record has of gradients, embeddings and activations, by the book."""

import numpy as np
import pytest
import torch

from ctr_pipeline.gradients.core.activations import Activation, ActivationObserver
from ctr_pipeline.gradients.core.embedding_outputs import EmbeddingObserver
from ctr_pipeline.gradients.core.measurements import Block, activation_quantiles, largest_rows, zero_shares
from ctr_pipeline.gradients.core.norms import gradient_norms


def numbers(blocks: list[Block]) -> dict[tuple[str, str], float]:
    return {
        label: value
        for block in blocks
        for label, value in zip(block.labels, block.numbers(block.values.tolist()), strict=True)
    }


def test_zeros_of_each_gradient() -> None:
    table, linear = torch.nn.Embedding(50, 4, sparse=True), torch.nn.Linear(4, 2)
    named = [("table", table.weight), ("weight", linear.weight), ("still", torch.nn.Parameter(torch.ones(3)))]
    scale = torch.tensor([[1.0], [1.0], [5.0], [0.0]])
    (linear(table(torch.tensor([7, 7, 31, 2]))) * scale)[:, 0].sum().backward()
    # Of the rows 2, 7 and 31 that were touched, one has a gradient of 0; of the weight, the second output's row.
    assert numbers(zero_shares(gradient_norms(named))) == {
        ("table", "zero_share"): pytest.approx(1 / 3),
        ("weight", "zero_share"): 0.5,
    }
    assert zero_shares(gradient_norms([])) == []


def test_the_largest_row_names_table_id_and_sample() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(50, 4, padding_idx=0, sparse=True), torch.nn.Linear(4, 1))
    observer = EmbeddingObserver(model)
    ids = torch.tensor([[7, 3], [31, 0], [2, 9]])
    factors = torch.tensor([[1.0, 1.0], [5.0, 100.0], [0.5, -7.0]])
    with observer.observe() as found:
        output = model(ids)
    (output[..., 0] * factors * 8).sum().backward()
    values = numbers(largest_rows(found, 8.0, [40, 41, 42]))
    # The padding's gradient would be larger and is not learnt.
    assert values["0.weight", "largest_row"] == 9
    assert values["0.weight", "largest_row_sample"] == 42
    weight = model[1].weight.detach().norm()
    assert values["0.weight", "largest_row_norm"] == pytest.approx(7 * float(weight), rel=1e-5)
    with torch.no_grad():
        model(ids)
    assert len(found) == 1, "hooks stay in the block"


def test_quantiles_of_activations_are_those_of_all_values_within_the_sample_s_error() -> None:
    torch.manual_seed(1)
    layers = [torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.GELU()]
    model = torch.nn.Sequential(*layers)
    inputs = torch.randn(400, 6)
    observer = ActivationObserver(model)
    for _ in range(2):  # The first looks at every function, the second at the modules that were found.
        with observer.observe() as found:
            model(inputs)
        values = numbers(activation_quantiles(found))
        for place, name in ((2, "1"), (4, "3")):
            whole = np.sort(model[:place](inputs).detach().numpy().ravel())
            for stat, share in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
                low, high = np.quantile(whole, [max(share - 0.04, 0), min(share + 0.04, 1)])
                assert low <= values[name, stat] <= high
    assert activation_quantiles([Activation("a", torch.ones(3))]) == []


def test_a_sample_meets_every_unit() -> None:
    rows = torch.arange(64.0).repeat(512, 1)
    with ActivationObserver(model := torch.nn.Sequential(torch.nn.ReLU())).observe() as found:
        model(rows)
    assert found[0].sample is not None
    assert set(found[0].sample.tolist()) == set(map(float, range(64)))
