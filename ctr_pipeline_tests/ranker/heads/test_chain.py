import math
from unittest.mock import patch

import onnxruntime
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.ranker.heads.chain import chain_logits

logit = st.floats(min_value=-60, max_value=60, allow_nan=False)


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-15, 15)] * 4), min_size=1, max_size=5))
def test_probabilities_multiply_along_the_funnel(rows: list[tuple[float, ...]]) -> None:
    # Two branches: click → cart → checkout and click → call.
    logits = chain_logits(torch.tensor(rows, dtype=torch.float64), (-1, 0, 1, 0))
    for row, found in zip(rows, torch.sigmoid(logits).tolist(), strict=True):
        click, cart, checkout, call = (sigmoid(z) for z in row)
        expected = [click, click * cart, click * cart * checkout, click * call]
        for a, b in zip(found, expected, strict=True):
            assert math.isclose(a, b, rel_tol=1e-9)


@settings(deadline=None)
@given(st.tuples(logit, logit, logit))
def test_saturated_logits_stay_finite_with_bounded_gradients(row: tuple[float, ...]) -> None:
    conditional = torch.tensor([row], dtype=torch.float32, requires_grad=True)
    logits = chain_logits(conditional, (-1, 0, 1))
    assert torch.isfinite(logits).all()
    logits.sum().backward()
    assert conditional.grad is not None
    assert torch.isfinite(conditional.grad).all()
    assert conditional.grad.min() >= 0
    assert conditional.grad.max() <= 3 + 1e-5


def test_known_values_at_saturation() -> None:
    logits = chain_logits(torch.tensor([[60.0, 60.0], [-60.0, -60.0], [60.0, -60.0]]), (-1, 0))
    expected = torch.tensor([[60.0, 60.0 - math.log(2)], [-60.0, -120.0], [60.0, -60.0]])
    torch.testing.assert_close(logits, expected)


def test_independent_parents_are_passed_through() -> None:
    conditional = torch.randn(3, 2)
    assert torch.equal(chain_logits(conditional, (-1, -1)), conditional)


FUNNELS = [(-1, 0), (-1, 0, 1), (-1, 0, 1, 0), (-1, -1, 0, 2), (-1, 0, 1, 2), (-1, 0, 1, 2, 3)]


@settings(deadline=None)
@given(st.sampled_from(FUNNELS), st.lists(st.lists(logit, min_size=5, max_size=5), min_size=1, max_size=5))
def test_what_is_exported_computes_the_same(parents: tuple[int, ...], rows: list[list[float]]) -> None:
    conditional = torch.tensor(rows, dtype=torch.float64)[:, : len(parents)]
    with patch.object(torch.compiler, "is_exporting", lambda: True):
        exported = chain_logits(conditional, parents)
    torch.testing.assert_close(exported, chain_logits(conditional, parents), rtol=1e-9, atol=1e-9)


def test_the_runtime_computes_the_same_of_saturated_logits() -> None:
    class Funnel(torch.nn.Module):
        def forward(self, conditional: torch.Tensor) -> torch.Tensor:
            return chain_logits(conditional, (-1, 0, 1, 0))

    steps = [-300.0, -60.0, -1.0, 0.0, 2.5, 60.0, 300.0]
    rows = torch.tensor([[a, b, c, -b] for a in steps for b in steps for c in steps])
    program = torch.onnx.export(Funnel(), (rows,), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    [found] = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), chain_logits(rows, (-1, 0, 1, 0)))
