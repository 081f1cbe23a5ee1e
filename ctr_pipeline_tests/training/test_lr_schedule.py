from itertools import pairwise

import pytest

from ctr_pipeline.training.lr_schedule import learning_rate_factor


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[99] < 1e-3
    assert learning_rate_factor(0, 1, 0.0) == 1.0
