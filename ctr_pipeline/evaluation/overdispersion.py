"""Counts of outcomes that users have in common: how much more they vary than independent ones, and intervals that know it.

A user with many rows has many outcomes or none, so that a count of outcomes varies more than one of independent events. The
variance over that of a Poisson count is its overdispersion; a count divided by its overdispersion is about a Poisson count
again (McCullagh & Nelder 1989, quasi-likelihood), whose exact distribution is known also where it is small.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Reals, labelled
from ctr_pipeline.evaluation.intervals import cluster_codes
from ctr_pipeline.evaluation.metrics import Z95, EvaluationError, Interval

_ALONE = 1e-9
"""Share of the other users below which a user is all there is, so that how users differ cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsByPart:
    """Outcomes of each of P parts of the rows.

    Attributes:
        rows: [P] rows.
        observed: [P] outcomes.
        expected: [P] summed probabilities.
        overdispersion: [P] variance of ``observed`` over that of a Poisson count, above 0.
    """

    rows: Float64s
    observed: Float64s
    expected: Float64s
    overdispersion: Float64s

    @classmethod
    def of(
        cls,
        positive: NDArray[np.bool_],
        predicted: Float64s,
        users: Indices,
        parts: Indices,
        count: int,
        spread: float,
    ) -> "CountsByPart":
        """Those of rows, arrays [N], with the user's code, and the part's code below ``count``.

        The overdispersion is the larger of two: of what the users' outcomes deviate within the part, each user's deviation
        from the ratio of the others; and of what users differ in all rows, ``spread`` (:func:`spread_of_users`), for parts
        whose few outcomes cannot tell.
        """
        amounts = np.ones(len(parts)), positive, predicted, predicted**2, predicted * positive
        rows, observed, expected, squares, hits = (
            np.bincount(parts, weights=amount, minlength=count).astype(np.float64) for amount in amounts
        )
        ratio = np.where(observed > 0, observed / np.maximum(expected, 1e-300), 1.0)
        # The variance within users; a part with no row but positive ones has some too.
        within = np.where(observed > 0, observed - 2 * ratio * hits + ratio**2 * squares, 1.0)
        within = np.maximum(within / np.maximum(observed, 1.0), 1 / (rows + 1))
        part, own_observed, own_expected, own_effect = _by_user(positive, predicted, users, parts, count)
        shares = own_expected / np.maximum(expected[part], 1e-300)
        errors = _from_the_others(own_observed - ratio[part] * own_expected, shares)
        between = np.bincount(part, weights=own_effect**2, minlength=count) / np.maximum(expected, 1e-300)
        own = np.bincount(part, weights=errors**2, minlength=count) / np.maximum(observed, 1.0)
        found = np.maximum(within + spread * ratio * between, np.where(observed > 0, own, 0.0))
        return cls(rows=rows, observed=observed, expected=expected, overdispersion=found)

    def ratios(self) -> list[Interval]:
        """Observed over expected of each part, with the mid-p 95 % interval."""
        counts, expected = self.observed / self.overdispersion, np.maximum(self.expected, 1e-300)
        low, high = (bound * self.overdispersion / expected for bound in mid_p_bounds(counts))
        return [Interval(*map(float, of)) for of in zip(self.observed / expected, low, high, strict=True)]

    def p_values(self) -> Float64s:
        """[P] two-sided mid-p values of the ratios being 1; below .05 where the interval leaves 1 out."""
        return mid_p_values(self.observed / self.overdispersion, self.expected / self.overdispersion)


def spread_of_users(positive: NDArray[np.bool_], predicted: Float64s, users: Indices) -> float:
    """By how much users differ: the variance of their own effects on the logit, which are on the ratio where outcomes are rare.

    By moments, after what chance alone makes of them; 0 where they vary no more than by chance.
    """
    total, expected = float(np.count_nonzero(positive)), float(predicted.sum())
    if total == 0 or expected == 0:
        return 0.0
    ratio = total / expected
    own_observed, own_expected, own_effect = (
        np.bincount(users, weights=amount) for amount in (positive, predicted, predicted * (1 - predicted))
    )
    errors = _from_the_others(own_observed - ratio * own_expected, own_expected / expected)
    chance = float(np.sum((positive - ratio * predicted) ** 2))
    return max(0.0, (float(np.sum(errors**2)) - chance) / max(ratio**2 * float(np.sum(own_effect**2)), 1e-300))


