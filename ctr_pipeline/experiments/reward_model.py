"""A reward model of rates by cell, such as item and position: from other rows than those that it is used with."""

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration.labelled import Float64s, Integers, Reals
from ctr_pipeline.evaluation.metrics import EvaluationError
from ctr_pipeline.experiments.off_policy import RewardModel

STRENGTH = 200.0
"""Rows that the rate of a cell leans on the rate of its group with."""


def model_of_cells(
    rewards: Reals,
    cells: Integers,
    groups: Integers,
    candidate_cells: Integers,
    candidate_weights: Reals,
    clusters: Integers,
    *,
    strength: float = STRENGTH,
) -> RewardModel:
    """Predicted rewards of what was shown and of what the candidate would show.

    The units are halved, and the rates of each half are used with the other (cross-fitting: Chernozhukov et al. 2018), so that
    no reward is predicted with itself.

    Args:
        rewards: [N].
        cells: [N] cell of what was shown, from 0.
        groups: [N] what rates of cells lean on, such as the position, from 0.
        candidate_cells: [N, M] cells of what the candidate may show, in the same group as the row.
        candidate_weights: [N, M] with which probability; rows sum to 1.
        clusters: [N] unit of each row, from 0.
        strength: As :data:`STRENGTH`.

    Raises:
        EvaluationError: shapes differ.
    """
    shape = candidate_cells.shape
    if any(len(array) != len(rewards) for array in (cells, groups, candidate_cells, candidate_weights, clusters)):
        raise EvaluationError("reward model: expected a number, or a row of numbers, for each row")
    if shape != candidate_weights.shape or len(shape) != 2:
        raise EvaluationError(
            f"reward model: expected cells and weights [N, M]; found {shape}, {candidate_weights.shape}"
        )
    reward = np.asarray(rewards, dtype=np.float64)
    count, group_count = int(max(cells.max(), candidate_cells.max())) + 1, int(groups.max()) + 1
    half = _halves(clusters)
    shown, value = np.zeros(len(reward)), np.zeros(len(reward))
    for own in (0, 1):
        other, at = half != own, half == own
        rates = _rates(reward[other], cells[other], groups[other], count, group_count, strength)
        shown[at] = rates[groups[at], cells[at]]
        value[at] = (rates[groups[at][:, None], candidate_cells[at]] * candidate_weights[at]).sum(axis=1)
    return RewardModel(shown, value)


def _halves(clusters: Integers) -> NDArray[np.int64]:
    """[N] 0 or 1 by unit; units of all sizes are in both halves."""
    codes = np.unique(clusters, return_inverse=True)[1]
    found: NDArray[np.int64] = np.random.default_rng(0).permutation(codes.max() + 1)[codes] % 2
    return found


def _rates(
    rewards: Float64s, cells: Integers, groups: Integers, count: int, group_count: int, strength: float
) -> Float64s:
    """[groups, cells] rates that lean on those of their groups, and these on that of all."""
    place = groups.astype(np.int64) * count + cells
    total, rows = (
        np.bincount(place, weights=weights, minlength=group_count * count).reshape(group_count, count)
        for weights in (rewards, None)
    )
    overall = float(rewards.mean()) if len(rewards) else 0.0
    of_group = (total.sum(axis=1) + strength * overall) / (rows.sum(axis=1) + strength)
    found: Float64s = (total + strength * of_group[:, None]) / (rows + strength)
    return found
