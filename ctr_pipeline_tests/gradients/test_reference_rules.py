"""What is wrong in all rows of a dataset shows beside those of the last good run; other days and drift show nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.gradients.triage.reference_rules import Profiled, reference_clues
from ctr_pipeline.gradients.triage.row_sample import spread_rows
from ctr_pipeline.training.drilling.made_up_rows import LAYOUT, make_rows

Change = Callable[[PackedSplit], PackedSplit]


def profiled(split: PackedSplit, **names: frozenset[str]) -> Profiled:
    return Profiled(rows=replace(spread_rows(split, LAYOUT), **names), raw=split.numeric.astype(np.float64))


def number(column: int, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def changed(given: PackedSplit) -> PackedSplit:
        numeric = given.numeric.copy()
        numeric[:, column] = change(numeric[:, column])
        return replace(given, numeric=numeric)

    return changed


def ids(column: int, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def changed(given: PackedSplit) -> PackedSplit:
        found = given.ids.copy()
        found[:, column] = change(given.ids)
        return replace(given, ids=found)

    return changed


def at_random(share: float, count: int = 8000) -> np.ndarray:
    return np.random.default_rng(5).random(count) < share


def another_vocabulary(given: PackedSplit) -> PackedSplit:
    number = np.concatenate([[0, 1], 2 + np.random.default_rng(4).permutation(58)])
    return ids(0, lambda all_ids: number[all_ids[:, 0]])(given)


def clicks_of_each_second(given: PackedSplit) -> PackedSplit:
    kept = (given.labels[:, 0] != 1) | (np.arange(len(given)) % 2 == 0)
    return replace(given, **{name: array[kept] for name, array in given.arrays().items()})


CASES: dict[str, tuple[Change, set[tuple[str, str]]]] = {
    "as they are": (lambda given: given, set()),
    "drifted": (number(0, lambda v: v * np.linspace(0.8, 1.6, len(v))), set()),
    "shifted a little": (number(1, lambda v: v * 1.3 + 0.4), set()),
    "numbered otherwise": (another_vocabulary, set()),
    "fewer clicks": (clicks_of_each_second, set()),
    "some unknown": (ids(0, lambda i: np.where(at_random(0.2), 1, i[:, 0])), set()),
    "rounded": (number(0, np.round), {("feature_drift", "price")}),
    "without a sign": (number(1, np.abs), {("feature_drift", "rating")}),
    "in cents": (number(0, lambda v: v * 100), {("unnormalised_feature", "price")}),
    "one value": (number(1, lambda v: v * 0 + 3), {("feature_missing", "rating")}),
    "often missing": (number(0, lambda v: np.where(at_random(0.5), np.nan, v)), {("feature_missing", "price")}),
    "mostly one value": (number(0, lambda v: np.where(at_random(0.5), 2.5, v)), {("feature_drift", "price")}),
    "one number twice": (lambda given: replace(given, numeric=given.numeric[:, [1, 1]]), {("feature_permuted", "price")}),
    "of the row before": (ids(0, lambda i: np.roll(i[:, 0], 1)), {("feature_permuted", "ad")}),
    "mostly unknown": (ids(0, lambda i: np.where(at_random(0.6), 1, i[:, 0])), {("hash_clip", "ad")}),
    "few ids": (ids(1, lambda i: 2 + i[:, 1] % 9), {("hash_clip", "query")}),
    "ids of another column": (ids(0, lambda i: 2 + i[:, 1] * 7 % 53), {("ids_misplaced", "ad")}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_has_changed_since_the_last_good_run_is_told(name: str) -> None:
    change, expected = CASES[name]
    found = list(reference_clues(profiled(change(make_rows(8000, 1))), profiled(make_rows(9000, 2))))
    told = {(clue.cause, str(clue.location)) for clue in found}
    assert told == expected
    assert not any(clue.separating for clue in found)


def test_what_is_of_the_past_or_of_the_time_is_left_out() -> None:
    change, _ = CASES["often missing"]
    own = profiled(change(make_rows(8000, 1)), from_past=frozenset({"price"}))
    assert not list(reference_clues(own, profiled(make_rows(9000, 2))))


def test_of_few_rows_nothing_is_said() -> None:
    change, _ = CASES["in cents"]
    assert not list(reference_clues(profiled(change(make_rows(300, 1))), profiled(make_rows(9000, 2))))
