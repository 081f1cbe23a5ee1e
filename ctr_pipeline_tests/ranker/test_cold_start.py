"""What a new id begins as: means by hand, a share that grows with evidence, and the same in training, export and storage."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctr_pipeline.features.layout import IdColumn, Layout, LayoutError, ParentMean, Pooled
from ctr_pipeline.ranker import Ranker, build_ranker, load_ranker, save_ranker
from ctr_pipeline.ranker.embeddings import Embeddings, FusedTable
from ctr_pipeline.spec.model import Model

MODEL = Model(embedding_dim=4, hidden=[16, 8])


@pytest.fixture
def cold(layout: Layout) -> Layout:
    """The layout, whose ads begin as the mean of their query's."""
    ad, device, query = layout.ids
    return replace(layout, ids=(replace(ad, cold_start=ParentMean("query", 3.0)), device, query))


def training_ids(rows: int = 200) -> np.ndarray:
    """Ids of the training rows; ad 10 is in none, query 6 has none but missing and unknown ads."""
    rng = np.random.default_rng(3)
    ids = np.stack([rng.integers(0, height, rows) for height in (10, 5, 6)], axis=1).astype(np.int32)
    ids[:4] = [[0, 0, 6], [1, 0, 6], [1, 1, 6], [2, 1, 1]]
    return ids


def a_ranker(layout: Layout, model: Model = MODEL, seed: int = 0) -> Ranker:
    ranker = build_ranker(layout, model, seed)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in ranker.modules():
            if isinstance(module, FusedTable):
                module.table.weight.normal_(generator=generator)
        ranker.head.weight.mul_(10)
    ranker.learn_counts(training_ids())
    return ranker


def by_hand(own: np.ndarray, ids: np.ndarray, asked: np.ndarray, evidence: float) -> np.ndarray:
    """The embeddings of (ad, parent) pairs, row by row of the training rows and without a vector operation over them."""
    overall = np.mean([own[ad] for ad, _ in ids if ad >= 2], axis=0)
    found = []
    for ad, parent in asked:
        of_parent = [own[other] for other, its in ids if its == parent and other >= 2]
        mean = (np.sum(of_parent, axis=0) + evidence * overall) / (len(of_parent) + evidence) if of_parent else overall
        n = sum(other == ad for other, _ in ids)
        share = 1.0 if ad == 0 else 0.0 if ad == 1 else n / (n + evidence)
        found.append(share * own[ad] + (1 - share) * (mean + own[1]))
    return np.array(found)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_embeddings_by_hand(data: st.DataObject) -> None:
    ads, parents = data.draw(st.integers(3, 7)), data.draw(st.integers(2, 5))
    rows = data.draw(st.lists(st.tuples(st.integers(0, ads - 1), st.integers(0, parents - 1)), min_size=1, max_size=30))
    evidence = data.draw(st.sampled_from([0.5, 3.0, 50.0]))
    pairs = np.array(rows, dtype=np.int32)
    if not (pairs[:, 0] >= 2).any():
        return
    columns = (
        IdColumn("tags", "categorical", 4, 3, Pooled(2, "mean", "last")),
        IdColumn("ad", "categorical", ads, 3, cold_start=ParentMean("shop", evidence)),
        IdColumn("shop", "categorical", parents, 2),
    )
    embeddings = Embeddings(columns, 0.0)
    table = embeddings.tables["width_3"]
    assert isinstance(table, FusedTable)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with torch.no_grad():
        table.table.weight[:-1] = torch.from_numpy(rng.normal(size=(4 + ads, 3)).astype(np.float32))
    own = table.table.weight.detach()[4 : 4 + ads].double().numpy()

    def array(of: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros((len(of), 2), dtype=np.int32), of.astype(np.int32)], axis=1)

    table.learn_counts(array(pairs))
    asked = np.array([(ad, parent) for ad in range(ads) for parent in range(parents)])
    found = embeddings(torch.from_numpy(array(asked))).groups[1][:, 1].detach().numpy()
    np.testing.assert_allclose(found, by_hand(own, pairs, asked, evidence), atol=1e-5)


def test_a_known_id_leaves_its_parent_as_rows_come(cold: Layout) -> None:
    ranker = a_ranker(cold)
    module = next(iter(ranker.embeddings.tables["width_4"].cold_starts.values()))
    counts = np.bincount(training_ids()[:, 0], minlength=11)
    np.testing.assert_allclose(module.share[2:].numpy(), (counts / (counts + 3.0))[2:], rtol=1e-6)
    assert module.share[:2].tolist() == [1.0, 0.0]


