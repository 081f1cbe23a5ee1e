"""How sure the metrics are: DeLong's variance for the AUC, a bootstrap over users for the rest.

Rows of one user are not independent, so users are drawn, not rows. ``clusters`` [N] holds each row's user code;
a row with -1 belongs to nobody else. All intervals are two-sided 95 %.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Labelled, Reals, labelled
from ctr_pipeline.evaluation.metrics import (
    Z95,
    EvaluationError,
    Interval,
    Ranking,
    ap_of,
    auc_of,
    class_sums,
    entropy,
    poisson_ratio,
    rank,
    row_losses,
)

MIN_CLUSTERS = 10
"""Fewest clusters with a positive (and with a negative) for which a bootstrap interval is given."""

_POISSON = np.searchsorted(special.pdtr(np.arange(12), 1.0), (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.float64)
"""Poisson(1) counts, each as often as its probability: a random place is a draw, ten times as fast as numpy's."""

_WEIGHTS_AT_ONCE = 1 << 22
"""Weights of users that are in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapIntervals:
    """Intervals that share one set of bootstrap replicates; None where the rows do not define the metric."""

    average_precision: Interval | None
    log_loss: Interval | None
    normalised_entropy: Interval | None
    observed_expected: Interval | None
    clusters: int
    replicates: int
    reason: str | None = None
    """Why the bounds are infinite, when they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """How much one model's NE differs from another's on the same rows; negative is better.

    Attributes:
        absolute: NE - NE of the reference.
        relative: NE / NE of the reference - 1.
        rows: Labelled rows.
        positives: Positive rows.
        clusters: Independent users.
    """

    absolute: Interval
    relative: Interval
    rows: int
    positives: int
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """The fields, with each interval as an object."""
        return {
            "absolute": self.absolute.to_json(),
            "relative": self.relative.to_json(),
            "rows": self.rows,
            "positives": self.positives,
            "clusters": self.clusters,
        }


def cluster_codes(clusters: Integers | None, rows: int) -> tuple[Indices, int]:
    """Codes 0..K-1 of ``rows`` cluster ids, and K. Each -1 gets a code of its own; so does each row without clusters."""
    if clusters is None:
        return np.arange(rows, dtype=np.intp), rows
    if clusters.shape != (rows,):
        raise EvaluationError(f"expected one cluster code for each of {rows} rows; found shape {clusters.shape}")
    known = clusters >= 0
    codes = np.empty(rows, dtype=np.intp)
    values, codes[known] = np.unique(clusters[known], return_inverse=True)
    alone = rows - int(np.count_nonzero(known))
    codes[~known] = len(values) + np.arange(alone)
    return codes, len(values) + alone


def delong(logits: Reals, labels: Integers, clusters: Integers | None = None) -> Interval | None:
    """AUC with DeLong's interval on the logit scale, in O(N log N).

    The placements of DeLong et al. (1988) come from one sort, after Sun & Xu (2014). With ``clusters`` their sums
    within users replace them, after Obuchowski (1997); with one row a user the two are the same. An AUC of exactly
    0 or 1 has no variance: its open end is then the Clopper-Pearson bound of min(positives, negatives) successes.

    Returns:
        None when a class is empty; infinite bounds when a class has one row or one user.
    """
    rows = labelled(logits, labels)
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    return delong_of(rows, rank(rows.logits), codes, count)


def delong_of(rows: Labelled, ranking: Ranking, codes: Indices, count: int) -> Interval | None:
    """:func:`delong` of rows that are already ranked, with cluster ``codes`` below ``count``."""
    auc = auc_of(rows, ranking)
    if auc is None:
        return None
    errors = placement_errors(rows, ranking, codes, count, auc)
    if errors is None:
        return Interval(auc, -np.inf, np.inf)
    if auc in (0.0, 1.0):
        bound = 0.025 ** (1.0 / min(rows.positives, len(rows) - rows.positives))
        return Interval(auc, bound, 1.0) if auc == 1.0 else Interval(auc, 0.0, 1.0 - bound)
    margin = Z95 * np.sqrt(np.sum(errors**2)) / (auc * (1.0 - auc))
    centre = special.logit(auc)
    return Interval(auc, float(special.expit(centre - margin)), float(special.expit(centre + margin)))


def placement_errors(rows: Labelled, ranking: Ranking, codes: Indices, count: int, auc: float) -> Float64s | None:
    """[K] by cluster how far it moves the AUC; the sum of their squares is DeLong's variance. None with one user in a class."""
    positive, group = rows.positive, ranking.groups()
    hits, misses = class_sums(rows, ranking)
    total_hits, total_misses = hits[-1], misses[-1]
    hits_above = (hits - np.diff(hits, prepend=0.0) / 2) / total_hits
    misses_below = (total_misses - misses + np.diff(misses, prepend=0.0) / 2) / total_misses
    errors = np.zeros(count)
    for chosen, placement, size in ((positive, misses_below, total_hits), (~positive, hits_above, total_misses)):
        owners = codes[chosen]
        users = np.count_nonzero(np.bincount(owners, minlength=count))
        if users < 2:
            return None
        sums = np.bincount(owners, weights=placement[group[chosen]] - auc, minlength=count)
        errors += sums / size * np.sqrt(users / (users - 1))
    return errors


