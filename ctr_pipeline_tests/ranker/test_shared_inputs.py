"""Rows of requests score as whole rows do, whatever the candidates of a request share and whatever the ranker is made of."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_pipeline.features.layout import (
    Encoding,
    EventList,
    Frequency,
    IdColumn,
    Layout,
    NumericColumn,
    ParentMean,
    Pooled,
)
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.ranker.shared_inputs import SharedInputs
from ctr_pipeline.spec.model import Model

BINS = Encoding("piecewise_linear", edges=(-1.0, 0.0, 2.0), means=(0.6, 0.3))
NUMBERS = (
    NumericColumn("price", "dense", "signed_log1p", 1.0, True, 0.5, 1.2, BINS),
    NumericColumn("rating", "dense", "none", 0.5, False, 0.4, 0.7, Encoding("bucket", (0.0, 1.0), (0.3, 0.4, 0.3))),
    NumericColumn("angle", "dense", "none", 0.0, True, 0.0, 1.0, Encoding("cyclic", period=3.0)),
    NumericColumn("vector[0]", "dense", "none", 0.0, True, 0.0, 1.0),
    NumericColumn("vector[1]", "dense", "none", 0.0, False, 0.1, 1.1),
    NumericColumn("ctr", "history", "none", 0.1, False, 0.1, 0.5, BINS),
)
IDS = (
    IdColumn("user", "categorical", 9, 4),
    IdColumn("ad", "categorical", 12, 4, cold_start=ParentMean("brand", 3.0)),
    IdColumn("brand", "categorical", 6, 4, frequency=Frequency(0.7, 0.4)),
    IdColumn("tags", "categorical", 7, 4, pooled=Pooled(3, "mean", "last")),
    IdColumn("device", "contextual", 5, 2),
    IdColumn("liked", "history", 12, 4, pooled=Pooled(2, "sum", "first"), table="ad"),
)
EVENTS = (
    IdColumn("recent", "history", 12, 4, pooled=Pooled(3, "mean", "first"), table="ad"),
    IdColumn("recent_event", "history", 4, 4, pooled=Pooled(3, "mean", "first")),
)
AGES = tuple(NumericColumn(f"recent_age[{at}]", "history", "none", 0.0, False, 0.0, 1.0) for at in range(3))
LAYOUT = Layout(
    numeric=(*NUMBERS, *AGES),
    ids=(*IDS, *EVENTS),
    tasks=("click", "buy"),
    parents=(-1, 0),
    positions=(0.5, 0.3, 0.2),
    event_lists=(EventList("recent", "ad", "recent_event", "recent_age", 3),),
)
FEATURES = ["price", "rating", "angle", "vector", "ctr", *(column.name for column in IDS)]
MODELS: dict[str, dict[str, Any]] = {
    "hidden layers and a linear part with pairs": {"hidden": [6, 5], "pairs": [["device", "brand"], ["ad", "brand"]]},
    "no linear part": {"hidden": [6], "wide": False},
    "no hidden layer": {"hidden": []},
    "interactions": {"hidden": [4], "interactions": ["cross", "mask_net"]},
    "sequences": {"hidden": [4], "sequences": ["target_attention"], "interactions": ["cross"]},
    "branches": {
        "branches": [{"name": "a", "hidden": [5]}, {"name": "b", "hidden": [4], "interactions": ["feature_gates"]}],
    },
    "an examination by device": {"hidden": [4], "position": {"kind": "examination", "context": ["device"]}},
    "experts": {"hidden": [5], "multi_task": {"kind": "mmoe"}},
}  # fmt: skip


def trained(model: dict[str, Any], layout: Layout) -> Ranker:
    """Weights as large as those of a trained model, and means of parents that differ."""
    ranker = build_ranker(layout, Model.model_validate({"embedding_dim": 4} | model), 1).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for values in ranker.parameters():
            values.copy_(torch.randn(values.shape, generator=draw) * 0.4)
        for name, values in ranker.named_buffers():
            if ".cold_starts." in name:
                values.copy_(torch.rand(values.shape, generator=draw))
        for table in ranker._tables():
            if table.padding is not None:
                table.table.weight[table.padding] = 0
    return ranker


def rows(requests: int, candidates: int, layout: Layout, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[G, C, D] and [G, C, F] with missing numbers, and what is shared equal in each request."""
    rng = np.random.default_rng(seed)
    shape = requests, candidates
    numeric = rng.normal(size=(*shape, len(layout.numeric))).astype(np.float32)
    numeric[rng.random(numeric.shape) < 0.2] = np.nan
    lowest, highest = layout.id_rows
    ids = rng.integers(lowest, highest + 1, (*shape, len(lowest)))
    columns = RequestColumns.of(layout)
    numeric[..., columns.shared_numbers] = numeric[:, :1, columns.shared_numbers]
    ids[..., columns.shared_ids] = ids[:, :1, columns.shared_ids]
    return numeric, ids


