import numpy as np
from scipy import special

from ctr_pipeline.evaluation import position_only_logits, position_only_reasons


def log_of(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, relevance, labels and users of a log in which both decide."""
    draws = np.random.default_rng(seed)
    position = draws.integers(1, 6, rows)
    relevance = draws.normal(0, 1, rows)
    logit = -2 - 0.4 * position + relevance
    labels = (draws.random(rows) < special.expit(logit)).astype(np.int8)
    return position, relevance, labels, draws.integers(0, rows // 10, rows)


def test_rates_are_those_of_the_settled_rows_of_each_position() -> None:
    position = np.repeat(np.array([1, 2, 0], np.int16), 100_000)
    labels = np.zeros(300_000, np.int8)
    labels[:10_000] = 1
    labels[100_000:101_000] = 1
    labels[50_000:100_000] = -1
    logits = position_only_logits(position, labels, np.array([1, 2, 0, 9], np.int16))
    assert logits is not None
    overall = 11_000 / 150_000
    expected = [
        (10_000 + 200 * overall) / 50_200,
        (1_000 + 200 * overall) / 100_200,
        overall,
        overall,
    ]
    np.testing.assert_allclose(special.expit(logits), expected, rtol=1e-12)


def test_there_is_nothing_to_compare_with_without_positions_or_with_one_class() -> None:
    one = np.ones(10, np.int16)
    both = np.array([0, 1] * 5, np.int8)
    assert position_only_logits(one, both, one) is None
    assert position_only_logits(0 * one, both, one) is None
    assert position_only_logits(np.arange(10, dtype=np.int16), np.zeros(10, np.int8), one) is None


def test_a_model_that_knows_the_position_alone_or_less_is_named_and_a_better_one_is_not() -> None:
    position, relevance, labels, user = log_of(60_000, 0)
    alone = position_only_logits(*log_of(60_000, 1)[:3:2], position)
    assert alone is not None
    better, blind, noisy = -2 - 0.4 * position + relevance, np.full(60_000, -3.0), alone + relevance[::-1]
    model = np.stack([better, blind, noisy, better], axis=1)
    reasons = position_only_reasons(
        ["good", "blind", "noisy", "no_positions"], model, np.stack([labels] * 4, axis=1), user,
        [alone, alone, alone, None], seed=0,
    )  # fmt: skip
    assert [reason.split(":")[0] for reason in reasons] == ["blind", "noisy"]
    assert "position alone" in reasons[0]


def test_few_positives_object_only_when_they_are_sure() -> None:
    position, relevance, labels, user = log_of(400, 2)
    assert labels.sum() < 100
    alone = position_only_logits(*log_of(60_000, 1)[:3:2], position)
    assert alone is not None
    slightly, surely = alone + 0.05 * relevance[::-1], -alone
    names, of = ["slightly", "surely"], np.stack([labels, labels], axis=1)
    reasons = position_only_reasons(names, np.stack([slightly, surely], axis=1), of, user, [alone, alone], seed=0)
    assert [reason.split(":")[0] for reason in reasons] == ["surely"]
