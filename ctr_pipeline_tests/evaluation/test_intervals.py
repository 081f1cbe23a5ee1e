import time

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import average_precision_score

from ctr_pipeline.calibration.labelled import labelled
from ctr_pipeline.evaluation.intervals import (
    MIN_CLUSTERS,
    _ResampledAP,
    bootstrap,
    cluster_codes,
    delong,
    paired_difference,
)
from ctr_pipeline.evaluation.metrics import EvaluationError, normalised_entropy, observed_expected, rank, roc_auc


def naive_delong_variance(z: np.ndarray, y: np.ndarray) -> float:
    """The definition: placements from all pairs, sample variances over their number."""
    wins = (z[y == 1][:, None] > z[y == 0]) + 0.5 * (z[y == 1][:, None] == z[y == 0])
    by_positive, by_negative = wins.mean(axis=1), wins.mean(axis=0)
    return by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative)


def market(
    rng: np.random.Generator, users: int, rows_each: int, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and users; ``spread`` is how much a user's rate is unknown to the model."""
    user = np.repeat(np.arange(users), rows_each)
    z = rng.normal(-2.0, 1.0, len(user))
    y = rng.random(len(user)) < special.expit(z + spread * rng.normal(size=users)[user])
    return z, y.astype(np.int8), user


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_delong_agrees_with_all_pairs(decimals: int) -> None:
    for seed in range(10):
        z, y, _ = market(np.random.default_rng(seed), 300, 1, 0.0)
        z = np.round(z, decimals)
        found = delong(z, y)
        auc = roc_auc(z, y)
        assert found is not None
        assert auc is not None
        assert found.value == auc
        se = (special.logit(found.high) - special.logit(found.low)) / 2 / 1.959964 * auc * (1 - auc)
        assert se**2 == pytest.approx(naive_delong_variance(z, y), rel=1e-5)


def test_delong_of_single_rows_is_that_of_clusters_of_one() -> None:
    z, y, user = market(np.random.default_rng(0), 200, 1, 0.0)
    assert delong(z, y, user) == delong(z, y) == delong(z, y, np.full(len(z), -1))


def test_repeating_every_row_of_a_user_does_not_narrow_the_clustered_interval() -> None:
    z, y, user = market(np.random.default_rng(1), 300, 1, 0.0)
    once, five = delong(z, y, user), delong(np.repeat(z, 5), np.repeat(y, 5), np.repeat(user, 5))
    naive = delong(np.repeat(z, 5), np.repeat(y, 5))
    assert once is not None
    assert five is not None
    assert naive is not None
    assert (five.low, five.high) == pytest.approx((once.low, once.high), rel=1e-9)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_perfect_auc_keeps_an_open_end() -> None:
    z, y = np.arange(30.0), np.repeat([0, 1], [20, 10])
    found = delong(z, y)
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 10))
    turned = delong(-z, y)
    assert turned is not None
    assert (turned.low, turned.high) == (0.0, pytest.approx(1 - found.low))


def test_one_positive_has_an_auc_without_bounds() -> None:
    found = delong(np.arange(5.0), np.array([0, 0, 0, 1, 0]))
    assert found is not None
    assert found.value == 0.75
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert found.to_json() == {"value": 0.75, "low": None, "high": None}
    assert delong(np.arange(5.0), np.zeros(5, dtype=np.int8)) is None


def truth(metric: str, spread: float) -> float:
    z, y, _ = market(np.random.default_rng(99), 400_000, 5, spread)
    value = roc_auc(z, y) if metric == "auc" else normalised_entropy(z, y)
    assert value is not None
    return value


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_intervals_cover_the_truth(spread: float) -> None:
    true_auc, true_ne = truth("auc", spread), truth("ne", spread)
    inside, seeds = np.zeros(2), 200
    for seed in range(seeds):
        z, y, user = market(np.random.default_rng(seed), 300, 5, spread)
        auc = delong(z, y, user)
        ne = bootstrap(z, y, user, seed=seed, replicates=60).normalised_entropy
        assert auc is not None
        assert ne is not None
        inside += [auc.low <= true_auc <= auc.high, ne.low <= true_ne <= ne.high]
    assert np.all(inside / seeds >= 0.92), inside / seeds
    assert np.all(inside / seeds <= 0.98), inside / seeds


def test_users_widen_the_interval_of_a_rate() -> None:
    z, y, user = market(np.random.default_rng(3), 300, 20, 2.0)
    by_user, by_row = (bootstrap(z, y, c, seed=0).observed_expected for c in (user, None))
    assert by_user is not None
    assert by_row is not None
    assert by_user.high - by_user.low > 1.5 * (by_row.high - by_row.low)


