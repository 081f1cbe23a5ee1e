"""Sequences inside the ranker: which columns they read, the embeddings that they share, and who may register one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ctr_pipeline.features.layout import EventList, IdColumn, Layout, NumericColumn, Pooled
from ctr_pipeline.gradients.adapters.table_rows import rows_read
from ctr_pipeline.ranker import Ranker, RankerError, build_ranker, load_ranker, save_ranker
from ctr_pipeline.ranker.embeddings import FusedTable
from ctr_pipeline.ranker.sequence import register_sequence
from ctr_pipeline.ranker.sequence.event_encoding import OLDEST
from ctr_pipeline.ranker.shapes import Events, EventShape
from ctr_pipeline.spec.model import Model

LENGTH = 3
OWN, OWN_IDS = 2, 3 + 2
TABLE = "embeddings.tables.width_4.table.weight"


class Everything(nn.Module):
    """Gives back what it reads, and keeps it."""

    out_width = 1

    def __init__(self, shape: EventShape) -> None:
        super().__init__()
        self.shape = shape
        self.read: list[tuple[Events, Tensor]] = []

    def forward(self, events: Events, target: Tensor) -> Tensor:
        self.read.append((events, target))
        return events.items.sum(dim=(1, 2)).view(-1, 1, 1) + 0 * target[:, :, :1]


class Wrong(Everything):
    def forward(self, events: Events, target: Tensor) -> Tensor:
        return super().forward(events, target).expand(-1, -1, 2)


register_sequence("everything_for_test", Everything)
register_sequence("wrong_for_test", Wrong)


@pytest.fixture
def listed(layout: Layout) -> Layout:
    """The layout with the ads that a user liked most, and their last events."""
    age = [NumericColumn(f"recent_age[{place}]", "history", "none", 0.0, False, 0.0, 1.0) for place in range(LENGTH)]
    ad = layout.ids[0]
    more = (
        IdColumn("liked", "history", ad.rows, ad.dim, Pooled(2, "mean", "first"), table="ad"),
        IdColumn("recent", "history", ad.rows, ad.dim, Pooled(LENGTH, "mean", "first"), table="ad"),
        IdColumn("recent_event", "history", 4, ad.dim, Pooled(LENGTH, "mean", "first")),
    )
    return replace(
        layout, numeric=(*layout.numeric, *age), ids=(*layout.ids, *more),
        event_lists=(EventList("recent", "ad", "recent_event", "recent_age", LENGTH),),
    )  # fmt: skip


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    """Three rows: two events, none, and one whose age and item are missing."""
    nan = float("nan")
    numeric = torch.tensor([[1.0, 2.0, 60.0, 3600.0, nan], [3.0, 1.0, nan, nan, nan], [nan, 1.0, nan, nan, nan]])
    ids = torch.tensor(
        [[5, 1, 2, 7, -1, 6, 9, -1, 2, 3, -1], [4, 0, 6, -1, -1, -1, -1, -1, -1, -1, -1], [10, 4, 0, 2, 3, 0, -1, -1, 1, -1, -1]],
        dtype=torch.int32,
    )  # fmt: skip
    return numeric, ids


def a_ranker(layout: Layout, *kinds: str, **model: object) -> Ranker:
    return build_ranker(layout, Model.model_validate({"hidden": [8], "sequences": list(kinds), **model}), 4)


def test_a_module_reads_the_events_and_the_candidate(listed: Layout, rows: tuple[Tensor, Tensor]) -> None:
    ranker = a_ranker(listed, "everything_for_test")
    module = ranker.get_submodule("sequences.modules_by_kind.everything_for_test_0")
    assert isinstance(module, Everything)
    assert module.shape == EventShape(LENGTH, 4, 4)
    ranker(*rows)
    ((events, target),) = module.read
    table = ranker.get_parameter(TABLE)
    start = dict(ranker.embeddings.tables["width_4"].owned())[0]  # type: ignore[operator]
    assert torch.equal(events.items[0, :2], table[start + torch.tensor([6, 9])])
    assert torch.equal(events.items[2, 0], table[start + 0])
    assert not bool(events.items[~events.there].any())
    assert events.there.tolist() == [[True, True, False], [False] * 3, [True, False, False]]
    assert events.kinds is not None
    assert events.kinds.tolist() == [[2, 3, 0], [0, 0, 0], [1, 0, 0]]
    assert events.ages.tolist() == [[60.0, 3600.0, 0.0], [0.0] * 3, [OLDEST, 0.0, 0.0]]
    assert torch.equal(target[:, 0], table[start + torch.tensor([5, 4, 10])])


def test_nothing_else_reads_the_columns_of_events(listed: Layout, rows: tuple[Tensor, Tensor]) -> None:
    ranker = a_ranker(listed, "everything_for_test")
    numeric, ids = rows
    inputs = ranker.encode(numeric, ids)
    other, others = numeric.clone(), ids.clone()
    other[:, OWN:], others[:, OWN_IDS:] = 5.0, 2
    changed = ranker.encode(other, others)
    assert torch.equal(inputs.numbers, changed.numbers)
    assert torch.equal(inputs.embedded, changed.embedded)
    assert isinstance(inputs.wide, Tensor)
    assert torch.equal(inputs.wide, torch.as_tensor(changed.wide))
    assert not torch.equal(inputs.events[0].items, changed.events[0].items)


def test_shared_embeddings_are_one_table_and_learn_from_both(listed: Layout, rows: tuple[Tensor, Tensor]) -> None:
    ranker = a_ranker(listed, "everything_for_test", wide=False)
    fused = ranker.embeddings.tables["width_4"]
    assert isinstance(fused, FusedTable)
    # Ads, queries and the row of zeros: what was liked and what was seen has no rows of its own.
    assert fused.table.num_embeddings == 11 + 7 + 1
    with torch.no_grad():
        ranker.head.weight.fill_(1.0)
    ranker(*rows).sum().backward()
    gradient = fused.table.weight.grad
    assert gradient is not None
    read = set(gradient.coalesce().indices()[0].tolist())
    # Candidates, liked ones, seen ones, queries; no gradient for the row of zeros.
    assert read == {5, 4, 10} | {7, 2, 3} | {6, 9, 0} | {11 + 2, 11 + 6, 11 + 0}
    assert set(rows_read(ranker, [rows[1]])[TABLE].tolist()) == read | {18}
    assert fused.locate(12) == (2, 1)


def test_the_wide_part_weighs_what_was_liked_apart_from_what_is_shown(listed: Layout) -> None:
    wide = a_ranker(listed, "everything_for_test").wide
    assert wide is not None
    assert wide.rows is not None
    assert wide.rows.table.num_embeddings == 11 + 5 + 7 + 11 + 1


def test_a_model_without_sequences_is_what_it_was_but_for_their_columns(
    listed: Layout, rows: tuple[Tensor, Tensor]
) -> None:
    short = listed.without_event_lists()
    assert [column.name for column in short.ids] == ["ad", "device", "query", "liked"]
    assert short.without_event_lists() is short
    with_columns, without = a_ranker(listed), a_ranker(short)
    assert with_columns.state_dict().keys() == without.state_dict().keys()
    numeric, ids = rows
    assert torch.equal(with_columns(numeric, ids), without(numeric[:, :OWN], ids[:, :OWN_IDS]))


def test_weights_of_one_part_do_not_depend_on_the_others(listed: Layout) -> None:
    one, two = a_ranker(listed, "target_attention"), a_ranker(listed, "target_attention", "transformer")
    for name, value in one.named_parameters():
        if name != "head.weight":
            assert torch.equal(value, two.get_parameter(name)), name


def test_a_ranker_with_sequences_is_stored_and_read_back(
    listed: Layout, rows: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    ranker = a_ranker(listed, "target_attention", "transformer").eval()
    save_ranker(tmp_path / "model.pt", ranker, listed)
    model = Model.model_validate({"hidden": [8], "sequences": ["target_attention", "transformer"]})
    assert torch.equal(load_ranker(tmp_path / "model.pt", listed, model)(*rows), ranker(*rows))


@pytest.mark.parametrize("kind", ["target_attention", "transformer"])
def test_items_kinds_and_ages_move_an_untrained_model(kind: str, listed: Layout, rows: tuple[Tensor, Tensor]) -> None:
    """What starts without any influence looks as if the model had no way to it."""
    ranker = a_ranker(listed, kind).eval()
    expected = ranker(*rows)
    for array, columns in (("ids", (5, 6)), ("ids", (8, 9)), ("numeric", (2, 3))):
        numeric, ids = rows[0].clone(), rows[1].clone()
        changed = ids if array == "ids" else numeric
        changed[0, list(columns)] = changed[0, list(reversed(columns))]
        assert not torch.equal(ranker(numeric, ids)[0], expected[0]), (array, columns)


def test_candidates_of_one_key_score_as_rows_of_their_own(listed: Layout, rows: tuple[Tensor, Tensor]) -> None:
    ranker = a_ranker(listed, "target_attention", "transformer").eval()
    numeric, ids = rows[0].clone(), rows[1].clone()
    numeric[:, OWN:], ids[:, OWN_IDS:] = numeric[0, OWN:], ids[0, OWN_IDS:]
    inputs = ranker.encode_with(numeric[:, :OWN], ids[:, :OWN_IDS], (numeric[:1, OWN:], ids[:1, OWN_IDS:]))
    assert inputs.events[0].items.shape[0] == 1
    torch.testing.assert_close(ranker.score(ranker.hidden(inputs), inputs), ranker(numeric, ids), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["target_attention", "transformer"])
def test_a_batch_without_rows_has_no_logits_and_no_gradient(
    listed: Layout, rows: tuple[Tensor, Tensor], kind: str
) -> None:
    # What a step makes of a batch at fault, and a process of several without rows of its own.
    ranker = a_ranker(listed, kind)
    logits = ranker(rows[0][:0], rows[1][:0])
    assert logits.shape == (0, 3)
    logits.sum().backward()
    assert all(not bool(p.grad.any()) for p in ranker.sequences.parameters() if p.grad is not None)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "model",
    [
        {"multi_task": "mmoe"},
        {"branches": [{"name": "deep", "hidden": [8]}, {"name": "wide", "hidden": [4]}]},
        {"interactions": [{"kind": "cross"}], "wide": False},
    ],
    ids=["experts", "branches", "crosses"],
)
def test_other_parts_read_what_the_sequences_give(
    model: dict[str, object], listed: Layout, rows: tuple[Tensor, Tensor]
) -> None:
    if "branches" in model:
        model = {"hidden": [], **model}
    ranker = a_ranker(listed, "target_attention", **model).eval()
    numeric, ids = rows[0].clone(), rows[1].clone()
    expected = ranker(numeric, ids)
    ids[0, OWN_IDS] = 3
    changed = ranker(numeric, ids)
    assert not torch.equal(changed[0], expected[0])
    assert torch.equal(changed[1:], expected[1:])


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ({"kind": "transformer", "feature": "other"}, "sequence 'transformer' reads other; the dataset has recent"),
        (
            {"kind": "wrong_for_test"},
            r"output of sequence wrong_for_test_0: shape \[3, 1, 2\] found, \[3, 1, 1\] expected",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    sequence: dict[str, str], message: str, listed: Layout, rows: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(RankerError, match=message):
        build_ranker(listed, Model.model_validate({"sequences": [sequence]}), 1)(*rows)


def test_a_dataset_without_events_is_refused(layout: Layout) -> None:
    with pytest.raises(RankerError, match="reads a list of events; the dataset has none: set its `feature`"):
        a_ranker(layout, "target_attention")
