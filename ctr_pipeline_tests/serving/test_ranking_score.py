"""The ranking score: a sum of weighted probabilities and bids, and bids that cannot be used."""

import math
from typing import Any

import numpy as np
import pytest

from ctr_pipeline.serving.ranking_score import RankingScore, bid_column
from ctr_pipeline.serving.request_values import BundleError
from ctr_pipeline.spec.ranking import RankingTerm

TASKS = ("click", "buy")
P = np.array([[0.5, 0.25], [0.125, 0.0], [1.0, 0.5]], dtype=np.float32)


def terms(*declared: dict[str, Any]) -> RankingScore:
    return RankingScore.of([RankingTerm.model_validate(one) for one in declared], TASKS)


def test_weights_and_bids_add_up() -> None:
    weighted = terms({"task": "click"}, {"task": "buy", "weight": 8})
    assert weighted.bids == ()
    assert weighted.scores(P, {}).tolist() == [2.5, 0.125, 5.0]
    paid = terms({"task": "click", "bid": "bid"}, {"task": "buy", "weight": -2.0}, {"task": "buy", "bid": "bid"})
    assert paid.bids == ("bid",)
    assert paid.scores(P, {"bid": np.array([2.0, 8.0, 0.0])}).tolist() == [1.0 - 0.5 + 0.5, 1.0, -1.0]


def test_a_candidate_without_a_bid_has_no_score() -> None:
    found = terms({"task": "click", "bid": "bid"}).scores(P, {"bid": bid_column("bid", [1, None, math.nan])})
    assert found[0] == 0.5
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.01, "found a number below 0; expected a bid of at least 0, or null"),
        ("3", "found str; expected a number or null"),
        (math.inf, "found inf"),
        ([1], "found list"),
        (10**400, "found a whole number of 1329 bits"),
    ],
)
def test_other_bids_are_refused_with_their_row(value: Any, message: str) -> None:
    with pytest.raises(BundleError) as error:
        bid_column("bid", [1, value])
    assert str(error.value).startswith(f"row 1: bid 'bid': {message}")