def bootstrap(
    logits: Reals, labels: Integers, clusters: Integers | None = None, *, seed: int, replicates: int = 100
) -> BootstrapIntervals:
    """Intervals of AP, log loss, NE and O/E by a Poisson bootstrap over users.

    Each replicate gives every user a Poisson(1) weight. The standard error over replicates, on the log scale (AP: on
    the logit scale), makes a Student interval around the point estimate: steadier than percentiles of few replicates.
    With fewer than :data:`MIN_CLUSTERS` users in a class the bounds are infinite, except those of O/E, which then are
    the exact Poisson ones.
    """
    rows = labelled(logits, labels)
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    return bootstrap_of(rows, rank(rows.logits), codes, count, seed=seed, replicates=replicates)


def bootstrap_of(
    rows: Labelled, ranking: Ranking, codes: Indices, count: int, *, seed: int, replicates: int = 100
) -> BootstrapIntervals:
    """:func:`bootstrap` of rows that are already ranked, with cluster ``codes`` below ``count``.

    Raises:
        EvaluationError: fewer than 20 replicates are asked for.
    """
    if replicates < 20:
        raise EvaluationError(f"expected at least 20 bootstrap replicates; found {replicates}")
    if not len(rows):
        return BootstrapIntervals(
            average_precision=None,
            log_loss=None,
            normalised_entropy=None,
            observed_expected=None,
            clusters=0,
            replicates=0,
        )
    sums = _cluster_sums(
        codes,
        count,
        row_losses(rows.logits, rows.positive),
        rows.positive,
        special.expit(rows.logits),
        np.ones(len(rows)),
    )
    ap = ap_of(rows, ranking)
    point = _rates(np.sum(sums, axis=0)[np.newaxis, :])[:, 0]
    reason = _too_few(sums[:, 1], sums[:, 3])
    if reason is None:
        resampled_ap = _ResampledAP(rows, ranking, codes, count)
        drawn = [
            (resampled_ap(np.ascontiguousarray(weights.T)), weights @ sums)
            for weights in _weights(seed, count, replicates)
        ]
        draws_ap, draws = np.concatenate([ap for ap, _ in drawn]), _rates(np.concatenate([of for _, of in drawn]))
    else:
        draws_ap, draws = np.empty(0), np.empty((3, 0))
    oe = _log_interval(point[2], draws[2]) if reason is None else poisson_ratio(rows.positives, float(sums[:, 2].sum()))
    return BootstrapIntervals(
        average_precision=None if ap is None else _logit_interval(ap, draws_ap),
        log_loss=_log_interval(point[0], draws[0]),
        normalised_entropy=None if not np.isfinite(point[1]) else _log_interval(point[1], draws[1]),
        observed_expected=oe,
        clusters=count,
        replicates=draws.shape[1],
        reason=reason,
    )


def paired_difference(
    logits: Reals,
    reference: Reals,
    labels: Integers,
    clusters: Integers | None = None,
    *,
    seed: int,
    replicates: int = 200,
) -> PairedDifference | None:
    """NE of ``logits`` against NE of ``reference`` on the same rows, by a Poisson bootstrap over users.

    Both models get the same draws, so what they share cancels.

    Returns:
        None when the labelled rows have one class; infinite bounds with fewer than :data:`MIN_CLUSTERS` users in one.
    """
    rows, other = labelled(logits, labels), labelled(reference, labels)
    if not 0 < rows.positives < len(rows):
        return None
    codes, count = cluster_codes(None if clusters is None else clusters[rows.kept], len(rows))
    own, theirs = row_losses(rows.logits, rows.positive), row_losses(other.logits, other.positive)
    sums = _cluster_sums(codes, count, own, theirs, rows.positive, np.ones(len(rows)))
    absolute, relative = _differences(np.sum(sums, axis=0)[np.newaxis, :])[:, 0]
    draws = np.empty((0, 4))
    if _too_few(sums[:, 2], sums[:, 3]) is None:
        draws = np.concatenate([weights @ sums for weights in _weights(seed, count, replicates)])
    resampled = _differences(draws)
    return PairedDifference(
        absolute=_linear_interval(absolute, resampled[0]),
        relative=_linear_interval(relative, resampled[1]),
        rows=len(rows),
        positives=rows.positives,
        clusters=count,
    )


