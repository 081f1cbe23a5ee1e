"""Training rows against the validation's and batches against both: faults are told, drift and rare features are not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.feature_profile import RowSample
from ctr_pipeline.gradients.contracts.missing_values import MissingShares
from ctr_pipeline.gradients.contracts.outcome import Outcome
from ctr_pipeline.gradients.contracts.reference_rows import reference_outcomes


def alignment(training: RowSample, reference: RowSample) -> Outcome:
    return reference_outcomes([(training, reference)])[0]


def leak(training: RowSample, reference: RowSample) -> Outcome:
    return reference_outcomes([(training, reference)])[1]


def sample(seed: int, rows: int = 4000, strength: float = 1.0, new: float = 0.0) -> RowSample:
    """Clicks that follow the first number and an id; ``new`` is how much they follow the second."""
    rng = np.random.default_rng(seed)
    numbers, ids = rng.normal(size=(rows, 2)), rng.integers(0, 40, (rows, 1))
    z = -1 + strength * (numbers[:, 0] + 0.05 * (ids[:, 0] - 20)) + new * numbers[:, 1]
    click = rng.random(rows) < 1 / (1 + np.exp(-z))
    labels = click.astype(np.int8).reshape(-1, 1)
    return RowSample(names=["price", "age", "ad"], numbers=numbers, ids=ids, labels=labels, tasks=["click"])


def permuted(own: RowSample, share: float = 1.0) -> RowSample:
    rng = np.random.default_rng(9)
    chosen = np.flatnonzero(rng.random(len(own.labels)) < share)
    labels = own.labels.copy()
    labels[chosen] = own.labels[rng.permutation(chosen)]
    return replace(own, labels=labels)


@pytest.mark.parametrize("seed", range(5))
def test_permuted_labels_are_told_from_healthy_ones(seed: int) -> None:
    assert alignment(sample(seed), sample(seed + 50)).verdict == "passed"
    found = alignment(permuted(sample(seed)), sample(seed + 50))
    assert (found.failed, found.hard, found.where) == (True, True, "click")


@pytest.mark.parametrize(
    ("training", "reference"),
    [
        (sample(1, strength=0.05), sample(2, strength=0.05)),  # a log that says little of its outcomes
        (sample(1, rows=150), sample(2, rows=150)),
        (sample(1, strength=0.3), sample(2, strength=0.3, new=2.0)),  # a feature that became useful
        (sample(1), sample(2, strength=0.6)),  # drift
        (sample(1), permuted(sample(2))),
    ],
)
def test_healthy_logs_are_not_refused(training: RowSample, reference: RowSample) -> None:
    for outcome in reference_outcomes([(training, reference)]):
        assert not outcome.failed, outcome.message


@pytest.mark.parametrize("wrong", [0.0, 0.1])
@pytest.mark.parametrize("place", ["numbers", "ids"])
def test_a_leak_of_the_training_rows_is_named(wrong: float, place: str) -> None:
    own, column = sample(3), {"numbers": 1, "ids": 0}[place]
    values: NDArray[Any] = getattr(own, place).copy()
    flipped = np.random.default_rng(4).random(len(values)) < wrong
    values[:, column] = own.labels[:, 0] ^ flipped
    found = leak(replace(own, **{place: values}), sample(5))
    assert (found.failed, found.hard, found.feature) == (True, True, "age" if place == "numbers" else "ad")


@pytest.mark.parametrize(("wrong", "failed"), [(0.1, True), (0.3, False)])
def test_a_feature_that_tells_the_outcome_everywhere_is_a_warning(wrong: float, failed: bool) -> None:
    def leaking(seed: int) -> RowSample:
        own = sample(seed, strength=0.5)
        flipped = np.random.default_rng(seed).random(len(own.labels)) < wrong
        numbers = own.numbers.copy()
        numbers[:, 1] = own.labels[:, 0] ^ flipped
        return replace(own, numbers=numbers)

    alignment_, leak_, dominance = reference_outcomes([(leaking(3), leaking(5))])
    assert not alignment_.failed
    assert not leak_.failed
    assert (dominance.failed, dominance.feature) == (failed, "age" if failed else None)
    assert not (failed and dominance.hard)


def test_an_id_of_few_rows_tells_no_more_in_a_longer_sample() -> None:
    """Tastes of thousands of ids are known from many rows only."""

    def tastes(rows: int, seed: int) -> RowSample:
        rng = np.random.default_rng(seed)
        taste = np.random.default_rng(7).normal(0, 4, 3000)
        ids = rng.integers(0, 3000, (rows, 1))
        labels = (rng.random(rows) < 1 / (1 + np.exp(-taste[ids[:, 0]]))).astype(np.int8).reshape(-1, 1)
        return RowSample(names=["user"], numbers=np.empty((rows, 0)), ids=ids, labels=labels, tasks=["click"])

    assert leak(tastes(40_000, 1), tastes(1000, 2)).verdict == "passed"


def test_batches_miss_no_more_than_the_rows_do() -> None:
    rng = np.random.default_rng(1)

    def rows(count: int, *shares: float) -> NDArray[np.float64]:
        values = rng.normal(size=(count, len(shares)))
        return np.where(rng.random(values.shape) < np.array(shares), np.nan, values)

    shares = MissingShares(["a", "b", "c"], rows(20_000, 0.0, 0.3, 1.0))
    for size in (1, 8, 200, 4096):
        for _ in range(100):
            assert not shares.outcome(rows(size, 0.0005, 0.3, 1.0)).failed
    found = shares.outcome(rows(200, 0.0, 1.0, 1.0))
    assert (found.failed, found.hard, found.feature) == (True, True, "b")
    assert shares.outcome(rows(200, 0.5, 0.3, 1.0)).feature == "a"
    assert MissingShares([], np.empty((10, 0))).outcome(np.empty((5, 0))).verdict == "not_measured"
