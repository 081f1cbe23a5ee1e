"""Rates by cell: their formula, no reward predicted with itself, and what is refused."""

import numpy as np
import pytest

from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.reward_model import model_of_cells


def test_predictions_are_the_rates_of_the_other_half() -> None:
    rng = np.random.default_rng(0)
    units, cells, groups = rng.integers(0, 40, 600), rng.integers(0, 4, 600), rng.integers(0, 2, 600)
    rewards = (rng.random(600) < 0.3).astype(float)
    choices, weights = rng.integers(0, 4, (600, 3)), rng.dirichlet(np.ones(3), 600)
    found = model_of_cells(rewards, cells, groups, choices, weights, units, strength=20)
    half = np.random.default_rng(0).permutation(40)[units] % 2
    for row in range(0, 600, 7):
        other = half != half[row]

        def rate(cell: int, row: int = row, other: np.ndarray = other) -> float:
            in_group = other & (groups == groups[row])
            lean = (rewards[in_group].sum() + 20 * rewards[other].mean()) / (in_group.sum() + 20)
            own = in_group & (cells == cell)
            return float((rewards[own].sum() + 20 * lean) / (own.sum() + 20))

        assert found.shown[row] == pytest.approx(rate(cells[row]))
        expected = sum(weight * rate(cell) for cell, weight in zip(choices[row], weights[row], strict=True))
        assert found.candidate[row] == pytest.approx(expected)


def test_a_reward_does_not_predict_itself() -> None:
    rng = np.random.default_rng(1)
    cells, units = np.arange(1000) % 500, np.arange(1000)
    rewards = (rng.random(1000) < 0.5).astype(float)
    zeros = np.zeros(1000, dtype=int)
    found = model_of_cells(rewards, cells, zeros, cells[:, None], np.ones((1000, 1)), units, strength=0.1)
    assert abs(np.corrcoef(found.shown, rewards)[0, 1]) < 0.15


def test_shapes_that_differ_are_refused() -> None:
    one = np.zeros(3, dtype=int)
    with pytest.raises(EvaluationError, match="for each row"):
        model_of_cells(np.zeros(3), one, one[:2], one[:, None], np.ones((3, 1)), one)
    with pytest.raises(EvaluationError, match=r"cells and weights \[N, M\]"):
        model_of_cells(np.zeros(3), one, one, one[:, None], np.ones((3, 2)), one)
