"""Interactions inside the ranker: what they receive, where their output goes, and who may register."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from torch import Tensor, nn

from ctr_pipeline.features.layout import IdColumn, Layout, NumericColumn
from ctr_pipeline.ranker import Ranker, RankerError, build_ranker, load_ranker, save_ranker
from ctr_pipeline.ranker.interactions import register_interaction
from ctr_pipeline.ranker.shapes import FieldGroup, InputShape, RankerInputs
from ctr_pipeline.spec.extensions import load_extensions
from ctr_pipeline.spec.interactions import InteractionSection
from ctr_pipeline.spec.model import Model

MACHINE = {"kind": "factorisation_machine"}


class Everything(nn.Module):
    """Gives back all that it receives, with weights of its own."""

    def __init__(self, shape: InputShape) -> None:
        super().__init__()
        self.shape = shape
        self.out_width = shape.numbers + shape.embedded_width
        self.scale = nn.Parameter(torch.ones(self.out_width))

    def forward(self, numbers: Tensor, fields: tuple[Tensor, ...]) -> Tensor:
        return self.scale * torch.cat([numbers, *(group.flatten(1) for group in fields)], dim=1)


class Mixed(InteractionSection):
    kind: Literal["mixed_for_test"] = "mixed_for_test"
    width: int = Field(default=3, gt=0)


class MixedNumbers(nn.Module):
    def __init__(self, shape: InputShape, section: Mixed) -> None:
        super().__init__()
        self.out_width = section.width
        self.mix = nn.Linear(shape.numbers, section.width)

    def forward(self, numbers: Tensor, _fields: tuple[Tensor, ...]) -> Tensor:
        return self.mix(numbers)


class Wrong(nn.Module):
    out_width = 2

    def __init__(self, _shape: InputShape) -> None:
        super().__init__()

    def forward(self, numbers: Tensor, _fields: tuple[Tensor, ...]) -> Tensor:
        return torch.zeros((numbers.shape[0], 3))


class OfAllRows(Wrong):
    def forward(self, _numbers: Tensor, _fields: tuple[Tensor, ...]) -> Tensor:
        return torch.zeros((1, 2))


class Endless(Wrong):
    out_width = 0


register_interaction("everything_for_test", Everything)
register_interaction("mixed_for_test", MixedNumbers, Mixed)
register_interaction("wrong_for_test", Wrong)
register_interaction("of_all_rows_for_test", OfAllRows)
register_interaction("endless_for_test", Endless)
register_interaction("no_module_for_test", lambda _: 3)  # type: ignore[arg-type, return-value]


def model(*interactions: dict) -> Model:
    return Model.model_validate({"embedding_dim": 4, "hidden": [16, 8], "interactions": list(interactions)})


def tower_of(ranker: Ranker, inputs: RankerInputs) -> Tensor:
    return ranker.tower(inputs.numbers, inputs.embedded)


def a_layout(numbers: int, dims: list[int]) -> Layout:
    return Layout(
        numeric=tuple(NumericColumn(f"n{i}", "dense", "none", 0.0, i % 2 == 0, 0.0, 1.0) for i in range(numbers)),
        ids=tuple(IdColumn(f"c{i}", "categorical", 5 + i, dim) for i, dim in enumerate(dims)),
        tasks=("click",),
        parents=(-1,),
    )


def rows_of(layout: Layout, rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    ids = [torch.randint(0, column.rows, (rows, 1), generator=generator) for column in layout.ids]
    numbers = torch.randn((rows, len(layout.numeric)), generator=generator)
    return numbers, torch.cat([*ids, torch.zeros((rows, 0), dtype=torch.int64)], dim=1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3), st.lists(st.sampled_from([1, 2, 4]), max_size=5), st.integers(0, 4))
def test_an_interaction_receives_numbers_and_fields_apart(numbers: int, dims: list[int], rows: int) -> None:
    layout = a_layout(numbers, dims)
    if not numbers and not dims:
        return
    ranker = build_ranker(layout, model({"kind": "everything_for_test"}), 0).eval()
    shape = ranker.interactions["everything_for_test_0"].shape
    assert shape.numbers == numbers + (numbers + 1) // 2
    assert [(group.width, group.columns) for group in shape.groups] == [
        (width, tuple(f"c{i}" for i, dim in enumerate(dims) if dim == width)) for width in sorted(set(dims))
    ]
    inputs = ranker.encode(*rows_of(layout, rows))
    assert inputs.numbers.shape == (rows, shape.numbers)
    assert [group.shape for group in inputs.fields] == [(rows, len(g.columns), g.width) for g in shape.groups]
    assert inputs.embedded.shape == (rows, shape.embedded_width)
    hidden = ranker.hidden(inputs)
    assert torch.equal(hidden, torch.cat([tower_of(ranker, inputs), inputs.numbers, inputs.embedded], dim=1))
    assert ranker(*rows_of(layout, rows)).shape == (rows, 1)


def test_each_field_is_the_embedding_of_its_column(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = build_ranker(layout, model(), 0).eval()
    assert ranker.shape.groups == (FieldGroup(2, ("device",)), FieldGroup(4, ("ad", "query")))
    narrow, broad = ranker.encode(*batch).fields
    ids = batch[1].long()
    weights = [ranker.get_parameter(f"embeddings.tables.width_{width}.table.weight") for width in (2, 4)]
    assert torch.equal(narrow[:, 0], weights[0][ids[:, 1]])
    assert torch.equal(broad[:, 0], weights[1][ids[:, 0]])
    assert torch.equal(broad[:, 1], weights[1][11 + ids[:, 2]])


def test_without_interactions_the_ranker_is_what_it_was(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    plain = build_ranker(layout, model(), 0).eval()
    assert list(plain.state_dict()) == [
        "numeric.fill", "numeric.mean", "numeric.std", "numeric.takes_log", "numeric.indicated",
        "embeddings.tables.width_2.table.weight", "embeddings.tables.width_4.table.weight",
        "wide.rows.table.weight", "wide.numbers.weight",
        "tower.0.linear.weight", "tower.0.linear.bias", "tower.0.norm.weight", "tower.0.norm.bias",
        "tower.1.linear.weight", "tower.1.linear.bias", "tower.1.norm.weight", "tower.1.norm.bias",
        "head.weight", "head.bias",
    ]  # fmt: skip
    inputs = plain.encode(*batch)
    assert torch.equal(plain.hidden(inputs), tower_of(plain, inputs))
    assert plain.head.in_features == 8
    # Neither do a job's identity, a spec's hash and a bundle know of them.
    assert "interactions" not in model().model_dump()


def test_an_interaction_leaves_the_weights_of_the_others_as_they_were(layout: Layout) -> None:
    plain = build_ranker(layout, model(), 0).state_dict()
    mixed = build_ranker(layout, model({"kind": "mixed_for_test"}, {"kind": "mixed_for_test", "width": 2}), 0)
    added = {name: tuple(value.shape) for name, value in mixed.state_dict().items() if name not in plain}
    assert added == {
        "interactions.mixed_for_test_0.mix.weight": (3, 3),
        "interactions.mixed_for_test_0.mix.bias": (3,),
        "interactions.mixed_for_test_1.mix.weight": (2, 3),
        "interactions.mixed_for_test_1.mix.bias": (2,),
    }
    state = mixed.state_dict()
    assert all(torch.equal(state[name], plain[name]) for name in plain if not name.startswith("head."))
    assert state["head.weight"].shape == (3, 8 + 3 + 2)


def test_heads_read_tower_and_interactions(batch: tuple[Tensor, Tensor]) -> None:
    layout = a_layout(2, [4, 4, 4])
    ranker = build_ranker(layout, model(MACHINE, {"kind": "mixed_for_test"}), 0).eval()
    numeric, ids = batch
    numeric = torch.nan_to_num(numeric)
    ids = ids.remainder(5)
    inputs = ranker.encode(numeric, ids)
    products = sum((inputs.fields[0][:, i] * inputs.fields[0][:, j]).sum(1) for i, j in ((0, 1), (0, 2), (1, 2)))
    expected = torch.cat(
        [tower_of(ranker, inputs), products[:, None], ranker.interactions["mixed_for_test_1"].mix(inputs.numbers)], 1
    )
    torch.testing.assert_close(ranker(numeric, ids), ranker.head(expected) + inputs.wide)


def test_wrong_batches_are_refused(layout: Layout, batch: tuple[Tensor, Tensor]) -> None:
    ranker = build_ranker(layout, model(), 0)
    numeric, ids = batch
    with pytest.raises(RankerError, match=r"numbers of the batch: shape \[9, 1\] found, \[B, 2\] expected"):
        ranker(numeric[:, :1], ids)
    with pytest.raises(RankerError, match=r"ids of the batch: shape \[9, 4\] found, \[B, 3\] expected"):
        ranker(numeric, torch.cat([ids, ids[:, :1]], dim=1))


def test_interactions_that_do_not_keep_to_the_protocol_are_refused(
    layout: Layout, batch: tuple[Tensor, Tensor]
) -> None:
    wrong = build_ranker(layout, model({"kind": "wrong_for_test"}), 0)
    with pytest.raises(RankerError, match=r"wrong_for_test_0: shape \[9, 3\] found, \[9, 2\] expected"):
        wrong(*batch)
    collapsed = build_ranker(layout, model({"kind": "of_all_rows_for_test"}), 0)
    with pytest.raises(RankerError, match=r"of_all_rows_for_test_0: shape \[1, 2\] found, \[9, 2\] expected"):
        collapsed(*batch)
    with pytest.raises(RankerError, match="Endless: an `out_width` of at least 1 expected, found 0"):
        build_ranker(layout, model({"kind": "endless_for_test"}), 0)
    with pytest.raises(RankerError, match=r"'no_module_for_test': a torch\.nn\.Module expected, found a int"):
        build_ranker(layout, model({"kind": "no_module_for_test"}), 0)


def test_widths_that_do_not_suit_are_refused_with_the_names_of_the_columns(layout: Layout) -> None:
    with pytest.raises(RankerError, match="they differ: 2 for device; 4 for ad, query"):
        build_ranker(layout, model(MACHINE), 0)


def test_a_kind_that_is_not_registered_here_is_refused(layout: Layout) -> None:
    class Elsewhere(InteractionSection):
        kind: Literal["elsewhere"] = "elsewhere"

    section = Model(interactions=[Elsewhere()])
    with pytest.raises(RankerError, match=r"'elsewhere'; registered: .*factorisation_machine.*Install the package"):
        build_ranker(layout, section, 0)


def test_stored_weights_come_back(layout: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    section = model({"kind": "mixed_for_test"}, {"kind": "everything_for_test"})
    ranker = build_ranker(layout, section, 1)
    save_ranker(tmp_path / "model.pt", ranker, layout)
    again = Model.model_validate_json(section.model_dump_json())
    assert torch.equal(load_ranker(tmp_path / "model.pt", layout, again)(*batch), ranker.eval()(*batch))
    with pytest.raises(RankerError, match="does not fit the model section of the spec"):
        load_ranker(tmp_path / "model.pt", layout, model())


def test_registering_needs_no_torch() -> None:
    script = "import sys, ctr_pipeline.ranker.interactions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


EXTENSION = """
import torch
from torch import nn
from ctr_pipeline.ranker.interactions import register_interaction

class LargestNumber(nn.Module):
    out_width = 1
    def __init__(self, shape):
        super().__init__()
    def forward(self, numbers, fields):
        return numbers.amax(dim=1, keepdim=True)

register_interaction("largest_number", LargestNumber)
"""


def test_an_installed_extension_adds_one(
    layout: Layout, batch: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more_interactions.py").write_text(EXTENSION)
    installed = tmp_path / "more_interactions-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: more-interactions\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[ctr_pipeline.extensions]\nmore = more_interactions\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_extensions()
    ranker = build_ranker(layout, model({"kind": "largest_number"}), 0).eval()
    inputs = ranker.encode(*batch)
    assert torch.equal(ranker.hidden(inputs)[:, 8], inputs.numbers.max(dim=1).values)