class _ResampledAP:
    """Average precision under row weights that are whole numbers per user: sorts once, then sums of sparse rows."""

    def __init__(self, rows: Labelled, ranking: Ranking, codes: Indices, count: int) -> None:
        owners = codes[ranking.order]
        hit_at = np.flatnonzero(rows.positive[ranking.order])
        group = np.searchsorted(ranking.ends, hit_at)
        with_hits, first = np.unique(group, return_index=True)
        bounds = np.append(0, ranking.ends[with_hits] + 1)
        # [G, K]: rows of each user down from the last equal score that has a positive, and positive rows there.
        self._rows = _counted(owners[: bounds[-1]], bounds, count)
        self._hits = _counted(owners[hit_at], np.append(first, len(hit_at)), count)

    def __call__(self, weights: Float64s) -> Float64s:
        """[R] of weights [K, R]; NaN where no positive has any."""
        rows_above = np.cumsum(self._rows @ weights, axis=0)
        hits = self._hits @ weights
        hits_above = np.cumsum(hits, axis=0)
        found = np.sum(hits * hits_above / np.maximum(rows_above, 1), axis=0)
        with np.errstate(invalid="ignore"):
            average: Float64s = found / hits_above[-1]
        return average


def _counted(owners: Indices, bounds: Indices, count: int) -> sparse.csr_array:
    """[G, K] how many of ``owners`` from each of ``bounds`` [G + 1] to the next are each user's."""
    return sparse.csr_array((np.ones(len(owners)), owners, bounds), shape=(len(bounds) - 1, count))


def _weights(seed: int, count: int, replicates: int) -> Iterator[Float64s]:
    """Poisson weights of ``count`` users, [R, count] some replicates at a time; a seed's stream is the same in any pieces."""
    generator = np.random.default_rng(seed)
    most = max(1, min(20, _WEIGHTS_AT_ONCE // max(count, 1)))
    for at in range(0, replicates, most):
        chances = generator.integers(0, len(_POISSON), (min(most, replicates - at), count), dtype=np.uint16)
        yield _POISSON[chances]


def _cluster_sums(codes: Indices, count: int, *amounts: NDArray[Any]) -> Float64s:
    """Sums of each of ``amounts`` [N] by cluster: [K, len(amounts)]."""
    return np.stack([np.bincount(codes, weights=amount, minlength=count) for amount in amounts], axis=1)


def _too_few(positives: Float64s, rows: Float64s) -> str | None:
    """Why clusters with these ``positives`` [K] and ``rows`` [K] are too few for a bootstrap; None when they are not."""
    for name, users in (("positive", np.count_nonzero(positives)), ("negative", np.count_nonzero(rows - positives))):
        if users < MIN_CLUSTERS:
            return f"{users} users have a {name} row; an interval needs {MIN_CLUSTERS}"
    return None


def _entropies(rates: Float64s) -> Float64s:
    values = np.array([entropy(rate) for rate in rates])
    values[values == 0] = np.nan
    return values


def _rates(sums: Float64s) -> Float64s:
    """Log loss, NE and O/E, [3, R], of summed losses, positives, predictions and rows [R, 4]; NaN where undefined."""
    losses, positives, predicted, rows = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_loss = losses / rows
        return np.stack([mean_loss, mean_loss / _entropies(positives / rows), positives / predicted])


def _differences(sums: Float64s) -> Float64s:
    """Absolute and relative difference in NE, [2, R], of summed losses of both models, positives and rows [R, 4]."""
    own, theirs, positives, rows = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([(own - theirs) / rows / _entropies(positives / rows), own / theirs - 1.0])


def _margin(draws: Float64s) -> float:
    """Half-width of the Student interval of draws, NaN ones left out; infinite when fewer than 20 are left."""
    usable = draws[np.isfinite(draws)]
    if len(usable) < 20:
        return np.inf
    return float(special.stdtrit(len(usable) - 1, 0.975) * np.std(usable, ddof=1))


def _linear_interval(value: float, draws: Float64s) -> Interval:
    margin = _margin(draws)
    return Interval(float(value), float(value - margin), float(value + margin))


def _log_interval(value: float, draws: Float64s) -> Interval:
    with np.errstate(divide="ignore"):
        margin = _margin(np.log(draws))
    if not np.isfinite(margin) or not value > 0:
        return Interval(float(value), -np.inf, np.inf)
    return Interval(float(value), float(value * np.exp(-margin)), float(value * np.exp(margin)))


def _logit_interval(value: float, draws: Float64s) -> Interval:
    margin = _margin(special.logit(draws))
    if not np.isfinite(margin) or not 0 < value < 1:
        return Interval(value, -np.inf, np.inf)
    centre = special.logit(value)
    return Interval(value, float(special.expit(centre - margin)), float(special.expit(centre + margin)))
