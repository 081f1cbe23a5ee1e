import pytest
import torch

from ctr_pipeline.gradients.core.measurements import gradient_measurements
from ctr_pipeline.gradients.core.norms import gradient_norms


def test_zeros_and_the_largest_row_of_a_table() -> None:
    table, linear = torch.nn.Embedding(50, 4, sparse=True), torch.nn.Linear(4, 2)
    named = [("table", table.weight), ("weight", linear.weight), ("still", torch.nn.Parameter(torch.ones(3)))]
    ids = torch.tensor([7, 7, 31, 2])
    scale = torch.tensor([[1.0], [1.0], [5.0], [0.0]])
    (linear(table(ids)) * scale)[:, 0].sum().backward()
    labels, values = gradient_measurements(gradient_norms(named), named)
    found = dict(zip(labels, values.tolist(), strict=True))
    dense = table.weight.grad.to_dense()
    assert found["table", "largest_row"] == 31.0
    assert found["table", "largest_row_norm"] == pytest.approx(float(dense.norm(dim=1).max()), rel=1e-6)
    # Of the rows 2, 7 and 31 that were touched, one has a gradient of 0; of the weight, the second output's row.
    assert found["table", "zero_share"] == pytest.approx(1 / 3)
    assert found["weight", "zero_share"] == 0.5
    assert not any(name == "still" for name, _ in found)


def test_without_gradients_there_is_nothing_to_measure() -> None:
    labels, values = gradient_measurements(gradient_norms([]), [])
    assert (labels, len(values)) == ([], 0)
