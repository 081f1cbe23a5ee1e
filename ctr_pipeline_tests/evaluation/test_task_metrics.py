import json

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation import EvaluationError, RowGroups, evaluate, evaluate_ranking


def rows(seed: int = 0, n: int = 5000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(-2, 1.2, n)
    y = (rng.random(n) < special.expit(z)).astype(np.int8)
    y[rng.random(n) < 0.1] = -1
    return z.astype(np.float32), y, rng.integers(-1, 800, n)


def test_report_is_complete_and_is_json() -> None:
    z, y, user = rows()
    found = evaluate(z, y, user, seed=3)
    assert found.undefined == {}
    assert found.rows + found.masked == len(z)
    assert found.positives == int((y == 1).sum())
    for name, interval in found.intervals().items():
        assert interval is not None, name
        # The calibration error of probabilities that hold may be no more than noise.
        assert interval.low < interval.value <= interval.high, name
    assert found.ne is not None
    assert found.rig == 1 - found.ne.value
    assert found.oe is not None
    assert found.oe.low < 1 < found.oe.high
    assert list(found.recall_at) == [0.01, 0.05, 0.1]
    content = found.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["recall_at"]["0.05"] == found.recall_at[0.05]
    assert set(content) == {*type(found).__dataclass_fields__} - {
        "grouped_auc",
        "group_order",
        "session_auc",
        "decision",
    }
    numbers = found.numbers()
    assert numbers["auc_low"] < numbers["auc"] < numbers["auc_high"]
    assert numbers["recall_at_0.1"] == found.recall_at[0.1]
    assert evaluate(z, y, user, seed=3) == found


@pytest.mark.parametrize("label", [-1, 0, 1])
def test_one_class_is_reported_with_reasons(label: int) -> None:
    z, y, user = rows()
    found = evaluate(z, np.full_like(y, label), user, seed=0)
    assert found.auc is None
    assert found.ne is None
    assert found.undefined["auc"]
    assert found.undefined["rig"] == found.undefined["auc"]
    assert found.undefined["user_auc"] == "no user has both classes"
    for name, value in found.to_json().items():
        if value is None or value == {}:
            assert name in found.undefined, name
    json.dumps(found.to_json(), allow_nan=False)
    assert all(np.isfinite(v) for v in found.numbers().values())


def test_few_positives_say_why_there_are_no_bounds() -> None:
    z, y, user = rows()
    rare = np.where((y == 1) & (np.cumsum(y == 1) > 4), 0, y)
    found = evaluate(z, rare, user, seed=0)
    assert found.ap is not None
    assert np.isinf(found.ap.high)
    assert "intervals of ap, log_loss and ne" in found.undefined
    assert "ap_low" not in found.numbers()
    json.dumps(found.to_json(), allow_nan=False)


def test_without_users_rows_are_independent() -> None:
    z, y, _ = rows()
    found = evaluate(z, y, seed=0)
    assert found.clusters == found.rows
    assert found.undefined == {"user_auc": "the rows have no users"}


def test_clusters_of_another_length_are_refused() -> None:
    z, y, user = rows()
    with pytest.raises(EvaluationError, match="clusters: expected shape"):
        evaluate(z, y, user[:-1], seed=0)


def test_a_ranking_score_has_the_metrics_of_its_order_and_none_of_rates() -> None:
    z, y, user = rows(n=2000)
    expected = evaluate(z, y, user, user, seed=3)
    scores = 100.0 * np.exp(z.astype(np.float64)) - 7
    found = evaluate_ranking(scores, y, RowGroups(clusters=user, groups=user), seed=3)
    assert (found.auc, found.ap, found.grouped_auc, found.recall_at) == (
        expected.auc, expected.ap, expected.grouped_auc, expected.recall_at
    )  # fmt: skip
    assert found.ne is found.oe is found.log_loss is found.mean_prediction is found.calibration_error is None
    assert found.undefined["ne"] == "the scores are no probabilities"
    assert found.bins == ()
    scores[:1500] = np.nan
    assert evaluate_ranking(scores, y, RowGroups(), seed=3).auc == evaluate(z[1500:], y[1500:], seed=3).auc
