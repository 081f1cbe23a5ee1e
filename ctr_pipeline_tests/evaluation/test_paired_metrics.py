"""Linear errors against a bootstrap, and against the metrics at slightly changed weights."""

import numpy as np
import pytest
from scipy import special

from ctr_pipeline.evaluation.metrics import average_precision, normalised_entropy, roc_auc, row_losses
from ctr_pipeline.evaluation.paired_metrics import MetricDifference, entropy_errors, paired_metrics


def rows(seed: int, n: int = 3000, users: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n)
    # Rounded, so that there are ties.
    z = np.round(rng.normal(-1.5, 1, n), 1)
    y = (rng.random(n) < special.expit(z + rng.normal(0, 0.7, users)[user])).astype(np.int8)
    y[rng.random(n) < 0.05] = -1
    return z, np.round(z + rng.normal(0, 0.3, n), 1), y, user


def test_errors_are_those_of_a_bootstrap_over_users() -> None:
    own, other, y, user = rows(0)
    found = paired_metrics(own, other, y, user)
    assert found is not None
    rng, draws = np.random.default_rng(1), []
    for _ in range(400):
        weights = rng.poisson(1.0, 300)[user].astype(float)
        values = [
            [metric(z, y, weights) for z in (own, other)] for metric in (roc_auc, average_precision, normalised_entropy)
        ]
        draws.append([values[0][0] - values[0][1], values[1][0] - values[1][1], values[2][0] / values[2][1] - 1])
    expected = np.std(draws, axis=0)
    errors = [found.auc.error, found.ap.error, found.relative_ne.error]
    np.testing.assert_allclose(errors, expected, rtol=0.15)


def test_values_are_those_of_the_metrics() -> None:
    own, other, y, user = rows(2)
    found = paired_metrics(own, other, y, user)
    assert found is not None
    assert found.auc.value == pytest.approx(roc_auc(own, y) - roc_auc(other, y), abs=1e-12)
    assert found.ap.value == pytest.approx(average_precision(own, y) - average_precision(other, y), abs=1e-12)
    assert found.relative_ne.value == pytest.approx(
        normalised_entropy(own, y) / normalised_entropy(other, y) - 1, abs=1e-12
    )


@pytest.mark.parametrize("metric", [roc_auc, average_precision])
def test_a_users_error_is_how_far_its_weight_moves_the_metric(metric: object) -> None:
    own, _, y, user = rows(3, n=400, users=30)
    constant = np.zeros_like(own)
    found = paired_metrics(own, constant, y, user)
    assert found is not None
    moved = []
    for who in range(30):
        weights = np.where(user == who, 1 + 1e-6, 1.0)
        change = [(metric(z, y, weights) - metric(z, y)) / 1e-6 for z in (own, constant)]  # type: ignore[operator]
        moved.append(change[0] - change[1])
    error = found.auc.error if metric is roc_auc else found.ap.error
    # Users of one class alone are left out of one half of DeLong's correction, so the AUC is near only.
    assert error == pytest.approx(np.sqrt(np.sum(np.square(moved)) * 30 / 29), rel=2e-2 if metric is roc_auc else 1e-4)


def test_the_log_of_ne_moves_as_its_errors_say() -> None:
    z, _, y, user = rows(4, n=500, users=20)
    kept = y >= 0
    z, positive, user = z[kept], (y[kept] == 1), user[kept]
    ne, errors = entropy_errors(row_losses(z, positive), positive.astype(float), user, 20)
    assert ne == pytest.approx(normalised_entropy(z, positive.astype(int)))
    for who in (0, 7):
        weights = np.where(user == who, 1 + 1e-6, 1.0)
        moved = np.log(normalised_entropy(z, positive.astype(int), weights) / ne) / 1e-6
        assert errors[who] == pytest.approx(moved, rel=1e-3, abs=1e-8)


def test_two_equal_models_do_not_differ() -> None:
    own, _, y, user = rows(5)
    found = paired_metrics(own, own, y, user)
    assert found is not None
    for difference in (found.auc, found.ap, found.relative_ne):
        assert (difference.value, difference.error) == (0.0, 0.0)
        assert difference.chance_above(0.0) == 1.0
        assert difference.chance_above(-0.1) == 0.0


def test_too_few_users_give_no_interval_and_one_class_no_difference() -> None:
    own, other, y, user = rows(6)
    few = np.where((y == 1) & (user > 5), 0, y)
    found = paired_metrics(own, other, few, user)
    assert found is not None
    assert np.isinf(found.auc.interval().high)
    assert found.relative_ne.chance_above(-5) == 1.0
    assert paired_metrics(own, other, np.zeros_like(y), user) is None


def test_the_interval_has_the_quantile_of_its_confidence() -> None:
    found = MetricDifference(value=1.0, error=2.0, freedom=1e9)
    assert found.interval().high == pytest.approx(1 + 2 * 1.959964, abs=1e-4)
    assert found.interval(0.99).high == pytest.approx(1 + 2 * 2.575829, abs=1e-4)
    assert found.chance_above(1 - 2 * 1.644854) == pytest.approx(0.05, abs=1e-6)
