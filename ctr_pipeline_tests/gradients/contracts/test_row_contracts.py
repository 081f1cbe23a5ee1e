"""What training rows must be beside their own statistics, the rows after them and the batches that are made of them."""

from typing import Any

import numpy as np
import pytest

from ctr_pipeline.gradients.contracts.feature_profile import RowSample
from ctr_pipeline.gradients.contracts.known_values import known_values_outcome
from ctr_pipeline.gradients.contracts.outcome_rates import outcome_rates_outcome
from ctr_pipeline.gradients.contracts.random_batches import SURPRISE, RandomBatches, surprise_of
from ctr_pipeline.gradients.contracts.standardisation import standardisation_outcome

ROWS = 5000


def standardised(numbers: Any) -> RowSample:
    """A sample of numbers that were standardised by their own statistics, then changed."""
    none = np.zeros((len(numbers), 0))
    return RowSample(
        names=["price", "age"],
        numbers=numbers,
        ids=none.astype(int),
        labels=np.zeros((len(numbers), 1)),
        tasks=["click"],
    )


def own_statistics(values: Any) -> Any:
    return (values - values.mean(axis=0)) / values.std(axis=0)


@pytest.mark.parametrize(
    "values",
    [
        lambda rng: rng.normal(size=(ROWS, 2)),
        lambda rng: rng.lognormal(0, 2, (ROWS, 2)),
        lambda rng: rng.pareto(1.1, (ROWS, 2)),
        lambda rng: (rng.random((ROWS, 2)) < 0.002).astype(float),
        lambda rng: rng.standard_cauchy((ROWS, 2)),
    ],
)
def test_numbers_of_any_distribution_have_the_spread_of_their_own_statistics(values) -> None:
    outcome = standardisation_outcome(standardised(own_statistics(values(np.random.default_rng(1)))))
    assert outcome.verdict == "passed", outcome


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z, _: z + 1.5, "the mean of its standardised values is 1.5"),
        (lambda z, _: z * 4, "of its values lie beyond"),
        # Some rows in cents, after a logarithm with a deviation of .65.
        (lambda z, rng: z + (rng.random(ROWS) < 0.1) * np.log(100) / 0.65, "lie beyond 5 standard deviations"),
    ],
)
def test_statistics_of_other_rows_and_other_units_of_some_rows_are_found(change, words: str) -> None:
    rng = np.random.default_rng(1)
    numbers = own_statistics(rng.normal(size=(ROWS, 2)))
    numbers[:, 1] = change(numbers[:, 1], rng)
    outcome = standardisation_outcome(standardised(numbers))
    assert (outcome.failed, outcome.hard, outcome.feature) == (True, True, "age")
    assert words in outcome.message
    assert standardisation_outcome(standardised(numbers[:100])).verdict == "not_measured"


NAMES = ["price"], ["ad"]


def values(missing: float, unknown: float, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(ROWS, 1))
    numbers[rng.random(ROWS) < missing] = np.nan
    ids = rng.integers(2, 40, (ROWS, 1))
    ids[rng.random(ROWS) < unknown] = 1
    return numbers, ids


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [
        (values(0.1, 0.05), values(0.2, 0.1), "passed"),
        # Later rows have new ads.
        (values(0.0, 0.0), values(0.0, 0.8), "passed"),
        (values(0.3, 0.0), values(0.0, 0.0), "warning"),
        (values(0.6, 0.0), values(0.0, 0.0), "failed"),
        (values(0.0, 0.6), values(0.0, 0.1), "failed"),
        # A feature that is gone, and one that is rarer.
        (values(0.0, 0.0), values(1.0, 0.0), "failed"),
        (values(0.0, 0.0), values(0.5, 0.0), "warning"),
    ],
)
def test_values_are_known_in_training_and_validation_alike(own: Any, other: Any, verdict: str) -> None:
    outcome = known_values_outcome(NAMES, own, other)
    found = "warning" if outcome.failed and not outcome.hard else outcome.verdict
    assert found == verdict, outcome


def test_of_few_rows_nothing_is_said_of_what_is_known() -> None:
    few = tuple(part[:100] for part in values(1.0, 1.0))
    assert known_values_outcome(NAMES, few, values(0.0, 0.0)).verdict == "not_measured"  # type: ignore[arg-type]


def outcomes(*rates: float, count: int = 2000) -> tuple[Any, Any]:
    """Labels of parts with these shares of positives, and their times in another order of rows."""
    rng = np.random.default_rng(1)
    labels = np.concatenate([rng.random(count) < rate for rate in rates]).astype(np.int8)[:, None]
    order = rng.permutation(len(labels))
    return labels[order], np.arange(len(labels))[order]


@pytest.mark.parametrize(
    ("rates", "after", "failed"),
    [
        ((0.1, 0.1, 0.1, 0.1, 0.1), 0.1, False),
        # A rate that falls and stays, one that rises, one that varies.
        ((0.1, 0.1, 0.08, 0.05, 0.02), 0.02, False),
        ((0.02, 0.02, 0.05, 0.08, 0.1), 0.1, False),
        ((0.1, 0.05, 0.1, 0.05, 0.06), 0.1, False),
        ((0.1, 0.1, 0.1, 0.05, 0.01), 0.1, True),
    ],
)
def test_outcomes_of_the_last_rows_were_known(rates: tuple[float, ...], after: float, failed: bool) -> None:
    labels, times = outcomes(*rates)
    outcome = outcome_rates_outcome(labels, times, outcomes(after)[0], ["click"])
    assert (outcome.failed, outcome.where) == (failed, "click" if failed else "")
    rare = outcome_rates_outcome(labels[:100], times[:100], outcomes(0.001)[0], ["click"])
    assert rare.verdict == "not_measured"


def test_the_surprise_of_a_count_is_a_bound_of_its_chance() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count, of, rate in ((0, 200, 0.25), (90, 100, 0.5), (20, 1000, 0.005)):
        law = stats.binom(of, rate)
        chance = law.cdf(count) if count < of * rate else law.sf(count - 1)
        assert np.log(chance) <= -surprise_of(count, of, rate) + 1e-9
    assert surprise_of(0, 0, 0.5) == surprise_of(3, 10, 0.0) == 0.0


def test_batches_are_random_samples() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random((20_000, 2)) < (0.25, 0.01)).astype(np.int8)
    labels[rng.random(20_000) < 0.3, 1] = -1
    shuffled, ordered = labels[rng.permutation(20_000)], labels[np.argsort(labels[:, 0], kind="stable")]
    sound = RandomBatches(labels, ["click", "cart"])
    assert not any(sound.outcome(shuffled[at : at + 200]).failed for at in range(0, 20_000, 200))
    found = RandomBatches(labels, ["click", "cart"]).outcome(ordered[:200])
    assert (found.failed, found.hard, found.where) == (True, True, "click")
    assert found.measured is not None
    assert found.measured > SURPRISE
    assert "0 of 200 labels of task click are 1" in found.message


def test_small_batches_are_judged_together() -> None:
    labels = np.repeat(np.array([[0], [1]], dtype=np.int8), [6000, 2000], axis=0)
    composition = RandomBatches(labels, ["click"])
    found = [composition.outcome(labels[:32]).failed for _ in range(4)]
    assert found == [False, False, True, True]