def effective_outcomes(logits: Reals, labels: Integers, clusters: Integers | None = None) -> float:
    """How many independent outcomes would tell the rate of the rows as well as theirs do.

    Their number where each is of a user of its own, less where few users have most of them; less too by what few users know
    of how users differ: Student's quantile in place of the normal one, with as many degrees of freedom as the users count
    for (Satterthwaite 1946).

    Args:
        logits: [N] calibrated.
        labels: [N] in {0, 1, -1}.
        clusters: [N] users, -1 = a row by itself; None where every row is.

    Returns:
        0 without a positive row, 1 where one user has all rows.

    Raises:
        EvaluationError: ``clusters`` have another length than the logits.
    """
    if clusters is not None and clusters.shape != logits.shape:
        raise EvaluationError(f"clusters: expected shape {logits.shape}; found {clusters.shape}")
    rows = labelled(logits, labels)
    if not rows.positives:
        return 0.0
    users, _ = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    predicted = special.expit(rows.logits)
    own_observed, own_expected = (np.bincount(users, weights=amount) for amount in (rows.positive, predicted))
    ratio = rows.positives / max(float(predicted.sum()), 1e-300)
    errors = _from_the_others(own_observed - ratio * own_expected, own_expected / own_expected.sum())
    variance = float(np.sum(errors**2))
    if variance == 0:
        return 1.0
    quantile = special.stdtrit(max(variance**2 / float(np.sum(errors**4)), 1.0), 0.975)
    return float(rows.positives**2 / variance * (Z95 / quantile) ** 2)


def mid_p_bounds(counts: Float64s) -> tuple[Float64s, Float64s]:
    """Bounds [P] of the 95 % mid-p interval (Lancaster 1961) of the means of Poisson ``counts`` [P], whole or not.

    Half of the chance of the very count is in either tail: the exact interval holds the mean too often, this one in about
    95 of 100.
    """
    low, high = (_mean_with(counts, chance) for chance in (0.025, 0.975))
    return np.where(counts > 0, low, 0.0), high


def mid_p_values(counts: Float64s, means: Float64s) -> Float64s:
    """[P] two-sided mid-p values of Poisson ``counts`` [P], whole or not, with ``means`` [P]."""
    above, below = (
        np.where(means > 0, (tail(counts, means) + tail(counts + 1, means)) / 2, 0.5)
        for tail in (special.gammainc, special.gammaincc)
    )
    return np.where((counts > 0) & (means <= 0), 0.0, np.minimum(1.0, 2 * np.minimum(above, below)))


def _mean_with(counts: Float64s, chance: float) -> Float64s:
    """The mean with which a count at least as large as each has this chance, half of that of the count itself left out."""
    low = np.where(counts > 0, special.gammaincinv(np.maximum(counts, 1e-300), chance), 0.0)
    high = special.gammaincinv(counts + 1, chance)
    for _ in range(60):
        middle = (low + high) / 2
        below = (special.gammainc(counts, middle) + special.gammainc(counts + 1, middle)) / 2 < chance
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found: Float64s = (low + high) / 2
    return found


def _by_user(
    positive: NDArray[np.bool_], predicted: Float64s, users: Indices, parts: Indices, count: int
) -> tuple[Indices, Float64s, Float64s, Float64s]:
    """Of each user in each part the part, the outcomes, the expected ones, and what these change by the user's logit."""
    shape = count, int(users.max(initial=0)) + 1
    observed, expected, effect = (
        sparse.csr_array((amount, (parts, users)), shape=shape)
        for amount in (positive.astype(np.float64), predicted, predicted * (1 - predicted))
    )
    return np.repeat(np.arange(count), np.diff(expected.indptr)), observed.data, expected.data, effect.data


def _from_the_others(errors: Float64s, shares: Float64s) -> Float64s:
    """Users' deviations [K] from the ratio that the others alone have; the own ``shares`` [K] draw the ratio to them."""
    others = 1.0 - shares
    return np.where(others > _ALONE, errors / np.maximum(others, _ALONE), 0.0)
