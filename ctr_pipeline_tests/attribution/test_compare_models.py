"""Both sides equal: nothing anywhere. Swapped: the signs change. A planted change: the part that was changed is named and cures."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import special, stats
from sklearn.metrics import log_loss, roc_auc_score

from ctr_pipeline.attribution.compare_models import compare_models
from ctr_pipeline.attribution.model_change import ModelChange, TaskChange
from ctr_pipeline.attribution.replay_rows import Replay, ReplayRows
from ctr_pipeline.attribution.resampling import Resampling
from ctr_pipeline.attribution.substitutions import LABELS, Substitutions
from ctr_pipeline.attribution.trained_side import TrainedSide
from ctr_pipeline.evaluation.metrics import Interval
from ctr_pipeline_tests.attribution.made_up_sides import LAYOUT, LISTED, MODELS, rows, side

SEQUENCE = {"sequences": [{"kind": "target_attention"}]}


def replay(
    old: TrainedSide, new: TrainedSide, given: ReplayRows, other: ReplayRows | None = None, **changes: Any
) -> Replay:
    """Rows of the new side, and the same impressions as the old side has them."""
    before = given if other is None else other
    content = {"old_matched": before, "new_matched": given, "old_rows": before, "new_rows": given, **changes}
    return Replay(old=old, new=new, how="impression", **content)


def compared(pair: Replay, rows_attributed: int = 40) -> ModelChange:
    return compare_models(pair, replicates=40, attributed_rows=rows_attributed)


def changes_of(task: TaskChange) -> Iterator[tuple[str, Interval]]:
    """All figures that are new minus old."""
    assert task.ne is not None
    assert task.auc is not None
    yield from (("ne", task.ne), ("auc", task.auc))
    for name, of in (("pipelines", task.pipelines), ("periods", task.periods)):
        assert of is not None
        yield from ((f"{name} total", of.total), (f"{name} model", of.model), (f"{name} data", of.data))
    yield from ((f"permuted {one.feature}", one.change) for one in task.permutation if one.change is not None)
    yield from ((f"within {one.dimension} {one.value}", one.ne) for one in task.slices if one.ne is not None)
    yield from ((f"on {one.day}", one.change) for one in task.days if one.change is not None)
    for one in (*task.features, *task.groups):
        yield f"shift {one.name}", one.shift
        if one.change is not None:
            yield f"attributed {one.name}", one.change


def test_between_equal_sides_nothing_changed() -> None:
    one = side(1, SEQUENCE, LISTED)
    given = rows(400, 3, one, LISTED)
    found = compared(replay(one, replace(one, name="again"), given))
    assert set(found.tasks) == {"click", "order"}
    for task in found.tasks.values():
        for name, change in changes_of(task):
            assert abs(change.value) < 1e-12, name
            # Days and slices with few users have no bounds.
            few = name.startswith(("on ", "within ")) and np.isinf([change.low, change.high]).all()
            assert few or max(abs(change.low), abs(change.high)) < 1e-12, name
        assert all(graft.change is not None and abs(graft.change.value) < 1e-6 for graft in task.grafts)
        assert task.shift is not None
        assert (task.shift.mean, task.shift.deviation) == (0, 0)
        assert task.shift.rank_correlation == pytest.approx(1)
        assert all(one.old == one.new for one in task.slices)


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_compared(name: str) -> None:
    layout = LISTED if "sequences" in MODELS[name] else LAYOUT
    old, new = side(1, MODELS[name], layout, shuffled=2), side(2, MODELS[name], layout)
    found = compare_models(replay(old, new, rows(100, 3, old, layout)), replicates=20, attributed_rows=5)
    for task in found.tasks.values():
        assert all(np.isfinite(change.value) for _, change in changes_of(task))
        assert {one.feature for one in task.permutation} == set(new.features)
        assert {one.name for one in task.features} <= set(new.features)
        assert all(graft.reason is None for graft in task.grafts)


def test_swapped_sides_change_the_signs() -> None:
    old, new = side(1, shuffled=2), side(2, {"interactions": [{"kind": "cross"}]})
    given = rows(400, 3, old)
    before = replace(given, values=given.values.with_columns(pl.col("price") * 3))
    pair = replay(old, new, given, before, old_rows=rows(300, 4, old))
    there, back = compared(pair), compared(pair.swapped)
    for name in ("click", "order"):
        forward, backward = dict(changes_of(there.tasks[name])), dict(changes_of(back.tasks[name]))
        assert forward.keys() == backward.keys()
        for what, change in forward.items():
            assert backward[what].value == pytest.approx(-change.value, abs=1e-9), what
            assert backward[what].low == pytest.approx(-change.high, abs=1e-9), what
        shifts = there.tasks[name].shift, back.tasks[name].shift
        assert shifts[0] is not None
        assert shifts[1] is not None
        assert shifts[0].mean == pytest.approx(-shifts[1].mean)


def test_users_under_another_key_are_the_same_users() -> None:
    old, new = side(1), side(2)
    given = rows(400, 3, old)
    # Another key gives other hashes of users and impressions; the rows were matched by their time.
    hashed = replace(given, user=np.where(given.user < 0, -1, given.user * 7 + 10_000))
    found = compared(replay(old, new, given, hashed)).tasks["click"]
    assert found.periods is not None
    assert found.pipelines is not None
    assert found.periods.total == found.pipelines.total


def test_the_figures_are_those_of_independent_implementations() -> None:
    old, new = side(1), side(2)
    given = rows(600, 3, old)
    before = replace(
        given, values=given.values.with_columns(pl.col("age") * -1), labels=np.flip(given.labels, 0).copy()
    )
    task = compared(replay(old, new, given, before)).tasks["click"]

    def entropy_of(model: TrainedSide, data: ReplayRows) -> float:
        known = data.label("click")
        chances, rate = special.expit(model.logits(data)[:, 0]), known.mean()
        return float(log_loss(known, chances)) / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))

    first, second = old.logits(before)[:, 0], new.logits(given)[:, 0]
    cells = [entropy_of(model, data) for model in (old, new) for data in (before, given)]
    own = task.pipelines
    assert own is not None
    found = [own.old_on_old.value, own.old_on_new.value, own.new_on_old.value, own.new_on_new.value]
    np.testing.assert_allclose(found, cells, rtol=1e-9)
    assert own.total.value == pytest.approx(cells[3] - cells[0])
    assert own.model.value + own.data.value == pytest.approx(own.total.value)
    assert own.interaction.value == pytest.approx(cells[3] - cells[1] - cells[2] + cells[0])
    assert abs(own.data.value) > 0.01
    labels = given.label("click")
    assert task.auc is not None
    assert task.auc.value == pytest.approx(roc_auc_score(labels, second) - roc_auc_score(labels, first))
    assert task.auc.low < task.auc.value < task.auc.high
    assert task.shift is not None
    assert task.shift.rank_correlation == pytest.approx(stats.spearmanr(first, second).statistic)
    assert task.shift.deviation == pytest.approx(np.std(second - first))
    position = next(one for one in task.slices if (one.dimension, one.value) == ("position", "2"))
    chosen = given.position == 2
    assert position.positives == labels[chosen].sum()
    assert position.new.value == pytest.approx(labels[chosen].sum() / special.expit(second[chosen]).sum())

    def entropy_within(chosen: np.ndarray, logits: np.ndarray) -> float:
        rate = labels[chosen].mean()
        return float(log_loss(labels[chosen], special.expit(logits[chosen]))) / float(stats.entropy([rate, 1 - rate]))

    assert position.ne is not None
    assert position.ne.value == pytest.approx(entropy_within(chosen, second) - entropy_within(chosen, first))
    days = given.ts // (86_400 * 10**6)
    assert [one.day for one in task.days] == [str(np.datetime64(int(day), "D")) for day in np.unique(days)]
    assert sum(one.rows for one in task.days) == task.rows
    for one, day in zip(task.days, np.unique(days), strict=True):
        assert one.old is not None
        assert one.new is not None
        assert one.change is not None
        assert one.old.value == pytest.approx(entropy_within(days == day, first))
        assert one.change.value == pytest.approx(one.new.value - one.old.value)


def test_permuting_a_feature_costs_what_a_loop_over_features_says() -> None:
    old, new = side(1), side(2)
    given = rows(300, 3, old)
    task = compared(replay(old, new, given)).tasks["order"]
    order = np.random.default_rng(0).permutation(300)
    labels, kept = given.label("order"), given.label("order") >= 0
    for one in task.permutation:
        permuted = given.with_values([one.feature], given.take(order))
        losses = [
            log_loss(labels[kept], special.expit(model.logits(data)[kept, 1]))
            for model in (old, new)
            for data in (given, permuted)
        ]
        assert one.old is not None
        assert one.new is not None
        assert one.change is not None
        assert one.old.value == pytest.approx(losses[1] - losses[0], abs=1e-6)
        assert one.new.value == pytest.approx(losses[3] - losses[2], abs=1e-6)
        assert one.change.value == pytest.approx(one.new.value - one.old.value)
    assert {one.feature for one in task.permutation} == {"price", "age", "pixels", "ad", "page", "tags"}


def test_shifts_of_features_add_up_to_that_of_the_logits_and_of_their_groups() -> None:
    old, new = side(1), side(2)
    given = rows(300, 3, old)
    task = compared(replay(old, new, given), 300).tasks["click"]
    encoded = [one.raw_logits(one.encode(given))[:, 0].mean() for one in (old, new)]
    of_features, of_groups = (sum(one.shift.value for one in of) for of in (task.features, task.groups))
    assert of_features == pytest.approx(of_groups)
    assert {one.name for one in task.groups} == {"dense", "categorical", "contextual"}
    # The baselines are all but a constant apart: what is left is their difference.
    again = compared(replay(old, new, given.take(np.arange(300)[::-1])), 300).tasks["click"]
    assert sum(one.shift.value for one in again.features) == pytest.approx(of_features, abs=0.02)
    assert np.isfinite(encoded).all()


def test_a_unit_that_changed_is_cured_by_its_old_values_and_by_no_others() -> None:
    one = side(1)
    old_rows = rows(3000, 3, one)
    new_rows = replace(old_rows, values=old_rows.values.with_columns(pl.col("price") * 100, pl.col("age") + 1e-4))
    pair = replay(one, replace(one, name="refactored"), new_rows, old_rows)
    draws = Resampling.of(new_rows.user, seed=0)[0]
    found = Substitutions.of(pair, "new", draws).of_each("click")
    assert [of.features for of in found] == [("price",), ("age",)]
    assert found[0].change.high < 0
    assert found[0].share is not None
    assert found[0].share.value == pytest.approx(1, abs=0.01)
    assert found[1].share is not None
    assert abs(found[1].share.value) < 0.01
    # And the old model with the new values loses as much.
    broken = Substitutions.of(pair, "old", draws).substitution("click", ["price"])
    assert broken is not None
    assert broken.change.value == pytest.approx(-found[0].change.value, rel=0.01)


def test_labels_that_were_lost_are_cured_by_the_labels() -> None:
    one = side(1)
    old_rows = rows(3000, 3, one)
    lost = old_rows.labels.copy()
    lost[:1500] = np.minimum(lost[:1500], 0)
    new_rows = replace(old_rows, labels=lost)
    subs = Substitutions.of(replay(one, one, new_rows, old_rows), "new", Resampling.of(old_rows.user, seed=0)[0])
    assert subs.of_each("click") == ()
    found = subs.substitution("click", [LABELS])
    assert found is not None
    assert found.change.high < 0
    assert found.share is not None
    assert found.share.value == pytest.approx(1)


def test_a_dropped_feature_is_named_and_missing_to_the_model_that_needs_it() -> None:
    fewer = replace(LAYOUT, numeric=LAYOUT.numeric[1:])
    old, new = side(1), side(2, layout=fewer)
    before = rows(400, 3, old)
    given = replace(before, values=before.values.drop("price"))
    task = compared(replay(old, new, given, before)).tasks["click"]
    assert task.pipelines is not None
    assert (task.pipelines.absent_in_old, task.pipelines.absent_in_new) == ((), ("price",))
    permuted = next(one for one in task.permutation if one.feature == "price")
    assert permuted.old is not None
    assert (permuted.new, permuted.change) == (None, None)
    attributed = next(one for one in task.features if one.name == "price")
    assert (attributed.new, attributed.change) == (None, None)


@pytest.mark.parametrize("left", ["no row", "one row", "no label", "no old test rows", "few users"])
def test_of_too_little_nothing_is_said(left: str) -> None:
    old, new = side(1), side(2)
    given = rows(60, 3, old)
    unlabelled = replace(given, labels=np.full_like(given.labels, -1))
    kept = {"no row": given.take(np.arange(0)), "one row": given.take(np.arange(1)), "no label": unlabelled}
    before = {"old_rows": given.take(np.arange(0))} if left == "no old test rows" else {}
    few = given.take(np.arange(12)) if left == "few users" else given
    found = compared(replay(old, new, kept.get(left, few), **before))
    json.dumps(found.to_json(), allow_nan=False)
    task = found.tasks["click"]
    assert task.periods is None or left == "few users"
    if left in kept:
        assert (task.ne, task.pipelines, task.grafts) == (None, None, ())
    if left == "few users":
        assert task.pipelines is not None
        assert task.pipelines.total.high == np.inf


def test_it_becomes_json_and_says_what_it_could_not_compare() -> None:
    old, new = side(1), side(2, layout=replace(LAYOUT, tasks=("click", "cart"), parents=(-1, 0)))
    before = rows(120, 3, old)
    one_class = replace(before, labels=np.zeros_like(before.labels), tasks=("click", "cart"))
    found = compared(replay(old, new, one_class, before))
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(content["tasks"]) == ["click"]
    assert content["notes"] == ["only side 1 has the tasks order", "only side 2 has the tasks cart"]
    assert content["tasks"]["click"]["ne"] is None
    assert content["tasks"]["click"]["pipelines"] is None
