"""Thresholds against a search over all of them, and scikit-learn's table."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import confusion_matrix, f1_score

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.evaluation.thresholds import best_f1, of_costs

ROWS = st.lists(
    st.tuples(st.integers(-9, 9).map(lambda z: z / 3), st.sampled_from([0, 1, -1])), min_size=1, max_size=40
)


@settings(deadline=None)
@given(ROWS)
def test_no_threshold_has_a_larger_f1(rows: list[tuple[float, int]]) -> None:
    z, y = (np.array(column) for column in zip(*rows, strict=True))
    found = best_f1(z, y)
    z, y = z[y >= 0], y[y >= 0]
    if not (y == 1).any():
        assert found is None
        return
    assert found is not None
    of_each = {cut: f1_score(y, z >= cut) for cut in np.unique(z)}
    assert found.f1 == pytest.approx(max(of_each.values()), abs=1e-12)
    highest = max(cut for cut, value in of_each.items() if math.isclose(value, max(of_each.values()), abs_tol=1e-12))
    assert found.probability == pytest.approx(special.expit(highest), abs=1e-12)
    table = confusion_matrix(y, z >= highest, labels=[0, 1])
    assert [
        [found.true_negatives, found.false_positives],
        [found.false_negatives, found.true_positives],
    ] == table.tolist()


@settings(deadline=None)
@given(ROWS, st.floats(0, 2), st.floats(0.1, 2))
def test_an_action_is_worth_its_cost(rows: list[tuple[float, int]], cost: float, value: float) -> None:
    z, y = (np.array(column) for column in zip(*rows, strict=True))
    found = of_costs(z, y, cost=cost, value=value)
    z, y = z[y >= 0], y[y >= 0]
    assert found.probability == min(1.0, cost / value)
    acted = special.expit(z) >= found.probability
    assert found.true_positives == (acted & (y == 1)).sum()
    assert found.false_positives == (acted & (y == 0)).sum()
    assert found.true_positives + found.false_negatives == (y == 1).sum()
    assert found.false_positives + found.true_negatives == (y == 0).sum()
    assert (found.precision is None) == (not acted.any())


def test_where_probabilities_hold_the_cost_threshold_earns_most() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(-3, 1.5, 200_000)
    y = (rng.random(len(z)) < special.expit(z)).astype(np.int8)

    def earned(cut: float) -> float:
        table = of_costs(z, y, cost=cut, value=1.0)
        return table.true_positives - 0.2 * (table.true_positives + table.false_positives)

    assert earned(0.2) > max(earned(0.1), earned(0.35))
    best = best_f1(z, y)
    assert best is not None
    assert best.f1 is not None
    assert best.probability == pytest.approx(best.f1 / 2, abs=0.02)


@pytest.mark.parametrize(("cost", "value"), [(-1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_other_costs_and_values_are_refused(cost: float, value: float) -> None:
    with pytest.raises(EvaluationError, match="expected a cost of at least 0 and a value above 0"):
        of_costs(np.array([0.0]), np.array([1]), cost=cost, value=value)
