"""nDCG against scikit-learn, MRR against all orders of equal rows, and the coverage of their intervals."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from ctr_pipeline.evaluation.group_ranking import group_ranking
from ctr_pipeline.evaluation.metrics import EvaluationError

ROWS = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.sampled_from([0, 0, 1, -1]), st.integers(-1, 4)),
    min_size=1,
    max_size=25,
)


def expected_reciprocal_rank(scores: list[float], labels: list[int]) -> float:
    """The mean over all orders that the scores allow."""
    found, place = Fraction(0), 0
    for score in sorted(set(scores), reverse=True):
        tied = [label for other, label in zip(scores, labels, strict=True) if other == score]
        if 1 in tied:
            orders = set(permutations(tied))
            # Each distinct order is as likely as any other.
            return float(sum(Fraction(1, place + order.index(1) + 1) for order in orders) / len(orders) + found)
        place += len(tied)
    raise AssertionError("no positive row")


@settings(deadline=None)
@given(ROWS, st.integers(1, 6))
def test_each_group_has_the_value_of_other_implementations(rows: list[tuple[float, int, int]], k: int) -> None:
    z, y, group = (np.array(column) for column in zip(*rows, strict=True))
    found = group_ranking(z, y, group, k=k)
    gains, ranks, left_out = [], [], 0
    for g in range(5):
        chosen = (group == g) & (y >= 0)
        if not chosen.any():
            continue
        if not (y[chosen] == 1).any():
            left_out += 1
            continue
        # It takes no single row.
        alone = chosen.sum() == 1
        gains.append(1.0 if alone else ndcg_score([y[chosen]], [z[chosen]], k=k))
        ranks.append(expected_reciprocal_rank(z[chosen].tolist(), y[chosen].tolist()) if chosen.sum() <= 8 else None)
    assert (found.groups, found.left_out) == (len(gains), left_out)
    if not gains:
        assert found.ndcg is found.mrr is None
        return
    assert found.ndcg is not None
    assert found.ndcg.value == pytest.approx(np.mean(gains), abs=1e-9)
    if None not in ranks:
        assert found.mrr is not None
        assert found.mrr.value == pytest.approx(np.mean(ranks), abs=1e-9)


def test_the_order_of_the_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    z, y, group = np.round(rng.normal(size=2000), 1), rng.integers(-1, 2, 2000), rng.integers(-1, 200, 2000)
    turned = rng.permutation(2000)
    found, other = (
        group_ranking(z, y, group, group // 2),
        group_ranking(z[turned], y[turned], group[turned], group[turned] // 2),
    )
    assert found.groups == other.groups
    assert found.ndcg is not None
    assert other.ndcg is not None
    assert found.ndcg.value == pytest.approx(other.ndcg.value, abs=1e-12)
    assert found.ndcg.low == pytest.approx(other.ndcg.low, abs=1e-12)


def test_intervals_hold_the_mean_of_the_population_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)

    def drawn(users: int) -> tuple[np.ndarray, ...]:
        group = np.repeat(np.arange(users * 3), 6)
        strength = np.repeat(rng.normal(0.5, 0.8, users), 18)
        y = (rng.random(len(group)) < 0.25).astype(int)
        return strength * y + rng.normal(size=len(group)), y, group, group // 3

    truth = group_ranking(*drawn(60_000))
    assert truth.ndcg is not None
    assert truth.mrr is not None
    held = np.zeros(2)
    for _ in range(400):
        found = group_ranking(*drawn(150))
        for at, (one, value) in enumerate([(found.ndcg, truth.ndcg.value), (found.mrr, truth.mrr.value)]):
            assert one is not None
            held[at] += one.low <= value <= one.high
    assert (held / 400 >= 0.92).all()
    assert (held / 400 <= 0.98).all()


def test_what_does_not_fit_is_refused() -> None:
    z, y = np.array([1.0, 2.0]), np.array([0, 1])
    with pytest.raises(EvaluationError, match="groups"):
        group_ranking(z, y, np.array([0]))
    with pytest.raises(EvaluationError, match="clusters"):
        group_ranking(z, y, np.array([0, 0]), np.array([0]))
    with pytest.raises(EvaluationError, match="k of at least 1"):
        group_ranking(z, y, np.array([0, 0]), k=0)
    assert group_ranking(z, y, np.array([-1, -1])).to_json() == {
        "key": "group", "k": 10, "ndcg": None, "mrr": None, "groups": 0, "left_out": 0, "rows": 0,
    }  # fmt: skip
