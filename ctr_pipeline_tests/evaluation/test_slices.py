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
    assert (found[1].oe.low, found[1].oe.value, found[1].oe.high) == pytest.approx(
        (expected.low, expected.value, expected.high)
    )
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


def test_only_the_largest_slices_are_shown() -> None:
    z, y, _ = rows(2, 100)
    found = slice_metrics(z, y, {"x": np.repeat([0, 1, 2], [50, 10, 40])}, largest=2)
    assert [s.value for s in found] == ["0", "2"]


def test_empty_and_mismatched_slices() -> None:
    z, y, _ = rows(3, 10)
    assert slice_metrics(z, np.full(10, -1), {"x": np.arange(10)}) == ()
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
