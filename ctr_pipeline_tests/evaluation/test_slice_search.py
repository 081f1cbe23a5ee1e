"""The search for slices: what is planted is found, and of a model that is right nothing is."""

import json

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.evaluation.slice_search import Feature, SliceSearch, search_slices

FEATURES = {"device": 3, "geo": 8, "hour": 12, "age": 5, "placement": 2}


def world(
    seed: int, *, users: int = 1500, per_user: int = 10, spread: float = 0.6
) -> tuple[np.ndarray, np.ndarray, dict[str, Feature], np.ndarray, np.ndarray]:
    """True rates given all but the user's own taste, drawn labels, features, and users."""
    draw = np.random.default_rng(seed)
    n = users * per_user
    user = np.repeat(np.arange(users), per_user)
    features = {
        name: Feature(codes=draw.integers(0, size, n), values=[f"{name}{code}" for code in range(size)])
        for name, size in FEATURES.items()
    }
    # Of a user, all rows are on one device.
    features["device"] = Feature(codes=draw.integers(0, 3, users)[user], values=features["device"].values)
    logits = draw.normal(-2.5, 0.7, n)
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    rates = sum(w * special.expit(logits + spread * x) for x, w in zip(nodes, weights / weights.sum(), strict=True))
    own = special.expit(logits + draw.normal(0, spread, users)[user])
    return special.logit(rates), own, features, user, draw.random(n)


def test_of_a_calibrated_model_something_is_found_in_at_most_5_of_100_worlds() -> None:
    found = 0
    for seed in range(120):
        logits, own, features, user, chance = world(seed)
        searched = search_slices(logits, (chance < own).astype(int), features, user, seed=seed)
        assert searched.searched > 100
        assert searched.proposed > 10
        found += bool(searched.found)
    # 6 are expected at most; three standard deviations above.
    assert found <= 13


@pytest.mark.parametrize("single", [True, False])
def test_a_planted_slice_is_found_first_and_its_figures_are_right(single: bool) -> None:
    logits, own, features, user, chance = world(1, users=6000)
    planted = features["geo"].codes == 2
    if not single:
        planted &= features["placement"].codes == 1
    labels = (chance < np.where(planted, np.minimum(own * 1.8, 1), own)).astype(int)
    champion = logits + np.where(planted, np.log(1.8), 0.0)
    result = search_slices(logits, labels, features, user, seed=0, compared=(logits, champion))
    first = result.found[0]
    expected = (("geo", "geo2"),) if single else (("geo", "geo2"), ("placement", "placement1"))
    assert first.conditions == expected
    assert first.oe.low < 1.8 < first.oe.high
    assert first.relative < first.oe.value
    # The champion knows of it.
    assert first.ne_against_champion is not None
    assert first.ne_against_champion.absolute.low > 0
    assert first.rows == first.ne_against_champion.rows < 0.55 * planted.sum()
    json.dumps(result.to_json(), allow_nan=False)


def test_a_rate_that_is_wrong_everywhere_is_no_slice() -> None:
    logits, own, features, user, chance = world(2)
    found = search_slices(logits - 0.5, (chance < own).astype(int), features, user, seed=0)
    assert found.found == ()


def test_other_rows_order_and_names_change_nothing() -> None:
    logits, own, features, user, chance = world(3)
    planted = np.where(features["hour"].codes == 4, np.minimum(own * 2.5, 1), own)
    labels = (chance < planted).astype(int)
    found = search_slices(logits, labels, features, user, seed=0)
    assert found.found[0].conditions == (("hour", "hour4"),)
    # Rows without a label are nowhere.
    masked = np.append(labels, [-1] * 5)
    more = {name: Feature(codes=np.append(f.codes, [0] * 5), values=f.values) for name, f in features.items()}
    again = search_slices(np.append(logits, [np.nan] * 5), masked, more, np.append(user, [user[0]] * 5), seed=0)
    assert again == found


def test_few_outcomes_are_not_searched_and_shapes_are_checked() -> None:
    logits, _, features, user, _ = world(4, users=100)
    assert search_slices(logits, np.zeros(len(logits), int), features, user, seed=0) == SliceSearch(
        searched=0, proposed=0, found=()
    )
    empty = {name: Feature(codes=feature.codes[:0], values=feature.values) for name, feature in features.items()}
    assert search_slices(logits[:0], user[:0], empty, seed=0).searched == 0
    with pytest.raises(EvaluationError, match="clusters: expected shape"):
        search_slices(logits, user, features, user[1:], seed=0)
    with pytest.raises(EvaluationError, match="device: expected shape"):
        search_slices(logits[1:], user[1:], features, user[1:], seed=0)
