"""Draws of users: what they add up to, that users go together wherever they occur, and shares of a difference."""

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss

from ctr_pipeline.attribution.resampling import Resampling, entropies, interval_of
from ctr_pipeline.attribution.substitutions import share_of
from ctr_pipeline.evaluation.intervals import paired_difference


def test_a_user_has_one_weight_in_all_sets_of_rows() -> None:
    one, other = np.array([5, 5, 9, -1]), np.array([9, 7, -1])
    first, second = Resampling.of(one, other, seed=3, replicates=50)
    ones = first.totals(np.eye(4)), second.totals(np.eye(3))
    np.testing.assert_array_equal(ones[0][0], 1)
    np.testing.assert_array_equal(ones[0][:, 0], ones[0][:, 1])
    np.testing.assert_array_equal(ones[0][:, 2], ones[1][:, 0])
    # A row of its own shares its weight with none.
    assert (ones[0][:, 3] != ones[1][:, 2]).any()
    assert ones[0][1:].mean() == pytest.approx(1, abs=0.3)
    taken = first.take(np.array([2, 0])).totals(np.eye(2))
    np.testing.assert_array_equal(taken, ones[0][:, [2, 0]])


def test_entropies_of_each_draw_are_those_of_the_rows_that_it_holds() -> None:
    draw = np.random.default_rng(1)
    logits, users = draw.normal(-1, 1, 400), draw.integers(0, 60, 400)
    labels = (draw.random(400) < special.expit(logits)).astype(np.int8)
    labels[draw.random(400) < 0.1] = -1
    (draws,) = Resampling.of(users, seed=2, replicates=30)
    found = entropies([logits, logits * 2], labels, draws)
    kept = labels >= 0
    for place in (0, 1, 30):
        weights = draws.weights[place][draws.codes][kept]
        rate = np.average(labels[kept], weights=weights)
        base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        for column, scale in enumerate((1, 2)):
            expected = log_loss(labels[kept], special.expit(scale * logits[kept]), sample_weight=weights) / base
            assert found[place, column] == pytest.approx(expected, rel=1e-9)
    whole = paired_difference(logits * 2, logits, labels, users, seed=2)
    assert whole is not None
    assert found[0, 1] - found[0, 0] == pytest.approx(whole.absolute.value)


def test_few_users_tell_no_interval() -> None:
    (draws,) = Resampling.of(np.arange(30) % 5, seed=0)
    found = interval_of(entropies([np.zeros(30)], (np.arange(30) % 3 == 0).astype(np.int8), draws)[:, 0])
    assert np.isfinite(found.value)
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_a_share_is_within_the_shares_that_may_leave_nothing() -> None:
    draw = np.random.default_rng(4)
    whole = np.append(1.0, draw.normal(1.0, 0.2, 200))
    part = 0.6 * whole + np.append(0.0, draw.normal(0, 0.05, 200))
    found = share_of(part, whole)
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.low < 0.6 < found.high
    for bound in (found.low, found.high):
        rest = interval_of(part - bound * whole)
        assert min(abs(rest.low), abs(rest.high)) == pytest.approx(0, abs=1e-9)
    # A share of what may be nothing is none.
    assert share_of(part, whole - 0.9) is None
    assert share_of(part[:10], whole[:10]) is None