def test_the_wide_part_begins_new_ids_too(cold: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = a_ranker(cold)
    assert ranker.wide is not None
    assert isinstance(ranker.wide.rows, FusedTable)
    own = ranker.wide.rows.table.weight.detach()[:11].double().numpy()
    asked = batch[1][:, [0, 2]].numpy()
    expected = by_hand(own, training_ids()[:, [0, 2]], asked, 3.0)
    np.testing.assert_allclose(ranker.wide.rows(batch[1])[:, 0].detach().numpy(), expected, atol=1e-5)


def test_an_id_is_forgotten_by_the_whole_model(cold: Layout, batch: tuple[Tensor, Tensor]) -> None:
    """In training every row with all ids forgotten scores as with an unknown ad; what is learnt is the row of unknown ids."""
    model = MODEL.model_copy(update={"embedding_dropout": 0.999, "dropout": 0.0})
    ranker = a_ranker(cold, model).train()
    unknown = batch[1].clone()
    unknown[:, 0] = 1
    torch.manual_seed(0)
    known_score = ranker(*batch)
    torch.manual_seed(0)
    assert torch.equal(ranker(batch[0], unknown), known_score)
    known_score.sum().backward()
    for name in ("wide.rows.table.weight", "embeddings.tables.width_4.table.weight"):
        gradient = ranker.get_parameter(name).grad
        assert gradient is not None
        dense = gradient.to_dense()
        assert bool((dense[1] != 0).any())
        assert not bool(dense[2:11].any())


def test_in_training_a_forgotten_id_is_a_new_one(cold: Layout) -> None:
    embeddings = build_ranker(cold, MODEL.model_copy(update={"embedding_dropout": 0.5}), 0).embeddings
    table = embeddings.tables["width_4"]
    assert isinstance(table, FusedTable)
    with torch.no_grad():
        table.table.weight.normal_(generator=torch.Generator().manual_seed(2))
    table.learn_counts(training_ids())
    ids = torch.tensor([[4, 2, 3]] * 400, dtype=torch.int32)
    known, new = embeddings.eval()(ids).groups[1][0], embeddings(torch.tensor([[1, 2, 3]])).groups[1][0]
    torch.manual_seed(0)
    seen = embeddings.train()(ids).groups[1]
    is_known, is_new = (torch.isclose(seen[:, 0], of[0], atol=1e-6).all(dim=1) for of in (known, new))
    assert bool((is_known ^ is_new).all())
    assert 0.4 < float(is_new.float().mean()) < 0.6
    # The others are zeroed and scaled, as without a cold start.
    others = seen[:, 1]
    assert set(torch.isclose(others, 2 * known[1]).all(dim=1).tolist()) == {True, False}
    assert bool((torch.isclose(others, 2 * known[1]).all(dim=1) ^ (others == 0).all(dim=1)).all())


def test_without_a_cold_start_dropout_is_what_it_was(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    embeddings = build_ranker(layout, MODEL.model_copy(update={"embedding_dropout": 0.4}), 0).embeddings.train()
    torch.manual_seed(4)
    found = embeddings(batch[1]).flat
    torch.manual_seed(4)
    expected = []
    for table in embeddings.tables.values():
        vectors = table(batch[1])
        kept = torch.rand(vectors.shape[:2]) >= 0.4
        expected.append((vectors * (kept.float() / 0.6).unsqueeze(-1)).flatten(1))
    assert torch.equal(found, torch.cat(expected, dim=1))


def test_rows_score_alone_as_together_and_as_exported(
    cold: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    ranker = a_ranker(cold).eval()
    numeric, ids = batch
    ids[:3, 0] = torch.tensor([0, 1, 10])
    alone = torch.cat([ranker(numeric[i : i + 1], ids[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(alone, ranker(numeric, ids), atol=1e-5, rtol=0)
    path = tmp_path / "model.onnx"
    dynamic = ({0: torch.export.Dim("batch", min=1)},) * 2
    torch.onnx.export(ranker, (numeric, ids), path, dynamo=True, opset_version=20, dynamic_shapes=dynamic, verbose=False)  # fmt: skip
    (found,) = onnxruntime.InferenceSession(path).run(None, {"numeric": numeric.numpy(), "ids": ids.numpy()})
    np.testing.assert_allclose(found, ranker(numeric, ids).detach().numpy(), atol=1e-5, rtol=0)


def test_it_is_stored_with_the_weights(cold: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    ranker = a_ranker(cold).eval()
    save_ranker(tmp_path / "model.pt", ranker, cold)
    assert torch.equal(load_ranker(tmp_path / "model.pt", cold, MODEL)(*batch), ranker(*batch))


def test_layouts_keep_it_and_refuse_what_is_none(cold: Layout, layout: Layout) -> None:
    assert Layout.from_json(cold.to_json()) == cold
    assert "cold_start" not in layout.to_json()
    ad, *others = cold.ids
    for wrong in (ParentMean("ad", 3.0), ParentMean("shop", 3.0), ParentMean("query", 0.0)):
        with pytest.raises(LayoutError, match="ad: a cold start is that of one value"):
            replace(cold, ids=(replace(ad, cold_start=wrong), *others))
