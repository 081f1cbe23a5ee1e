"""Lists in the ranker: what pooling gives, what it may not depend on, and which rows have a gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn, Pooled
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.spec.model import Model

LENGTH = 4
LISTS = [[2, 3, 2], [], [0], [1], [5, 4, 3, 2], [6]]


def a_layout(pooling: str, length: int = LENGTH) -> Layout:
    return Layout(
        numeric=(NumericColumn("price", "dense", "none", 0.0, True, 0.0, 1.0),),
        ids=(
            IdColumn("ad", "categorical", 6, 3),
            IdColumn("past", "categorical", 7, 3, Pooled(length, pooling, "last")),  # type: ignore[arg-type]
            IdColumn("tags", "categorical", 5, 2, Pooled(2, "sum", "last")),
            IdColumn("hour", "contextual", 4, 3),
        ),
        tasks=("click", "buy"),
        parents=(-1, 0),
    )


def a_ranker(layout: Layout, wide: bool = True) -> Ranker:
    ranker = build_ranker(layout, Model(hidden=[8], embedding_dim=3, wide=wide), 3)
    with torch.no_grad():
        for name, table in ranker.named_parameters():
            if name.endswith("table.weight"):
                # Large enough to be seen; the row of zeros stays.
                table[:-1] = torch.randn(table[:-1].shape, generator=torch.Generator().manual_seed(1))
    return ranker.eval()


def ids(length: int = LENGTH) -> torch.Tensor:
    rows = [[n % 6, *past, *[-1] * (length - len(past)), *([2, -1] if n % 2 else [-1, -1]), n % 4] for n, past in enumerate(LISTS)]  # fmt: skip
    return torch.tensor(rows, dtype=torch.int64)


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_pooled_embeddings_are_those_of_the_values(pooling: str) -> None:
    ranker = a_ranker(a_layout(pooling))
    found = ranker.embeddings(ids()).groups[1].detach().numpy()
    table = ranker.get_parameter("embeddings.tables.width_3.table.weight").detach().numpy()
    ad, past, hour = table[:6], table[6:13], table[13:17]
    for row, values in enumerate(LISTS):
        combined = {"mean": np.mean, "sum": np.sum, "max": np.max}[pooling]
        expected = combined(past[values], axis=0) if values else np.zeros(3)
        np.testing.assert_allclose(found[row], [ad[row % 6], expected, hour[row % 4]], rtol=1e-6, atol=1e-7)
    # Empty, missing and unknown are three things.
    assert len({tuple(vector) for vector in found[1:4, 1]}) == 3


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
@pytest.mark.parametrize("wide", [True, False])
def test_scores_do_not_depend_on_padding_or_order(pooling: str, wide: bool) -> None:
    numbers = torch.zeros(len(LISTS), 1)
    short, long = a_ranker(a_layout(pooling), wide), a_ranker(a_layout(pooling, 40), wide)
    expected = short(numbers, ids())
    assert torch.allclose(long(numbers, ids(40)), expected, atol=1e-6)
    turned = ids()
    turned[4, 1:5] = turned[4, 1:5].flip(0)
    assert torch.allclose(short(numbers, turned), expected, atol=1e-6)
    alone = torch.cat([short(numbers[n : n + 1], ids()[n : n + 1]) for n in range(len(LISTS))])
    assert torch.allclose(alone, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_only_rows_that_are_there_have_a_gradient(pooling: str) -> None:
    ranker = a_ranker(a_layout(pooling)).train()
    ranker(torch.zeros(6, 1), ids()).sum().backward()
    gradient = ranker.get_parameter("embeddings.tables.width_3.table.weight").grad
    assert gradient is not None
    touched = set(gradient.coalesce().indices()[0].tolist())
    assert touched == {*range(6), *(6 + row for row in (0, 1, 2, 3, 4, 5, 6)), *range(13, 17)}
    table = ranker.get_submodule("embeddings.tables.width_3")
    assert torch.equal(table.table.weight[-1], torch.zeros(3))  # type: ignore[union-attr, index]
    ranker.zero_grad()
    few = ids()[1:2].repeat(2, 1)
    ranker(torch.zeros(2, 1), few).sum().backward()
    gradient = ranker.get_parameter("embeddings.tables.width_3.table.weight").grad
    assert gradient is not None
    assert set(gradient.coalesce().indices()[0].tolist()) == {1, 13 + 1}
    assert torch.isfinite(gradient.coalesce().values()).all()


def test_rows_are_located_in_their_feature() -> None:
    table = a_ranker(a_layout("mean")).get_submodule("embeddings.tables.width_3")
    assert [table.locate(row) for row in (0, 5, 6, 12, 13, 16)] == [(0, 0), (0, 5), (1, 0), (1, 6), (3, 0), (3, 3)]  # type: ignore[operator]


def test_a_layout_without_lists_has_no_row_of_zeros() -> None:
    plain = replace(a_layout("mean"), ids=a_layout("mean").ids[::3])
    assert build_ranker(plain, Model(hidden=[8], embedding_dim=3), 0).embeddings.tables["width_3"].table.num_embeddings == 10  # type: ignore[union-attr]  # fmt: skip
