"""Initial weights: their sizes, and that those of one part do not depend on the others."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ctr_pipeline.features.layout import IdColumn, Layout
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.ranker.initialisation import starting_at_zero
from ctr_pipeline.spec.model import Model

MODEL = Model(hidden=[64, 32], embedding_dim=4)


def embedding(ranker: Ranker, layout: Layout, name: str) -> torch.Tensor:
    """The rows of one feature."""
    index = [column.name for column in layout.ids].index(name)
    table = ranker.embeddings.tables[f"width_{layout.ids[index].dim}"]
    start = dict(table.owned())[index]  # type: ignore[operator]
    rows: torch.Tensor = table.table.weight[start : start + layout.ids[index].rows]  # type: ignore[union-attr, index]
    return rows.detach()


@pytest.mark.parametrize("width", [1, 4, 64])
def test_a_new_embedding_is_as_long_whatever_its_width(width: int) -> None:
    layout = Layout((), (IdColumn("ad", "categorical", 4000, width),), ("click",), (-1,))
    found = embedding(build_ranker(layout, MODEL, 0), layout, "ad")
    assert float(found.square().sum(dim=1).mean()) == pytest.approx(0.04**2, rel=0.1)
    assert float(found.mean()) == pytest.approx(0, abs=5 * 0.04 / (4000 * width) ** 0.5)


def test_hidden_layers_keep_the_size_of_what_they_read(layout: Layout) -> None:
    first, second = build_ranker(layout, Model(hidden=[2000, 1500]), 0).tower.linears
    assert float(second.weight.detach().var()) == pytest.approx(2 / 2000, rel=0.01)
    assert float(second.weight.detach().mean()) == pytest.approx(0, abs=1e-4)
    assert not first.bias.any()
    assert not second.bias.any()


def test_one_part_does_not_depend_on_the_others(layout: Layout) -> None:
    plain = build_ranker(layout, MODEL, 3)
    others = [
        (layout, MODEL.model_copy(update={"wide": False, "hidden": [64]})),
        (replace(layout, ids=(IdColumn("new", "categorical", 9, 4), *layout.ids[1:], layout.ids[0])), MODEL),
        (replace(layout, numeric=layout.numeric[:1]), MODEL),
    ]
    for changed, model in others:
        ranker = build_ranker(changed, model, 3)
        for column in layout.ids:
            assert torch.equal(embedding(plain, layout, column.name), embedding(ranker, changed, column.name)), (
                column.name
            )
        if len(model.hidden) == 2:
            assert torch.equal(plain.tower.linears[1].weight, ranker.tower.linears[1].weight)
            assert torch.equal(plain.head.weight, ranker.head.weight)
    assert not torch.equal(embedding(plain, layout, "ad"), embedding(build_ranker(layout, MODEL, 4), layout, "ad"))


@pytest.mark.parametrize("heads", ["chain", "independent"])
@pytest.mark.parametrize("hidden", [[], [256, 128]])
def test_an_untrained_model_predicts_each_tasks_rate(layout: Layout, heads: str, hidden: list[int]) -> None:
    ranker = build_ranker(layout, Model(heads=heads, hidden=hidden), 1).eval()
    rates = [0.2, 0.02, 0.001]
    ranker.start_from_rates(rates)
    generator = torch.Generator().manual_seed(0)
    numeric = torch.randn((2000, 2), generator=generator) * 3
    ids = torch.stack([torch.randint(0, column.rows, (2000,), generator=generator) for column in layout.ids], dim=1)
    with torch.no_grad():
        found = torch.sigmoid(ranker(numeric, ids)).mean(dim=0).tolist()
    assert found == pytest.approx(rates, rel=0.2)


ZEROS: list[dict] = [
    {"multi_task": {"kind": "mmoe", "gate_on": "parent"}},
    {"multi_task": {"kind": "ple", "levels": 2}},
    {"multi_task": "aitm"},
    {"hidden_gates": True},
    {"interactions": ["feature_gates", "residual_perceptron"]},
    {"branches": [{"name": "a"}, {"name": "b"}], "fusion": {"kind": "gated"}},
]


@pytest.mark.parametrize("section", ZEROS, ids=[" ".join(section) for section in ZEROS])
def test_layers_that_start_with_zeros_are_known(layout: Layout, section: dict) -> None:
    ranker = build_ranker(layout, Model.model_validate({"hidden": [8], **section}), 1)
    found = {
        path
        for path, module in ranker.named_modules()
        if isinstance(module, nn.Linear) and module.weight.numel() and not bool(module.weight.any())
    }
    assert {path for path in found if not path.startswith(("wide", "position"))} == set(starting_at_zero(ranker))