def test_resampled_ap_is_the_weighted_average_precision() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        z, y, user = market(rng, 60, 4, 1.0)
        z = np.round(z, 1)
        rows = labelled(z, y)
        weights = rng.poisson(1.0, (3, 60))
        found = _ResampledAP(rows, rank(rows.logits), user, 60)(weights.T.astype(float))
        expected = [average_precision_score(y, z, sample_weight=own[user]) for own in weights]
        assert found == pytest.approx(expected, abs=1e-12)
        none = _ResampledAP(rows, rank(rows.logits), user, 60)(np.zeros((60, 1)))
        assert np.isnan(none).all()


def test_bootstrap_is_deterministic_and_depends_on_the_seed() -> None:
    z, y, user = market(np.random.default_rng(6), 200, 5, 1.0)
    assert bootstrap(z, y, user, seed=1) == bootstrap(z, y, user, seed=1)
    assert bootstrap(z, y, user, seed=1) != bootstrap(z, y, user, seed=2)


def test_bootstrap_ignores_masked_rows() -> None:
    z, y, user = market(np.random.default_rng(7), 200, 5, 1.0)
    mask = np.arange(len(z)) % 3 == 0
    masked = np.where(mask, -1, y)
    assert bootstrap(z, masked, user, seed=1) == bootstrap(z[~mask], y[~mask], user[~mask], seed=1)


def test_few_users_have_no_bootstrap_interval_but_a_poisson_one() -> None:
    z, y = np.linspace(-3, 3, 400), np.zeros(400, dtype=np.int8)
    y[-50:] = 1
    user = np.arange(400) % (MIN_CLUSTERS - 1)
    found = bootstrap(z, y, user, seed=0)
    assert found.reason == "9 users have a positive row; an interval needs 10"
    assert found.normalised_entropy is not None
    assert np.isinf(found.normalised_entropy.high)
    assert found.average_precision is not None
    assert np.isinf(found.average_precision.low)
    poisson = observed_expected(z, y)
    assert found.observed_expected is not None
    assert poisson is not None
    assert found.observed_expected.high == pytest.approx(poisson.high)


def test_empty_rows() -> None:
    found = bootstrap(np.zeros(3), np.full(3, -1), seed=0)
    assert found.average_precision is found.log_loss is found.normalised_entropy is found.observed_expected is None
    assert paired_difference(np.zeros(3), np.zeros(3), np.full(3, -1), seed=0) is None


def test_rows_without_a_user_are_their_own() -> None:
    codes, count = cluster_codes(np.array([7, -1, 7, 3, -1]), 5)
    assert count == 4
    assert codes[0] == codes[2]
    assert len(set(codes.tolist())) == 4
    with pytest.raises(EvaluationError, match="one cluster code for each of 5 rows"):
        cluster_codes(np.array([1]), 5)


def test_paired_difference_of_a_model_with_itself_is_nothing() -> None:
    z, y, user = market(np.random.default_rng(8), 100, 5, 0.0)
    found = paired_difference(z, z, y, user, seed=0)
    assert found is not None
    assert (found.absolute.low, found.absolute.value, found.absolute.high) == (0.0, 0.0, 0.0)


def test_paired_difference_is_that_of_ne_and_covers_it() -> None:
    def worse(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return 1.3 * z + rng.normal(0, 0.5, len(z))

    big = np.random.default_rng(1)
    z, y, _ = market(big, 300_000, 5, 1.0)
    other = worse(z, big)
    true_ne, true_other = normalised_entropy(z, y), normalised_entropy(other, y)
    assert true_ne is not None
    assert true_other is not None
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(1000 + seed)
        z, y, user = market(rng, 200, 5, 1.0)
        found = paired_difference(worse(z, rng), z, y, user, seed=seed, replicates=60)
        assert found is not None
        covered += found.relative.low <= true_other / true_ne - 1 <= found.relative.high
    assert 0.92 <= covered / 200 <= 0.98
    other = worse(z, rng)
    found = paired_difference(other, z, y, user, seed=0)
    ne, ne_other = normalised_entropy(z, y), normalised_entropy(other, y)
    assert found is not None
    assert ne is not None
    assert ne_other is not None
    assert found.absolute.value == pytest.approx(ne_other - ne, abs=1e-12)
    assert found.relative.value == pytest.approx(ne_other / ne - 1, abs=1e-12)
    unpaired = bootstrap(z, y, user, seed=0).normalised_entropy
    assert unpaired is not None
    assert found.absolute.high - found.absolute.low < unpaired.high - unpaired.low


def test_is_fast_enough_for_a_daily_test_set() -> None:
    z, y, user = market(np.random.default_rng(9), 60_000, 5, 1.0)
    started = time.process_time()
    bootstrap(z, y, user, seed=0, replicates=100)
    delong(z, y, user)
    assert time.process_time() - started < 6.0
