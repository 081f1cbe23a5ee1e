"""Draws of users that all figures of a comparison share, so that what both sides have in common cancels.

Each replicate of a Poisson bootstrap gives every user a weight; the first row of all results is that of the rows as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import Interval, row_losses
from ctr_pipeline.evaluation.paired_draws import interval

REPLICATES = 200
"""Draws of all users."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """Draws of the users of N rows.

    Attributes:
        codes: [N] the user of each row, from 0 to K-1.
        weights: [R + 1, K] how often each draw holds each user; the first draw is the users as they are.
    """

    codes: Indices
    weights: Float64s

    @classmethod
    def of(cls, *users: Integers, seed: int, replicates: int = REPLICATES) -> "tuple[Resampling, ...]":
        """Draws for each of several sets of rows, in which a user has one weight wherever it occurs.

        Args:
            users: Codes of the users of each set, -1 for a row that is a user of its own.
            seed: Of the draws.
            replicates: How many.
        """
        codes, count = cluster_codes(np.concatenate(users), sum(len(own) for own in users))
        drawn = np.random.default_rng(seed).poisson(1.0, (replicates, count)).astype(np.float64)
        weights = np.vstack([np.ones(count), drawn])
        ends = np.cumsum([len(own) for own in users])
        return tuple(cls(own, weights) for own in np.split(codes, ends[:-1]))

    def take(self, rows: NDArray[np.intp]) -> "Resampling":
        """The same draws for some of the rows."""
        return Resampling(self.codes[rows], self.weights)

    def totals(self, amounts: NDArray[np.floating]) -> Float64s:
        """[R + 1, M] sums of ``amounts`` [N, M] in each draw."""
        users, rows = self.weights.shape[1], len(self.codes)
        by_user = sparse.csr_array((np.ones(rows), (self.codes, np.arange(rows))), shape=(users, rows)) @ amounts
        found: Float64s = self.weights @ np.asarray(by_user, dtype=np.float64)
        return found

    def means(self, amounts: NDArray[np.floating]) -> Float64s:
        """[R + 1, M] means of ``amounts`` [N, M] over the rows in each draw; NaN where a draw has none."""
        sums = self.totals(np.column_stack([amounts, np.ones(len(amounts))]))
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Float64s = sums[:, :-1] / sums[:, -1:]
        return found


def entropies(logits: Sequence[NDArray[np.float64]], labels: Integers, draws: Resampling) -> Float64s:
    """[R + 1, M] NE of each of M sets of ``logits`` [N] in each draw, on the rows with a label.

    NaN where a draw has one class. With fewer than :data:`~ctr_pipeline.evaluation.intervals.MIN_CLUSTERS` users with a
    positive, or with a negative, all draws but the first are NaN: they would tell no interval.
    """
    kept = np.flatnonzero(labels >= 0)
    positive = labels[kept] == 1
    losses = [row_losses(np.asarray(own[kept], np.float64), positive) for own in logits]
    sums = draws.take(kept).totals(np.column_stack([*losses, positive, np.ones(len(kept))]))
    positives, rows = sums[:, -2], sums[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = positives / rows
        base = special.entr(rate) + special.entr(1 - rate)
        base[~(base > 0)] = np.nan
        found: Float64s = sums[:, :-2] / rows[:, None] / base[:, None]
    if min(len(np.unique(draws.codes[kept[chosen]])) for chosen in (positive, ~positive)) < MIN_CLUSTERS:
        found[1:] = np.nan
    return found


def interval_of(draws: Float64s) -> Interval:
    """Value and Student interval of draws [R + 1]."""
    return interval(draws)
