import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation import (
    Interval,
    against_position,
    position_only,
    position_reasons,
    validation_entropy,
    validation_reasons,
)
from ctr_pipeline.evaluation.floor import FEW_POSITIVES, PRIOR_ROWS
from ctr_pipeline.evaluation.intervals import PairedDifference

GOOD, SURELY_BAD, PERHAPS = Interval(0.8, 0.75, 0.85), Interval(1.4, 1.2, 1.6), Interval(1.05, 0.9, 1.2)


@pytest.mark.parametrize(
    ("mean", "by_task", "words"),
    [
        (0.8, {"click": GOOD}, []),
        # One rare task may lie above the limit by chance.
        (0.9, {"click": GOOD, "buy": PERHAPS}, []),
        (None, {"click": None}, []),
        (3.94, {"click": GOOD}, ["mean normalised entropy of 3.940"]),
        (1.0, {"click": GOOD}, ["mean normalised entropy of 1.000"]),
        (0.95, {"click": GOOD, "buy": SURELY_BAD}, ["buy: NE 1.400 (95 % interval 1.200 to 1.600)"]),
        # NaN is written as no number.
        (None, {"click": GOOD}, ["no finite normalised entropy"]),
    ],
)
def test_what_the_validation_forbids(mean: float | None, by_task: dict[str, Interval | None], words: list[str]) -> None:
    found = validation_reasons(mean, by_task, 1.0)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_a_lower_limit_refuses_more() -> None:
    assert validation_reasons(0.97, {"click": GOOD}, 1.0) == ()
    assert len(validation_reasons(0.97, {"click": GOOD}, 0.95)) == 1


def test_rates_of_positions_are_smoothed_towards_the_base_rate() -> None:
    positions, labels = np.array([1] * 300 + [2] * 100), np.array([1] * 90 + [0] * 210 + [1] * 10 + [0] * 90)
    found = position_only(positions, labels, np.array([1, 2, 7, 0]))
    assert found is not None
    base = 100 / 400
    expected = [
        (90 + PRIOR_ROWS * base) / (300 + PRIOR_ROWS),
        (10 + PRIOR_ROWS * base) / (100 + PRIOR_ROWS),
        base,
        base,
    ]
    assert special.expit(found) == pytest.approx(expected)


def test_unsettled_labels_teach_no_rate() -> None:
    positions, labels = np.array([1, 1, 2, 2, 2]), np.array([1, 0, 0, 1, 0])
    with_open = position_only(np.append(positions, [1] * 50), np.append(labels, [-1] * 50), positions)
    assert with_open == pytest.approx(position_only(positions, labels, positions))


@pytest.mark.parametrize("positions", [[0, 0, 0], [3, 3, 3], [0, 3, 3]])
def test_without_two_positions_there_is_no_such_model(positions: list[int]) -> None:
    assert position_only(np.array(positions), np.array([1, 0, 1]), np.array([1])) is None


def test_a_model_that_knows_only_the_position_is_refused_and_one_that_knows_more_is_not() -> None:
    draws = np.random.default_rng(3)
    position = draws.integers(1, 6, 20_000)
    known = draws.normal(0, 1, 20_000)
    truth = -2.0 - 0.5 * position + known
    labels, user = (draws.random(20_000) < special.expit(truth)).astype(np.int8), draws.integers(0, 2000, 20_000)
    rates = position_only(position, labels, position)
    assert rates is not None
    for logits, refused in ((truth, False), (rates + 1e-9, True), (-2.0 - 0.5 * position - known, True)):
        difference = against_position(logits, rates, labels, user, seed=0)
        assert bool(position_reasons({"click": difference})) == refused
    assert position_reasons({"click": None}) == ()


def difference(value: float, low: float, high: float, positives: int) -> PairedDifference:
    return PairedDifference(
        absolute=Interval(value, low, high),
        relative=Interval(value, low, high),
        rows=5000,
        positives=positives,
        clusters=900,
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (difference(-0.2, -0.4, -0.01, 12), None),
        (difference(-0.2, -0.4, 0.1, 12), "with 12 outcomes on the test rows it cannot be told"),
        (difference(0.1, -0.1, 0.3, 49), "with 49 outcomes on the test rows it cannot be told"),
        (
            difference(-0.2, -np.inf, np.inf, 5),
            "buy: NE -20.0% (no interval) beside a model that knows the position alone: with 5",
        ),
        # Few are enough where all of the interval speaks against the model.
        (difference(0.3, 0.1, 0.5, 12), "the model is no better; the interval has to lie below 0"),
        (difference(-0.01, -0.03, 0.01, 50), "the model is not surely better; the interval has to lie below 0"),
    ],
)
def test_a_task_with_few_outcomes_is_said_to_have_too_few(given: PairedDifference, words: str | None) -> None:
    reasons = position_reasons({"buy": given})
    assert len(reasons) == (words is not None)
    assert words is None or words in reasons[0]


def test_with_few_outcomes_the_true_rates_are_seldom_shown_to_be_better_and_noise_never() -> None:
    shown = {True: 0, False: 0}
    for seed in range(20):
        draws = np.random.default_rng(seed)
        position, known = draws.integers(1, 6, 4000), draws.normal(0, 1, 4000)
        truth = special.logit(15 / 4000) - 0.5 + known
        labels = (draws.random(4000) < special.expit(truth)).astype(np.int8)
        rates = position_only(position, labels, position)
        assert rates is not None
        for good, logits in ((True, truth), (False, rates + draws.normal(0, 0.3, 4000))):
            found = against_position(logits, rates, labels, None, seed=0)
            assert found is not None
            assert found.positives < FEW_POSITIVES
            shown[good] += not position_reasons({"buy": found})
    assert 4 <= shown[True] <= 16
    assert shown[False] <= 2


def test_the_validation_entropy_of_the_true_rates_lies_below_one() -> None:
    draws = np.random.default_rng(4)
    logits = draws.normal(-2, 1.5, 5000)
    labels = (draws.random(5000) < special.expit(logits)).astype(np.int8)
    found, wrong = (validation_entropy(z, labels, None, seed=0) for z in (logits, -logits * 3))
    assert found is not None
    assert wrong is not None
    assert found.high < 1 < wrong.low
    assert validation_entropy(logits, np.zeros(5000, dtype=np.int8), None, seed=0) is None
