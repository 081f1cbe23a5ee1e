"""How frequent an id is, as an input: its values, what it may not depend on, and that it is in the exported graph."""

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from ctr_pipeline.features.layout import Frequency, IdColumn, Layout, Pooled
from ctr_pipeline.ranker import Ranker, RankerError, build_ranker, load_ranker, save_ranker
from ctr_pipeline.ranker.frequency import FrequencyEncoder
from ctr_pipeline.spec.model import Model

MODEL = Model(embedding_dim=4, hidden=[16, 8])


@pytest.fixture
def frequent(layout: Layout) -> Layout:
    """The layout with the frequencies of two of its three ids."""
    ad, device, query = layout.ids
    return replace(
        layout, ids=(replace(ad, frequency=Frequency(1.2, 0.6)), device, replace(query, frequency=Frequency(0.5, 0.25)))
    )


def a_ranker(layout: Layout, model: Model = MODEL) -> Ranker:
    ranker = build_ranker(layout, model, 0).eval()
    with torch.no_grad():
        ranker.head.weight.mul_(10)  # an untrained model scores all rows alike
        if ranker.wide is not None and ranker.wide.numbers is not None:
            ranker.wide.numbers.weight.normal_(generator=torch.Generator().manual_seed(1))
    return ranker


def test_values_by_hand() -> None:
    """Of a list between them three columns of the array; row 1 is unknown, 0 missing, and the last has 4 values."""
    layout = Layout(
        (),
        (
            IdColumn("ad", "categorical", 6, 4, frequency=Frequency(1.0, 2.0)),
            IdColumn("tags", "categorical", 6, 4, Pooled(3, "mean", "last")),
            IdColumn("user", "categorical", 30, 4, frequency=Frequency(log(3), 1e-3)),
            IdColumn("empty", "categorical", 2, 4, frequency=Frequency(0.0, 1.0)),
        ),
        ("click",),
        (-1,),
    )
    rows = [[0, 2, -1, -1, 4, 1], [1, 2, 3, 4, 0, 1], [2, 0, -1, -1, 2, 0], [5, -1, -1, -1, 1, 1]]
    found = FrequencyEncoder(layout)(torch.tensor(rows, dtype=torch.int32))
    missing = 0.0
    expected = [
        [missing, 0.0, 0.0],
        [(log(5) - 1) / 2, missing, 0.0],
        [(log(1) - 1) / 2, -10.0, missing],
        [(log(4) - 1) / 2, 10.0, 0.0],
    ]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-6)


def test_it_is_the_last_of_the_numbers(layout: Layout, frequent: Layout, batch: tuple[Tensor, Tensor]) -> None:
    plain, ranker = build_ranker(layout, MODEL, 0), build_ranker(frequent, MODEL, 0)
    numbers = ranker.encode(*batch).numbers
    assert torch.equal(numbers[:, :-2], plain.encode(*batch).numbers)
    assert torch.equal(numbers[:, -2:], FrequencyEncoder(frequent)(batch[1]))
    # It is made of the layout, so a stored model has nothing more.
    assert plain.frequency is None
    assert plain.state_dict().keys() == ranker.state_dict().keys()
    assert ranker.wide is not None
    assert ranker.wide.numbers is not None
    assert ranker.wide.numbers.in_features == numbers.shape[1]
    for name, table in plain.embeddings.state_dict().items():
        assert torch.equal(table, ranker.embeddings.state_dict()[name])


def test_it_reaches_the_logits(frequent: Layout, batch: tuple[Tensor, Tensor]) -> None:
    """Of an id without an embedding nothing but its frequency is left: two ranks score differently, without it alike."""
    for layout, differ in ((frequent, True), (replace(frequent, ids=tuple(replace(c, frequency=None) for c in frequent.ids)), False)):  # fmt: skip
        ranker = a_ranker(layout)
        with torch.no_grad():
            for name, table in ranker.named_parameters():
                if name.endswith("table.weight"):
                    table.zero_()
        ids = batch[1].clone()
        ids[:, 0] = ids[:, 0] % 9 + 2
        other = ids.clone()
        other[:, 0] = 12 - other[:, 0]
        apart = (ranker(batch[0], ids) - ranker(batch[0], other)).abs().amax(dim=1)
        assert torch.equal(apart > 0, (ids != other).any(dim=1) & differ)


@pytest.mark.parametrize("wide", [True, False])
def test_a_row_scores_the_same_alone(frequent: Layout, batch: tuple[Tensor, Tensor], wide: bool) -> None:
    ranker = a_ranker(frequent, MODEL.model_copy(update={"wide": wide}))
    alone = torch.cat([ranker(batch[0][i : i + 1], batch[1][i : i + 1]) for i in range(9)])
    torch.testing.assert_close(alone, ranker(*batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("numbers", [True, False])
def test_it_is_in_the_exported_graph(frequent: Layout, batch: tuple[Tensor, Tensor], numbers: bool, tmp_path: Path) -> None:  # fmt: skip
    layout = frequent if numbers else replace(frequent, numeric=())
    ranker = a_ranker(layout)
    numeric, ids = batch[0][:, : len(layout.numeric)], batch[1]
    ids[:3, 0] = torch.tensor([0, 1, 10])
    dynamic = ({0: torch.export.Dim("batch", min=1)},) * 2
    path = tmp_path / "model.onnx"
    torch.onnx.export(ranker, (numeric, ids), path, dynamo=True, opset_version=20, dynamic_shapes=dynamic, verbose=False)  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    given = {value.name for value in session.get_inputs()}
    for rows in (1, 9):
        feed = {name: value[:rows].numpy() for name, value in (("numeric", numeric), ("ids", ids)) if name in given}
        (found,) = session.run(None, feed)
        expected = ranker(numeric[:rows], ids[:rows]).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.ptp(expected, axis=0).min() > 0.1


def test_stored_weights_belong_to_its_layout(layout: Layout, frequent: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:  # fmt: skip
    ranker = a_ranker(frequent)
    save_ranker(tmp_path / "model.pt", ranker, frequent)
    assert torch.equal(load_ranker(tmp_path / "model.pt", frequent, MODEL)(*batch), ranker(*batch))
    with pytest.raises(RankerError, match="another dataset layout"):
        load_ranker(tmp_path / "model.pt", layout, MODEL)
