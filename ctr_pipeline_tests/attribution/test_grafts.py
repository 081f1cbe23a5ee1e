"""A hybrid of two models is the new one without old blocks, the old one with all of them, and else what modules make of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr_pipeline.attribution.grafts import (
    CALIBRATORS,
    EMBEDDINGS,
    HEADS,
    NUMBERS,
    Hybrid,
    blocks,
    embeddings_of,
    grafts,
)
from ctr_pipeline.attribution.replay_rows import ReplayRows
from ctr_pipeline.attribution.resampling import Resampling
from ctr_pipeline.attribution.trained_side import TrainedSide
from ctr_pipeline_tests.attribution.made_up_sides import LAYOUT, LISTED, MODELS, rows, side


def hybrid(old: TrainedSide, new: TrainedSide, given: ReplayRows) -> Hybrid:
    return Hybrid(old, new, old.encode(given), new.encode(given))


@pytest.mark.parametrize("name", MODELS)
def test_all_blocks_of_the_old_model_are_the_old_model_and_none_are_the_new_one(name: str) -> None:
    layout = LISTED if "sequences" in MODELS[name] else LAYOUT
    old, new = side(1, MODELS[name], layout, shuffled=5), side(2, MODELS[name], layout)
    given = rows(120, 3, layout=layout)
    both = hybrid(old, new, given)
    possible = blocks(old, new)
    assert set(possible.values()) == {None}
    np.testing.assert_allclose(both.logits([]), new.logits(given), atol=1e-5)
    np.testing.assert_allclose(both.logits(list(possible)), old.logits(given), atol=1e-5)
    assert np.abs(old.logits(given) - new.logits(given)).max() > 0.1
    for block in possible:
        assert np.isfinite(both.logits([block])).all()


def test_models_of_other_inputs_and_modules_swap_what_fits_and_say_why_the_rest_does_not() -> None:
    fewer = replace(LAYOUT, numeric=LAYOUT.numeric[1:], ids=LAYOUT.ids[:2])
    old = side(1, {"interactions": [{"kind": "cross"}]}, fewer)
    new = side(2, {"interactions": [{"kind": "factorisation_machine"}], "wide": False})
    given = rows(120, 3)
    possible = blocks(old, new)
    assert possible[NUMBERS] == "the features differ: now price"
    assert possible[EMBEDDINGS] == "the features differ: now tags"
    assert possible[embeddings_of("tags")] == "the old model does not read it"
    assert possible[embeddings_of("ad")] is None
    assert possible["interaction cross_0"] == "only the old model has it"
    assert possible["interaction factorisation_machine_0"] == "only the new model has it"
    assert str(possible[HEADS]).startswith("weight was 2×")
    # Inputs that differ are read by the blocks of their own model, so the rest still is the old model.
    whole = [name for name, reason in possible.items() if reason is None]
    np.testing.assert_allclose(hybrid(old, new, given).logits(whole), old.logits(given), atol=1e-5)


def test_models_of_other_tasks_share_no_block() -> None:
    one = replace(LAYOUT, tasks=("click",), parents=(-1,))
    reasons = set(blocks(side(1, layout=one), side(2)).values())
    assert reasons == {"the tasks differ: click; click, order"}


def test_the_block_that_changed_is_the_one_that_cures() -> None:
    old = side(1)
    given = rows(4000, 3, by=old)
    draws = Resampling.of(given.user, seed=0)[0]
    broken = side(1)
    with torch.no_grad():
        for name, weights in broken.ranker.named_parameters():
            if name.startswith("embeddings"):
                # The embeddings of the ads; those of pages and tags come behind them.
                weights[:30] = -3 * weights[:30]
    for new, cures in (
        (broken, {EMBEDDINGS, embeddings_of("ad")}),
        (replace(old, calibrators=side(4).calibrators), {CALIBRATORS}),
    ):
        found = {graft.block: graft.change for graft in grafts(old, new, given, draws)["click"]}
        assert {name for name, change in found.items() if change is not None and change.high < 0} == cures
        assert all(
            change is not None and abs(change.value) < 1e-6 for name, change in found.items() if name not in cures
        )
