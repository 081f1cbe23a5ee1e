"""The cosine of two tasks' gradients is told from the noise that their rows share."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ctr_pipeline.evaluation.gradient_conflict import GradientConflict, conflict_of
from ctr_pipeline.evaluation.metrics import EvaluationError

TASKS, BLOCKS, WIDTH = ("click", "cart", "sale"), 16, 400


def products(gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    tasks, blocks, width = gradients.shape
    flat = gradients.reshape(tasks * blocks, width)
    return (flat @ flat.T).reshape(tasks, blocks, tasks, blocks)


def measured(cosine: float, noise: float, shared: float, seed: int = 1, weak: float = 1.0) -> GradientConflict:
    """Click and cart with means of that cosine, the norm of the noise by block, and the part of it that they share."""
    random = np.random.default_rng(seed)
    means = np.zeros((3, WIDTH))
    means[0, 0] = means[2, 1] = 1.0
    means[1, :2] = cosine, np.sqrt(1 - cosine**2)
    means[1] *= weak
    own = random.normal(size=(3, BLOCKS, WIDTH)) * noise / np.sqrt(WIDTH)
    common = random.normal(size=(1, BLOCKS, WIDTH)) * noise / np.sqrt(WIDTH)
    gradients = means[:, None] + np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    return conflict_of(TASKS, products(gradients), rows=1600, parameters=WIDTH)


@pytest.mark.parametrize("cosine", [-0.8, -0.3, 0.0, 0.6])
def test_the_cosine_is_that_of_the_means_whatever_noise_the_rows_share(cosine: float) -> None:
    errors, held = [], 0
    for seed in range(40):
        found = measured(cosine, noise=4.0, shared=0.9, seed=seed).pairs[0].cosine
        assert found is not None
        errors.append(found.value - cosine)
        held += found.low <= cosine <= found.high
    assert abs(np.mean(errors)) < 0.05
    assert held >= 34


def test_noise_that_two_tasks_share_looks_like_agreement_where_it_is_not_taken_out() -> None:
    found = measured(-0.5, noise=4.0, shared=0.95)
    assert found.pairs[0].observed > 0
    assert found.pairs[0].cosine is not None
    assert found.pairs[0].cosine.value < -0.2


def test_tasks_against_each_other_are_named() -> None:
    found = measured(-0.9, noise=2.0, shared=0.5)
    assert [pair.conflicts for pair in found.pairs] == [True, False, False]
    assert found.pairs[0].tasks == ("click", "cart")
    assert found.norms["click"] == pytest.approx(np.sqrt(BLOCKS**2 + 4 * BLOCKS), rel=0.05)
    content = found.to_json()
    assert content["pairs"][0]["conflicts"]
    assert (content["rows"], content["blocks"], content["parameters"]) == (1600, BLOCKS, WIDTH)


def test_a_gradient_that_does_not_repeat_is_not_compared() -> None:
    found = measured(-0.9, noise=4.0, shared=0.0, weak=0.0)
    assert abs(found.split_half["cart"]) < 0.05
    assert found.split_half["click"] == pytest.approx(1 / (1 + 16.0 / 8), abs=0.1)
    assert found.pairs[0].cosine is None
    assert not found.pairs[0].conflicts
    assert found.pairs[1].cosine is not None


def test_an_interval_of_everything_is_none() -> None:
    for seed in range(20):
        found = measured(0.9, noise=14.0, shared=0.5, seed=seed)
        for pair in found.pairs:
            if pair.cosine is not None:
                assert -1 <= pair.cosine.low <= pair.cosine.value <= pair.cosine.high <= 1
                assert pair.cosine.high - pair.cosine.low < 2


def test_without_gradients_nothing_is_measured() -> None:
    found = conflict_of(("a", "b"), np.zeros((2, 8, 2, 8)), rows=10, parameters=3)
    assert found.pairs[0].cosine is None
    assert found.pairs[0].observed == 0.0
    with pytest.raises(EvaluationError, match="2 tasks in at least 4 blocks"):
        conflict_of(("a", "b"), np.zeros((2, 3, 2, 3)), rows=10, parameters=3)
