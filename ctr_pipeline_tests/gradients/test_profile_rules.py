"""Mistakes that were made before rows were packed show in their profile; healthy rows, and rows that drift, show nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from ctr_pipeline.gradients.triage.profile_rules import profile_clues
from ctr_pipeline.gradients.triage.row_sample import Rows


def rows(seed: int, count: int = 8000) -> Rows:
    """Two numbers, of which the first predicts the outcome, an id with four values, and an outcome."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(count, 2))
    ids = 2 + rng.choice(4, (count, 1), p=[0.4, 0.3, 0.2, 0.1])
    labels = (rng.random(count) < 1 / (1 + np.exp(1.2 - 1.5 * numbers[:, 0]))).astype(np.int8)[:, None]
    return Rows(
        numbers=numbers, ids=ids, labels=labels, weights=np.ones((count, 1)), number_names=["price", "age"], id_names=["device"],
        tasks=("click",),
    )  # fmt: skip


def numbers(change: Callable[[np.ndarray, np.ndarray], np.ndarray], column: int = 1) -> Callable[[Rows], Rows]:
    def changed(given: Rows) -> Rows:
        values = given.numbers.copy()
        values[:, column] = change(values[:, column], given.labels[:, 0])
        return replace(given, numbers=values)

    return changed


def late(values: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(values)) > 0.6 * len(values), values * 100, values)


def without_outcome(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.where((labels == 0) & (np.arange(len(values)) % 3 == 0), np.nan, values)


def no_outcomes(given: Rows) -> Rows:
    return replace(given, labels=np.where(given.ids == 3, 0, given.labels).astype(np.int8))


def one_left_out(given: Rows) -> Rows:
    kept = given.ids[:, 0] != 2
    return replace(given, **{name: getattr(given, name)[kept] for name in ("numbers", "ids", "labels", "weights")})


def weekdays(given: Rows) -> Rows:
    return replace(given, ids=np.where(given.ids < 4, given.ids + 2, given.ids))


def heavier(given: Rows) -> Rows:
    return replace(given, weights=1.0 + 2.0 * given.labels)


def sampled(given: Rows) -> Rows:
    """A third of the rows without an outcome, each of a weight of three."""
    kept = (given.labels[:, 0] == 1) | (np.arange(len(given)) % 3 == 0)
    weights = np.where(given.labels == 1, 1.0, 3.0)
    arrays = {name: getattr(given, name)[kept] for name in ("numbers", "ids", "labels")}
    return replace(given, weights=weights[kept], **arrays)


CASES: dict[str, tuple[Callable[[Rows], Rows], tuple[str, str] | None]] = {
    "as they are": (lambda given: given, None),
    "drifting": (numbers(lambda v, _: v * np.linspace(0.7, 1.5, len(v)) + np.linspace(0, 1, len(v))), None),
    "sampled and corrected": (sampled, None),
    "of other days": (weekdays, None),
    "cut off": (numbers(lambda v, _: np.minimum(v, 1.2)), ("feature_drift", "age")),
    "another unit from some day on": (numbers(late), ("unnormalised_feature", "age")),
    "missing without an outcome": (numbers(without_outcome), ("leak", "age")),
    "of the row before, in later rows too": (numbers(lambda v, _: np.roll(v, 1), 0), ("feature_permuted", "price")),
    "of the row before": (numbers(lambda v, _: np.roll(v, 1), 0), ("feature_permuted", "price")),
    "a segment without outcomes": (no_outcomes, ("label_noise", "click")),
    "a segment left out": (one_left_out, ("feature_drift", "device")),
    "heavier outcomes": (heavier, ("class_weights", "click")),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_mistake_shows_in_the_profile(name: str, seed: int) -> None:
    change, expected = CASES[name]
    own, trusted = change(rows(seed)), rows(seed + 10)
    trusted = change(trusted) if "later rows too" in name else trusted
    found = {(clue.cause, clue.location) for clue in profile_clues(own, own, trusted) if clue.weight > 0.5}
    assert found == (set() if expected is None else {expected})
