import numpy as np
import pytest
from scipy import special, stats

from ctr_pipeline.evaluation.metrics import EvaluationError, normalised_entropy, observed_expected
from ctr_pipeline.evaluation.slices import (
    benjamini_hochberg,
    poisson_p_value,
    slice_metrics,
    standard_slices,
)


def rows(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    z = rng.normal(-3, 1, n)
    return z, (rng.random(n) < special.expit(z)).astype(np.int8), rng


def test_slices_are_the_metrics_of_their_rows() -> None:
    z, y, rng = rows(0, 20_000)
    y[::11] = -1
    position = rng.integers(1, 4, len(z))
    found = slice_metrics(z, y, {"position": position, "device": np.where(position == 1, "phone", "desk")})
    assert [(s.dimension, s.value) for s in found] == [
        ("position", "1"),
        ("position", "2"),
        ("position", "3"),
        ("device", "desk"),
        ("device", "phone"),
    ]
    chosen = position == 2
    assert found[1].ne == pytest.approx(normalised_entropy(z[chosen], y[chosen]))
    expected = observed_expected(z[chosen], y[chosen])
    assert expected is not None
    assert found[1].oe.value == pytest.approx(expected.value)
    # Rows by themselves: a little narrower than the exact interval of a Poisson count.
    assert expected.low < found[1].oe.low < found[1].oe.value < found[1].oe.high < expected.high
    assert np.log(found[1].oe.high / found[1].oe.low) == pytest.approx(np.log(expected.high / expected.low), rel=0.08)
    assert found[1].rows == int(((y >= 0) & chosen).sum())


def test_a_slice_whose_rates_moved_stands_out_and_others_do_not() -> None:
    z, _, rng = rows(1, 60_000)
    place = rng.integers(0, 12, len(z))
    y = (rng.random(len(z)) < special.expit(z + 0.5 * (place == 7))).astype(np.int8)
    found = slice_metrics(z, y, {"place": place})
    assert [s.value for s in found if s.miscalibrated] == ["7"]
    assert found[7].to_json()["miscalibrated"] is True


def test_false_alarms_are_rare_without_a_difference() -> None:
    alarms = 0
    for seed in range(200):
        z, y, rng = rows(seed, 2000)
        alarms += any(s.miscalibrated for s in slice_metrics(z, y, {"x": rng.integers(0, 10, len(z))}))
    assert alarms <= 18  # 5 % of 200, and three standard deviations


def test_users_with_all_their_rows_alike_count_as_often_as_they_are() -> None:
    """Each row five times tells no more than once, and what stands out no more."""
    z, y, rng = rows(4, 3000)
    place, users = rng.integers(0, 4, len(z)), np.arange(len(z))
    once = slice_metrics(z, y, {"x": place}, users)
    repeated = [np.repeat(of, 5) for of in (z, y, place, users)]
    five = slice_metrics(repeated[0], repeated[1], {"x": repeated[2]}, repeated[3])
    alone = slice_metrics(repeated[0], repeated[1], {"x": repeated[2]})
    for one, many, wrong in zip(once, five, alone, strict=True):
        assert many.oe.value == pytest.approx(one.oe.value)
        # The spread of users, a second estimate, cannot tell copies from users who differ: it never makes it narrower.
        assert np.log(many.oe.high / many.oe.low) == pytest.approx(np.log(one.oe.high / one.oe.low), rel=0.1)
        assert many.p_value == pytest.approx(one.p_value, abs=0.1)
        assert np.log(wrong.oe.high / wrong.oe.low) < 0.6 * np.log(one.oe.high / one.oe.low)


@pytest.mark.parametrize("seed", range(5))
def test_p_values_are_below_5_percent_where_the_interval_leaves_1_out(seed: int) -> None:
    z, y, rng = rows(seed, 3000)
    user, places = rng.integers(0, 200, len(z)), {"x": rng.integers(0, 40, len(z))}
    found = slice_metrics(z + rng.normal(0, 0.5), y, places, user)
    assert {of.oe.low <= 1 <= of.oe.high for of in found} == {True, False}
    for of in found:
        assert (of.p_value < 0.05) == (not of.oe.low <= 1 <= of.oe.high)


def test_users_who_differ_make_slices_without_outcomes_and_with_one_user_unsure() -> None:
    rng = np.random.default_rng(6)
    user = np.repeat(np.arange(100), 50)
    z = np.full(len(user), -3.0)
    y = (rng.random(len(z)) < special.expit(-3 + rng.normal(0, 1.5, 100))[user]).astype(np.int8)
    one = np.where(user == user[y == 1][0], "one user", "others")
    found = {of.value: of for of in slice_metrics(z, y, {"x": one}, user)}
    independent = {of.value: of for of in slice_metrics(z, y, {"x": one})}
    assert found["one user"].oe.high - found["one user"].oe.low > 1.5 * (
        independent["one user"].oe.high - independent["one user"].oe.low
    )
    none = slice_metrics(z, y, {"x": np.where(y == 1, "with", "without")}, user)[1]
    assert none.positives == 0
    assert none.oe.low == 0
    assert 3 / np.sum(special.expit(z[y == 0])) < none.oe.high < np.inf


def test_only_the_largest_slices_are_shown() -> None:
    z, y, _ = rows(2, 100)
    found = slice_metrics(z, y, {"x": np.repeat([0, 1, 2], [50, 10, 40])}, largest=2)
    assert [s.value for s in found] == ["0", "2"]


def test_empty_and_mismatched_slices() -> None:
    z, y, _ = rows(3, 10)
    assert slice_metrics(z, np.full(10, -1), {"x": np.arange(10)}) == ()
    with pytest.raises(EvaluationError, match="clusters: expected shape"):
        slice_metrics(z, y, {"x": np.arange(10)}, np.zeros(9, dtype=int))
    with pytest.raises(EvaluationError, match="slice 'x': expected shape"):
        slice_metrics(z, y, {"x": np.arange(9)})


def test_benjamini_hochberg_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(30) ** 3
        assert np.array_equal(benjamini_hochberg(p, 0.05), stats.false_discovery_control(p) <= 0.05)
    assert len(benjamini_hochberg(np.empty(0), 0.05)) == 0


def test_poisson_p_values() -> None:
    assert poisson_p_value(0, 5.0) == pytest.approx(2 * np.exp(-5.0))
    assert poisson_p_value(20, 5.0) == pytest.approx(2 * stats.poisson.sf(19, 5.0))
    assert poisson_p_value(5, 5.0) == 1.0
    assert poisson_p_value(0, 0.0) == 1.0


def test_standard_slices() -> None:
    numeric = np.array([[1.0, np.nan], [2.0, 1.0], [3.0, np.nan]], dtype=np.float32)
    found = standard_slices(np.array([1, 2, 1]), np.array([True, False, True]), numeric, ["a", "b"])
    assert set(found) == {"position", "traffic", "missing b"}
    assert found["traffic"].tolist() == ["random", "production", "random"]
    assert found["missing b"].tolist() == ["missing", "present", "missing"]
    assert standard_slices(np.zeros(3, dtype=np.int16), np.zeros(3, dtype=bool), numeric[:, :1], ["a"]) == {}
