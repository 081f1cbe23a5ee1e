import math

import pytest
import torch

from ctr_pipeline.gradients.core.norms import clip_gradients, gradient_norms


def test_norms_equal_those_of_the_dense_gradients(case) -> None:
    case.backward()
    named = list(case.model.named_parameters())
    norms = gradient_norms(named)
    dense = {name: p.grad.to_dense() if p.grad.is_sparse else p.grad for name, p in named if p.grad is not None}
    assert norms.names == tuple(dense)
    for name, norm in zip(norms.names, norms.each.tolist(), strict=True):
        assert norm == pytest.approx(float(dense[name].norm()), rel=1e-5)
    everything = torch.cat([gradient.flatten() for gradient in dense.values()])
    assert float(norms.total) == pytest.approx(float(everything.norm()), rel=1e-5)


def test_repeated_rows_are_added_before_they_are_measured() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1, 1, 1, 2])).sum().backward()
    norms = gradient_norms([("table", table.weight)])
    assert float(norms.total) == pytest.approx(math.sqrt(2 * 9 + 2))


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_clipping_limits_the_norm_and_keeps_the_direction(case, limit: float) -> None:
    case.backward()
    named = list(case.model.named_parameters())
    norms = gradient_norms(named)
    before = torch.cat([value.flatten() for value in norms.values])
    before = before.clone()
    clipped = clip_gradients(norms, float(norms.total), limit)
    after = torch.cat([value.flatten() for value in norms.values])
    assert clipped == (limit < 1)
    assert float(after.norm()) == pytest.approx(min(limit, float(before.norm())), rel=1e-2)
    assert float(torch.nn.functional.cosine_similarity(before, after, dim=0)) > 0.999
    # The values are the parameters' own gradients, sparse ones included.
    again = gradient_norms(named)
    assert float(again.total) == pytest.approx(float(after.norm()), rel=1e-5)


def test_no_gradients_have_norm_zero() -> None:
    assert float(gradient_norms([]).total) == 0.0
