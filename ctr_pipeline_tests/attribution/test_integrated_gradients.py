"""What features are said to do adds up to the difference in logit, on every architecture, and is right where it is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctr_pipeline.attribution import Attribution, EncodedRows, integrated_gradients, reference_of
from ctr_pipeline.features.layout import Encoding, EventList, IdColumn, Layout, NumericColumn, Pooled
from ctr_pipeline.ranker import Ranker, build_ranker
from ctr_pipeline.spec.model import Model

BINS = Encoding("piecewise_linear", edges=(-2.0, -1.0, 0.0, 1.0, 2.0), means=(0.5,) * 4)
LAYOUT = Layout(
    numeric=(
        NumericColumn("price", "dense", "signed_log1p", 1.0, True, 0.5, 2.0),
        NumericColumn("age", "dense", "none", 0.0, True, 0.0, 1.0, encoding=BINS),
    ),
    ids=(
        IdColumn("ad", "categorical", 30, 4),
        IdColumn("page", "contextual", 6, 4),
        IdColumn("tags", "categorical", 9, 4, Pooled(3, "mean", "first")),
    ),
    tasks=("click", "cart", "order"),
    parents=(-1, 0, 1),
)  # fmt: skip
LENGTH = 3
LISTED = replace(
    LAYOUT,
    numeric=(
        *LAYOUT.numeric,
        *(NumericColumn(f"recent_age[{at}]", "history", "none", 0.0, False, 0.0, 1.0) for at in range(LENGTH)),
    ),
    ids=(*LAYOUT.ids, IdColumn("recent", "history", 30, 4, Pooled(LENGTH, "mean", "first"), table="ad")),
    event_lists=(EventList("recent", "ad", None, "recent_age", LENGTH),),
)
TAGS, RECENT = slice(2, 5), slice(5, 8)


def batch(layout: Layout, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(seed)
    numeric = draw.normal(size=(rows, len(layout.numeric))).astype(np.float32)
    numeric[draw.random(numeric.shape) < 0.2] = np.nan
    low, high = layout.id_rows
    ids = draw.integers(np.maximum(low, 0), high + 1, (rows, len(low)))
    for places in (TAGS, RECENT)[: 1 + bool(layout.event_lists)]:
        ended = np.arange(3) >= draw.integers(0, 4, (rows, 1))
        ids[:, places][ended] = -1
        if places is RECENT:
            numeric[:, 2:] = np.where(ended, np.nan, draw.exponential(3600, (rows, 3)))
    return torch.from_numpy(numeric), torch.from_numpy(ids)


def grown(ranker: Ranker) -> Ranker:
    """With weights about as large as after training, the linear part's among them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for values in ranker.parameters():
            values.add_(0.6 * torch.randn_like(values) / max(1, values.shape[-1]) ** 0.5)
    return ranker.eval()


def explained(ranker: Ranker, layout: Layout, task: int, rows: int = 48) -> tuple[Attribution, Tensor]:
    numeric, ids = batch(layout, rows)
    with torch.no_grad():
        inputs = ranker.encode(numeric, ids)
        reference = reference_of(EncodedRows.of(ranker, ranker.encode(*batch(layout, 256, seed=1))))
        logits = ranker(numeric, ids)
    return integrated_gradients(ranker, layout, inputs, reference, task), logits[:, task]


MODELS: dict[str, dict[str, Any]] = {
    "no hidden layer": {"hidden": []},
    "pairs": {"pairs": [["ad", "page"]]},
    "no linear part": {"wide": False},
    "chain": {"heads": "chain"},
    **{kind: {"interactions": [{"kind": kind}]} for kind in (
        "factorisation_machine", "cross", "cross_mixture", "mask_net", "field_attention", "feature_gates", "residual_perceptron",
    )},
    **{kind: {"multi_task": {"kind": kind}, "heads": "chain"} for kind in ("task_towers", "mmoe", "ple", "aitm")},
    **{kind: {"sequences": [{"kind": kind}]} for kind in ("target_attention", "transformer")},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_features_add_up_to_the_difference(name: str) -> None:
    layout = LISTED if "sequences" in MODELS[name] else LAYOUT
    model = Model.model_validate({"embedding_dim": 4, "hidden": [16, 8], **MODELS[name]})
    ranker = grown(build_ranker(layout, model, 1))
    for task in (0, 2):
        found, logits = explained(ranker, layout, task)
        lists = {"recent"} if "sequences" in MODELS[name] else set()
        assert set(found.features) == {"price", "age", "ad", "page", "tags", *lists}
        np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-5)
        difference = np.abs(found.logits - found.reference)
        assert np.all(np.abs(found.missed) <= 1e-3 * difference)
        assert difference.max() > 0.1
        assert np.abs(found.values[:, found.features.index("ad")]).max() > 0.01


def test_of_a_linear_model_each_feature_does_what_its_weights_say() -> None:
    ranker = grown(build_ranker(LAYOUT, Model.model_validate({"embedding_dim": 4, "hidden": []}), 1))
    found, _ = explained(ranker, LAYOUT, 0)
    numeric, ids = batch(LAYOUT, 48)
    for feature, columns in (("ad", [0]), ("page", [1]), ("tags", [2, 3, 4])):
        # A row that differs in this feature alone.
        other = ids.clone()
        other[:, columns] = ids.roll(1, dims=0)[:, columns]
        with torch.no_grad():
            changed = (ranker(numeric, other) - ranker(numeric, ids))[:, 0].numpy()
        own = found.values[:, found.features.index(feature)]
        np.testing.assert_allclose(np.roll(own, 1) - own, changed, atol=2e-5)


def test_a_feature_that_no_weight_reads_does_nothing() -> None:
    ranker = grown(build_ranker(LAYOUT, Model.model_validate({"embedding_dim": 4, "hidden": [16]}), 1))
    names = [name for name, _ in ranker.named_parameters() if name.endswith("table.weight")]
    with torch.no_grad():
        for name in names:
            # The last six rows of a fused table before those of the tags are the pages'.
            ranker.get_parameter(name)[30:36] = 0
    found, _ = explained(ranker, LAYOUT, 0)
    assert np.abs(found.values[:, found.features.index("page")]).max() == 0
    assert np.abs(found.values[:, found.features.index("ad")]).max() > 0.01