@pytest.fixture(scope="module", params=MODELS)
def ranker(request: pytest.FixtureRequest) -> Ranker:
    model = MODELS[request.param]
    return trained(model, LAYOUT)


@settings(max_examples=12, deadline=None)
@given(
    own=st.sets(st.sampled_from(FEATURES), min_size=1),
    requests=st.integers(1, 3),
    candidates=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_rows_of_requests_score_as_whole_rows(
    ranker: Ranker, own: set[str], requests: int, candidates: int, seed: int
) -> None:
    layout = replace(LAYOUT, candidate_features=tuple(sorted(own)))
    numeric, ids = rows(requests, candidates, layout, seed)
    columns = RequestColumns.of(layout)
    shared = SharedInputs(ranker, layout)
    with torch.inference_mode():
        inputs = shared(
            ranker,
            torch.from_numpy(numeric[:, 0, columns.shared_numbers]),
            torch.from_numpy(ids[:, 0, columns.shared_ids]),
            torch.from_numpy(numeric[..., columns.own_numbers]),
            torch.from_numpy(ids[..., columns.own_ids]),
        )
        found = ranker.score(ranker.hidden(inputs), inputs)
        whole = torch.from_numpy(numeric).flatten(0, 1), torch.from_numpy(ids).flatten(0, 1)
        expected = ranker(*whole)
    before = len(layout.without_event_lists().id_columns)
    assert torch.equal(inputs.ids, whole[1][:, :before])
    assert inputs.numbers.shape == (requests * candidates, ranker.shape.numbers)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=2e-5)


def test_what_is_shared_is_computed_once_a_request() -> None:
    layout = replace(LAYOUT, candidate_features=("price", "ad", "brand"))
    ranker = trained({"hidden": [6]}, LAYOUT)
    shared = SharedInputs(ranker, layout)
    numeric, ids = rows(2, 5, layout, 0)
    columns = RequestColumns.of(layout)
    seen: list[tuple[str, int]] = []
    for name, encoder in (("shared", shared.shared_encoder), ("own", shared.own_encoder)):
        assert encoder is not None
        encoder.register_forward_pre_hook(lambda _, given, name=name: seen.append((name, len(given[0]))))
    for table in ranker.embeddings.tables.values():
        table.table.register_forward_pre_hook(lambda _, given: seen.append(("rows", given[0].numel())))  # type: ignore[union-attr, operator]
    shared(
        ranker,
        torch.from_numpy(numeric[:, 0, columns.shared_numbers]),
        torch.from_numpy(ids[:, 0, columns.shared_ids]),
        torch.from_numpy(numeric[..., columns.own_numbers]),
        torch.from_numpy(ids[..., columns.own_ids]),
    )
    assert {("shared", 2), ("own", 10)} <= set(seen)
    # Device; of each user, tags (3 places) and liked (2); of each candidate ad, brand and the embedding of a new ad.
    assert sorted(count for name, count in seen if name == "rows") == [1, 2 * 1, 2 * 6, 10 * 2]


def test_columns_of_a_layout_that_declares_nothing_are_those_of_candidates_but_for_events() -> None:
    columns = RequestColumns.of(LAYOUT)
    assert (columns.shared_numbers, columns.shared_ids) == ((6, 7, 8), tuple(range(9, 15)))
    assert columns.own_numbers == tuple(range(6))
    assert not RequestColumns.of(replace(LAYOUT, numeric=NUMBERS, ids=IDS, event_lists=())).share
