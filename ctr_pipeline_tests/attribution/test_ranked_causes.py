"""Causes: sure only where nothing else is left or an experiment showed it; and the change in NE that they are of."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ctr_pipeline.attribution.differences import RetrainState, compare
from ctr_pipeline.attribution.entropy_change import EntropyChange, entropy_changes
from ctr_pipeline.attribution.model_change import Substitution
from ctr_pipeline.attribution.ranked_causes import headline, main_task, ranked_causes
from ctr_pipeline.evaluation import paired_difference
from ctr_pipeline.evaluation.metrics import Interval
from ctr_pipeline_tests.attribution.made_up_retrains import (
    DAYS,
    SPEC,
    dated,
    pair,
    retrain,
    rows,
    with_lineage,
)

WORSE = EntropyChange(
    task="click", old=0.8, new=0.85, change=Interval(0.05, 0.03, 0.07), paired=True, rows=1000, positives=90
)
SAME = EntropyChange(
    task="click", old=0.8, new=0.801, change=Interval(0.001, -0.01, 0.012), paired=True, rows=1000, positives=90
)


def cures(*features: str, share: float = 0.9) -> Substitution:
    return Substitution(
        features=features, model="new", change=Interval(-0.045, -0.06, -0.03), share=Interval(share, share - 0.2, share + 0.1)
    )  # fmt: skip


def useless(*features: str) -> Substitution:
    return Substitution(
        features=features, model="new", change=Interval(0.0, -0.01, 0.01), share=Interval(0.0, -0.2, 0.2)
    )


def test_the_only_difference_is_shown_by_elimination_and_has_all_of_the_change() -> None:
    compared = compare(*pair(lambda f: f.with_columns(pl.col("price") * 100)))
    [cause] = ranked_causes(compared, {"click": WORSE}, {})
    assert (cause.kind, cause.subject, cause.certainty) == ("feature", "price", "shown")
    assert cause.share == Interval(1.0, 1.0, 1.0)
    text = headline([cause], {"click": WORSE})
    assert "“price” is 100 times what it was" in text
    assert "worse by 6.2 %" in text


def test_of_two_differences_none_is_shown_without_an_experiment() -> None:
    compared = compare(
        *pair(lambda f: f.with_columns(pl.col("price") * 100, device=pl.col("device").replace({"mobile": "phone"})))
    )
    causes = ranked_causes(compared, {"click": WORSE}, {})
    assert {cause.subject for cause in causes} == {"price", "device"}
    assert all(cause.certainty != "shown" for cause in causes)


def test_what_undoes_the_change_alone_is_shown_and_comes_first() -> None:
    compared = compare(
        *pair(lambda f: f.with_columns(pl.col("price") * 100, device=pl.col("device").replace({"mobile": "phone"})))
    )
    tried = {"price": useless("price"), "device": cures("device")}
    first, second = ranked_causes(compared, {"click": WORSE}, tried)
    assert (first.subject, first.certainty) == ("device", "shown")
    assert first.share is not None
    assert first.share.value == pytest.approx(0.9)
    assert second.certainty == "possible"
    # Where both undo it, neither alone is the cause; and where one was not tried, it may be that.
    both = ranked_causes(compared, {"click": WORSE}, {"price": cures("price"), "device": cures("device")})
    assert both[0].certainty == "likely"
    untried = ranked_causes(compared, {"click": WORSE}, {"device": cures("device")})
    assert untried[0].certainty == "likely"


def test_no_experiment_shows_the_cause_of_a_change_that_is_within_chance() -> None:
    compared = compare(
        *pair(lambda f: f.with_columns(pl.col("price") * 100, device=pl.col("device").replace({"mobile": "phone"})))
    )
    causes = ranked_causes(compared, {"click": SAME}, {"price": cures("price"), "device": useless("device")})
    assert all(cause.certainty != "shown" and cause.share is None for cause in causes)
    assert causes[-1].kind == "noise"
    assert "no more than chance" in headline(causes, {"click": SAME})


def test_where_nothing_but_the_seed_differs_the_change_is_noise() -> None:
    frame = rows(600)
    [cause] = ranked_causes(compare(retrain(frame), retrain(frame, {**SPEC, "seed": 9})), {"click": SAME}, {})
    assert (cause.kind, cause.subject) == ("noise", "seed")


def test_nothing_differs() -> None:
    [cause] = ranked_causes(compare(*pair(lambda f: f)), {}, {})
    assert cause.kind == "none"


def test_new_days_alone_are_likely_drift_and_never_more() -> None:
    frame = rows()
    more = rows(2000, seed=7, days=DAYS + 3).filter(pl.col("day") > frame["day"].max())
    [cause] = ranked_causes(compare(retrain(frame), retrain(dated(pl.concat([frame, more])))), {"click": WORSE}, {})
    assert (cause.kind, cause.certainty) == ("drift", "likely")


def test_another_machine_beside_a_difference_leaves_a_doubt_only_where_ne_did_not_change() -> None:
    old, new = pair(lambda f: f.with_columns(pl.col("price") * 100))
    moved = with_lineage(new, environment={**new.lineage["environment"], "cores": "64"})
    compared = compare(old, moved)
    assert ranked_causes(compared, {"click": WORSE}, {})[0].certainty == "shown"
    assert ranked_causes(compared, {"click": SAME}, {})[0].certainty == "likely"


def scored(state: RetrainState, noise: float, seed: int) -> RetrainState:
    draw = np.random.default_rng(seed)
    return replace(state, logits=state.logits + noise * draw.normal(size=state.logits.shape))


def test_the_change_in_ne_is_that_of_the_paired_difference_on_the_same_rows() -> None:
    state = retrain(rows())
    other = scored(state, 0.8, 1)
    found = entropy_changes(state, other, ["impression_id"], seed=3)["click"]
    expected = paired_difference(other.logits[:, 0], state.logits[:, 0], state.labels[:, 0], state.users, seed=3)
    assert expected is not None
    assert found.paired
    assert found.change.value == pytest.approx(expected.absolute.value, abs=1e-12)
    assert found.change.low == pytest.approx(expected.absolute.low, abs=0.3 * (found.change.value - found.change.low))
    assert found.worse
    assert not entropy_changes(state, state, ["impression_id"], seed=3)["click"].worse
    assert main_task({"click": found}) == "click"


def test_swapped_sides_change_the_sign() -> None:
    state = retrain(rows())
    other = scored(state, 0.8, 1)
    there = entropy_changes(state, other, ["impression_id"], seed=3)["click"]
    back = entropy_changes(other, state, ["impression_id"], seed=3)["click"]
    assert back.change.value == pytest.approx(-there.change.value, abs=1e-12)
    assert back.better


def test_tests_without_common_rows_are_compared_each_by_its_own() -> None:
    state, other = retrain(rows(seed=1)), retrain(rows(seed=2))
    found = entropy_changes(state, other, ["impression_id"], seed=3)["click"]
    assert not found.paired
    assert found.change.value == pytest.approx(found.new - found.old, abs=1e-12)
