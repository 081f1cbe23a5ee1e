import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation import Interval, base_rate_reasons, evaluate


@pytest.mark.parametrize(
    ("ne", "words"),
    [
        (Interval(0.9, 0.85, 0.99), None),
        (Interval(0.97, 0.9, 1.0), "click: NE 0.970 (95 % interval 0.900 to 1.000) is not surely better"),
        (Interval(0.99, 0.9, 1.2), "is not surely better than the base rate"),
        (Interval(1.1, 1.05, 1.15), "is no better than the base rate"),
        (Interval(0.5, -np.inf, np.inf), "is not surely better"),
        (None, "click: the test rows do not have labels of both classes"),
    ],
)
def test_the_whole_interval_has_to_lie_below_one(ne: Interval | None, words: str | None) -> None:
    reasons = base_rate_reasons({"buy": Interval(0.8, 0.7, 0.9), "click": ne})
    assert [words in reason for reason in reasons] == ([True] if words else [])


def test_a_broken_task_among_good_ones_is_enough() -> None:
    good, bad = Interval(0.8, 0.7, 0.9), Interval(1.1, 1.0, 1.2)
    assert len(base_rate_reasons({"click": good, "buy": good})) == 0
    assert [reason.split(":")[0] for reason in base_rate_reasons({"click": good, "buy": bad, "like": bad})] == [
        "buy",
        "like",
    ]


def test_a_model_that_ranks_backwards_is_named_and_one_that_knows_the_rates_is_not() -> None:
    draws = np.random.default_rng(0)
    logits = draws.normal(-2, 1, 20_000)
    labels = (draws.random(20_000) < special.expit(logits)).astype(np.int8)
    user = draws.integers(0, 2000, 20_000)
    backwards = evaluate(-4 - logits, labels, user, seed=0)
    assert backwards.auc is not None
    assert backwards.auc.value < 0.45
    assert "no better" in base_rate_reasons({"click": backwards.ne})[0]
    assert base_rate_reasons({"click": evaluate(logits, labels, user, seed=0).ne}) == []


def test_an_interval_survives_json() -> None:
    for found in (Interval(0.9, 0.8, 1.0), Interval(0.9, -np.inf, np.inf)):
        assert Interval.from_json(found.to_json()) == found
