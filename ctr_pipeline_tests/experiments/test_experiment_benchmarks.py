"""What benchmarks/experiments.py and benchmarks/policy_value.py count; nightly, online tests and intervals keep what they state."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def benchmark(project: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    import experiments

    return experiments


def test_a_world_is_planned_and_read_until_the_planned_precision(benchmark: ModuleType) -> None:
    from _experiment_worlds import begin, made_up

    days = begin() + benchmark.LONGEST + benchmark.MATURITY_DAYS
    draw = made_up(1, users=800)
    traffic = draw(np.random.default_rng(0), days, 0.0, "none")
    size = benchmark.planned(traffic)
    assert size.sequential_days == benchmark.DAYS
    readings = benchmark.looks(traffic, size, size.rule.sequential_quantiles)
    assert all(reading.information < 1 for reading in readings[:-1])
    assert readings[-1].information >= 1 or len(readings) == benchmark.LONGEST - benchmark.FIRST_LOOK + 1
    # Rows of a user on the days [a, b) are counted once.
    assert traffic.rows_within(3, 9) == pytest.approx(traffic.rows[:, 3:9].sum(axis=1))
    assert traffic.outcomes_within(0, days) == pytest.approx(traffic.outcomes.sum(axis=1))


def test_wilson_s_interval_is_that_of_statistics(benchmark: ModuleType) -> None:
    from scipy import stats

    expected = stats.binomtest(7, 500).proportion_ci(method="wilson")
    assert benchmark.wilson(7, 500) == pytest.approx((expected.low, expected.high))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["made_up", "slower", "marketplace"])
def test_planned_effects_are_found_and_nothing_else(benchmark: ModuleType, kind: str) -> None:
    tally = benchmark.measured(kind, 10, 500)
    bounds = {name: benchmark.wilson(count, tally.tests) for name, count in tally.counts.items()}
    # With daily looks: no more wrong decisions than alpha, and at least the power.
    assert tally.counts["wrong"] / tally.tests <= 0.05, bounds
    assert bounds["found"][1] >= 0.8, bounds
    assert bounds["found_single"][1] >= 0.8, bounds
    assert bounds["wrong_single"][0] <= 0.05, bounds
    assert tally.counts["wrong_naive"] > 2 * tally.counts["wrong_single"], bounds
    if kind == "slower":
        assert bounds["wrong_unsettled"][0] > 0.05, bounds


@pytest.mark.nightly
def test_intervals_of_a_policy_s_value_hold_the_truth(benchmark: ModuleType) -> None:
    import policy_value

    for name, share in policy_value.main([]).items():
        assert benchmark.wilson(round(share * 200), 200)[1] >= 0.95, (name, share)
