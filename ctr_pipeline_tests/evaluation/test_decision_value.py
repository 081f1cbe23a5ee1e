"""What acting on a model's probabilities is worth: its interval, its threshold, and what is refused. Values: test_oracles.py."""

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation.decision_value import ActionCosts, decision_value
from ctr_pipeline.evaluation.metrics import EvaluationError


def test_no_other_threshold_gains_more_where_probabilities_hold() -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(-2, 1.5, 400_000)
    y = (draw.random(len(z)) < special.expit(z)).astype(int)
    found = decision_value(z, y, ActionCosts(cost=2.0, value=10.0))
    assert found is not None
    assert found.threshold.probability == 0.2
    for other in (0.1, 0.15, 0.3, 0.4):
        acted = special.expit(z) >= other
        assert 1000 * np.mean(acted * (10.0 * y - 2.0)) < found.gain.value
    assert found.all_rows < found.gain.value < found.oracle
    assert found.regret == found.oracle - found.gain.value


def test_the_interval_holds_in_95_of_100_worlds() -> None:
    draw, held, worlds = np.random.default_rng(1), 0, 400
    costs, users = ActionCosts(cost=1.0, value=5.0), np.repeat(np.arange(200), 8)
    nodes, weights = np.polynomial.hermite_e.hermegauss(31)
    grid, spread = np.linspace(-4, 4, 801), 0.8
    # Rows at z = -1 + x, x standard normal; the user's own taste is not known to the model.
    density = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    rates = sum(w * special.expit(-1 + grid + spread * n) for n, w in zip(nodes, weights / weights.sum(), strict=True))
    truth = 1000 * np.sum(density * (special.expit(-1 + grid) >= 0.2) * (5.0 * rates - 1.0))
    for _ in range(worlds):
        z = -1 + draw.normal(size=1600)
        y = (draw.random(1600) < special.expit(z + spread * draw.normal(size=200)[users])).astype(int)
        found = decision_value(z, y, costs, users)
        assert found is not None
        held += found.gain.low <= truth <= found.gain.high
    assert 0.92 <= held / worlds <= 0.98


def test_what_makes_no_sense_is_refused() -> None:
    for cost, value in ((-1.0, 1.0), (1.0, 0.0), (np.nan, 1.0), (1.0, np.inf)):
        with pytest.raises(EvaluationError, match="expected a cost of at least 0 and a value above 0"):
            ActionCosts(cost=cost, value=value)
    with pytest.raises(EvaluationError, match="clusters: expected shape"):
        decision_value(np.zeros(3), np.zeros(3, int), ActionCosts(cost=0, value=1), np.zeros(2, int))
    assert decision_value(np.zeros(3), np.full(3, -1), ActionCosts(cost=0, value=1)) is None
    # An action that costs more than an outcome is worth is never taken.
    found = decision_value(np.zeros(3), np.ones(3, int), ActionCosts(cost=2, value=1))
    assert found is not None
    assert (found.threshold.true_positives, found.gain.value, found.oracle) == (0, 0.0, 0.0)
