from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctr_pipeline.ranker import RankerError
from ctr_pipeline.ranker.interactions.factorisation_machine import PairwiseProducts
from ctr_pipeline.ranker.shapes import FieldGroup, InputShape


def machine(fields: int, width: int) -> PairwiseProducts:
    return PairwiseProducts(InputShape(0, (FieldGroup(width, tuple(f"f{n}" for n in range(fields))),)))


def by_definition(vectors: Tensor) -> list[float]:
    """The sum over pairs and coordinates as it is written in the paper."""
    rows, fields, width = vectors.shape
    values = vectors.tolist()
    return [
        sum(values[b][i][k] * values[b][j][k] for i, j in combinations(range(fields), 2) for k in range(width))
        for b in range(rows)
    ]


def test_known_value() -> None:
    # ⟨a,b⟩ = 11, ⟨a,c⟩ = -1.5, ⟨b,c⟩ = -2.5
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [0.5, -1.0]]])
    assert machine(3, 2)(torch.zeros((1, 0)), (vectors,)).tolist() == [[7.0]]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 5), st.integers(2, 7), st.integers(1, 9), st.integers(0, 2**31))
def test_it_is_the_sum_over_all_pairs(rows: int, fields: int, width: int, seed: int) -> None:
    vectors = torch.randn((rows, fields, width), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = machine(fields, width)(torch.zeros((rows, 3)), (vectors,))
    assert found.shape == (rows, 1)
    torch.testing.assert_close(found[:, 0], torch.tensor(by_definition(vectors), dtype=torch.float64))


def test_gradient_is_the_sum_of_the_other_embeddings() -> None:
    vectors = torch.randn((4, 5, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors.requires_grad_()
    module, numbers = machine(5, 3), torch.zeros((4, 0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: module(numbers, (values,)), vectors)
    (gradient,) = torch.autograd.grad(module(numbers, (vectors,)).sum(), vectors)
    torch.testing.assert_close(gradient, vectors.sum(dim=1, keepdim=True) - vectors)


def test_autocast_does_not_take_its_precision() -> None:
    vectors = torch.randn((50, 12, 8), generator=torch.Generator().manual_seed(2))
    module = machine(12, 8)
    expected = module(torch.zeros((50, 0)), (vectors,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(torch.zeros((50, 0)), (vectors,))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((), "combines embeddings, but the dataset has no embedded feature: declare one"),
        ((FieldGroup(4, ("ad",)),), "but ad is the only embedded feature: declare another"),
        (
            (FieldGroup(2, ("device",)), FieldGroup(8, ("ad", "query"))),
            "of one width, and they differ: 2 for device; 8 for ad, query. Give these features the same `embedding_dim`",
        ),
    ],
)
def test_unsuitable_inputs_are_refused(groups: tuple[FieldGroup, ...], message: str) -> None:
    with pytest.raises(RankerError, match=message) as caught:
        PairwiseProducts(InputShape(3, groups))
    assert "or remove factorisation_machine from `model.interactions`" in str(caught.value)


def test_other_embeddings_than_it_was_built_for_are_refused() -> None:
    expected = r"embeddings of factorisation_machine: shape \[5, 4, 2\] found, \[5, 3, 2\] expected"
    with pytest.raises(RankerError, match=expected):
        machine(3, 2)(torch.zeros((5, 0)), (torch.zeros((5, 4, 2)),))
