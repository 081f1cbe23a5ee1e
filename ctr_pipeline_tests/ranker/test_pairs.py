"""Weights of combinations: each has its own, whatever the other pairs, in training and in the exported graph."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.adapters.parameters import feature_of
from ctr_pipeline.ranker import RankerError, build_ranker
from ctr_pipeline.ranker import pairs as module
from ctr_pipeline.ranker.pairs import PairWeights
from ctr_pipeline.spec.model import Model

PAIRS = [("device", "query"), ("ad", "device")]
MODEL = Model(embedding_dim=4, hidden=[8], pairs=PAIRS)


def test_each_combination_has_a_weight_of_its_own(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    weights = PairWeights(layout, PAIRS)
    assert weights.table.weight.shape == (5 * 7 + 11 * 5, 3)
    with torch.no_grad():
        weights.table.weight.normal_(generator=torch.Generator().manual_seed(0))
    table = weights.table.weight.detach().numpy()
    expected = [table[device * 7 + query] + table[35 + ad * 5 + device] for ad, device, query in batch[1].tolist()]
    np.testing.assert_allclose(weights(batch[1]).detach().numpy(), np.array(expected), rtol=1e-6)
    every = torch.cartesian_prod(torch.arange(11), torch.arange(5), torch.arange(7)).int()
    first = every[:, 1] * 7 + every[:, 2]
    assert {weights.locate(int(row)) for row in first} == {("device × query", row) for row in range(35)}
    assert weights.locate(35) == ("ad × device", 0)


def test_a_model_without_pairs_is_what_it_was(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    plain = build_ranker(layout, MODEL.model_copy(update={"pairs": []}), 0)
    paired = build_ranker(layout, MODEL, 0)
    assert plain.state_dict().keys() == paired.state_dict().keys() - {"wide.pairs.table.weight"}
    assert torch.equal(plain(*batch), paired(*batch))


def test_they_are_learnt_and_exported(layout: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    ranker = build_ranker(layout, MODEL, 0)
    ranker(*batch).sum().backward()
    gradient = ranker.get_parameter("wide.pairs.table.weight").grad
    assert gradient is not None
    assert gradient.is_sparse
    with torch.no_grad():
        ranker.get_parameter("wide.pairs.table.weight").normal_(generator=torch.Generator().manual_seed(0))
    ranker.eval()
    path = tmp_path / "model.onnx"
    dynamic = ({0: torch.export.Dim("batch", min=1)},) * 2
    torch.onnx.export(ranker, batch, path, dynamo=True, opset_version=20, dynamic_shapes=dynamic, verbose=False)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"numeric": batch[0].numpy(), "ids": batch[1].numpy()})
    np.testing.assert_allclose(found, ranker(*batch).detach().numpy(), atol=1e-5, rtol=0)
    assert feature_of(ranker, layout, "wide.pairs.table.weight", 36) == ("ad × device", 1)


def test_what_cannot_be_paired_is_refused(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RankerError, match=r"names 'shop', which is no category .*; use ad, device, query"):
        PairWeights(layout, [("ad", "shop")])
    monkeypatch.setattr(module, "MOST_ROWS", 80)
    with pytest.raises(RankerError, match="has 90 combinations, at most 80 expected; ad × device alone has 55"):
        PairWeights(layout, PAIRS)
