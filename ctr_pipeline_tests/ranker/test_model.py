from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from ctr_pipeline.features.layout import IdColumn, Layout
from ctr_pipeline.ranker import RankerError, build_ranker, load_ranker, save_ranker
from ctr_pipeline.spec.model import Model

MODEL = Model(embedding_dim=4, hidden=[16, 8], dropout=0.3, embedding_dropout=0.2)


def test_the_seed_alone_decides_the_weights(layout: Layout) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_ranker(layout, MODEL, 4).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = build_ranker(layout, MODEL, 4).state_dict()
    other = build_ranker(layout, MODEL, 5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_rows_do_not_influence_each_other(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = build_ranker(layout, MODEL, 0).eval()
    numeric, ids = batch
    numeric = torch.nan_to_num(numeric).requires_grad_()
    ranker(numeric, ids)[0].sum().backward()
    assert numeric.grad is not None
    assert numeric.grad[0].abs().sum() > 0
    assert torch.count_nonzero(numeric.grad[1:]) == 0


@pytest.mark.parametrize("normalisation", ["layer", "none"])
def test_a_row_scores_the_same_alone(layout: Layout, batch: tuple[Tensor, Tensor], normalisation: str) -> None:
    ranker = build_ranker(layout, MODEL.model_copy(update={"normalisation": normalisation}), 0).eval()
    numeric, ids = batch
    together = ranker(numeric, ids)
    alone = torch.cat([ranker(numeric[i : i + 1], ids[i : i + 1]) for i in range(len(ids))])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)


def test_every_feature_reaches_the_logits(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = build_ranker(layout, MODEL, 0).eval()
    numeric, ids = batch
    base = ranker(numeric, ids)
    for column, id_column in enumerate(layout.ids):
        changed = ids.clone()
        changed[:, column] = (changed[:, column] + 1) % id_column.rows
        assert (ranker(numeric, changed) - base).abs().min() > 0
    for column in range(len(layout.numeric)):
        changed_numbers = torch.nan_to_num(numeric)
        changed_numbers[:, column] += 1
        assert (ranker(changed_numbers, ids) - ranker(torch.nan_to_num(numeric), ids)).abs().max() > 0


def test_missing_and_unknown_rows_are_rows_of_their_own(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = build_ranker(layout, MODEL, 0)
    numeric, ids = batch
    ids[:, 0] = torch.arange(9) % 2
    ranker(numeric, ids).sum().backward()
    table = ranker.get_parameter("embeddings.tables.width_4.table.weight")
    assert table.grad is not None
    assert {0, 1} <= set(table.grad.coalesce().indices()[0].tolist())


def test_embedding_dropout_drops_whole_vectors(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = build_ranker(layout, MODEL.model_copy(update={"embedding_dropout": 0.5}), 0)
    torch.manual_seed(0)
    kept = ranker.embeddings(batch[1])
    ranker.eval()
    full = ranker.embeddings(batch[1])
    assert [group.shape for group in kept.groups] == [(9, 1, 2), (9, 2, 4)]
    assert torch.equal(kept.flat, torch.cat([group.flatten(1) for group in kept.groups], dim=1))
    for dropped, whole in zip(kept.groups, full.groups, strict=True):
        assert torch.equal(dropped != 0, (dropped / whole).round() == 2)
        assert torch.count_nonzero(dropped.ne(0).sum(2) % dropped.shape[2]) == 0
        assert 0 < torch.count_nonzero(dropped) < dropped.numel()


def test_start_from_rates_predicts_the_rates(layout: Layout) -> None:
    ranker = build_ranker(layout, MODEL, 0).eval()
    with torch.no_grad():
        ranker.head.weight.zero_()
        assert ranker.wide is not None
        assert ranker.wide.numbers is not None
        ranker.wide.numbers.weight.zero_()
    ranker.start_from_rates([0.2, 0.05, 0.01])
    probabilities = torch.sigmoid(ranker(torch.zeros((1, 2)), torch.zeros((1, 3), dtype=torch.int64)))
    torch.testing.assert_close(probabilities, torch.tensor([[0.2, 0.05, 0.01]]))
    ranker.start_from_rates([0.0, 0.0, 1.0])
    assert ranker.head.bias.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("section", [{}, {"heads": "independent", "normalisation": "none", "residual": True}])
def test_exports_with_a_dynamic_batch(
    layout: Layout, batch: tuple[Tensor, Tensor], wide: bool, section: dict, tmp_path: Path
) -> None:
    ranker = build_ranker(layout, Model(embedding_dim=4, hidden=[8, 8], wide=wide, **section), 0).eval()
    with torch.no_grad():
        ranker.head.weight.mul_(10)  # an untrained model scores all rows alike
    size = torch.export.Dim("batch", min=1)
    dynamic = ({0: size}, {0: size})
    program = torch.export.export(ranker, batch, dynamic_shapes=dynamic, strict=False)
    one = (batch[0][:1], batch[1][:1])
    torch.testing.assert_close(program.module()(*one), ranker(*one))
    path = tmp_path / "model.onnx"
    torch.onnx.export(ranker, batch, path, dynamo=True, opset_version=20, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    for rows in (1, 9):
        numeric, ids = batch[0][:rows], batch[1][:rows]
        (found,) = session.run(None, dict(zip(names, (numeric.numpy(), ids.numpy()), strict=True)))
        np.testing.assert_allclose(found, ranker(numeric, ids).detach().numpy(), atol=1e-5)


def test_stored_weights_come_back(layout: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    ranker = build_ranker(layout, MODEL, 0)
    digest = save_ranker(tmp_path / "model.pt", ranker, layout)
    again = save_ranker(tmp_path / "other" / "model.pt", ranker, layout)
    assert digest == again
    loaded = load_ranker(tmp_path / "model.pt", layout, MODEL)
    assert not loaded.training
    assert torch.equal(loaded(*batch), ranker.eval()(*batch))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_other_layouts_and_models_are_refused(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(RankerError, match="train first"):
        load_ranker(path, layout, MODEL)
    save_ranker(path, build_ranker(layout, MODEL, 0), layout)
    with pytest.raises(RankerError, match="layout"):
        load_ranker(path, Layout(layout.numeric, layout.ids[:2], layout.tasks, layout.parents), MODEL)
    with pytest.raises(RankerError, match="model section"):
        load_ranker(path, layout, MODEL.model_copy(update={"hidden": [4]}))


def test_only_numbers_or_only_ids(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    numeric, ids = batch
    only_numbers = build_ranker(Layout(layout.numeric, (), ("click",), (-1,)), MODEL, 0)
    assert only_numbers(numeric, ids[:, :0]).shape == (9, 1)
    only_ids = build_ranker(Layout((), (IdColumn("ad", "categorical", 11, 4),), ("click",), (-1,)), MODEL, 0)
    assert only_ids(numeric[:, :0], ids[:, :1]).shape == (9, 1)
    with pytest.raises(RankerError, match="at least one feature"):
        build_ranker(Layout((), (), ("click",), (-1,)), MODEL, 0)
