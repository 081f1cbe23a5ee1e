"""Metrics of several models on the same rows under the same draws of users: what the models share cancels.

Each replicate of a Poisson bootstrap gives every user a weight. The difference of two models' draws is that of the models,
and a mean of draws over training seeds is that of the mean.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ctr_pipeline.calibration.labelled import Integers, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import Interval, ap_of, auc_of, entropy, rank, row_losses

METRICS = ("AUC", "AP", "NE", "O/E")

Draws = NDArray[np.float64]
"""[R + 1, 4] of :data:`METRICS`: first of the rows as they are, then of each replicate."""


def resampled(logits: Reals, labels: Integers, users: Integers, *, seed: int, replicates: int) -> Draws:
    """The metrics of the rows with a label, as they are and in each replicate; NaN where they are not defined.

    Replicates of one seed are the same for all ``logits`` of the same rows. With fewer than
    :data:`~ctr_pipeline.evaluation.intervals.MIN_CLUSTERS` users with a positive there are none.

    Args:
        logits: [N] calibrated logits.
        labels: [N] in {0, 1, -1}.
        users: [N] user codes, -1 for none.
        seed: Of the draws.
        replicates: How many.
    """
    rows = labelled(logits, labels)
    codes, count = cluster_codes(users[rows.kept], len(rows))
    ranking, positive = rank(rows.logits), rows.positive.astype(np.float64)
    amounts = (row_losses(rows.logits, rows.positive), positive, special.expit(rows.logits), np.ones(len(rows)))
    sums = np.stack([np.bincount(codes, weights=amount, minlength=count) for amount in amounts], axis=1)
    generator = np.random.default_rng(seed)
    enough = np.count_nonzero(sums[:, 1]) >= MIN_CLUSTERS
    found = np.full((1 + replicates * enough, len(METRICS)), np.nan)
    for number in range(len(found)):
        weights = generator.poisson(1.0, count) if number else np.ones(count, dtype=np.int64)
        loss, positives, expected, total = weights @ sums
        if not 0 < positives < total:
            continue
        weighted = replace(rows, weights=weights[codes].astype(np.float64))
        ranked = auc_of(weighted, ranking), ap_of(weighted, ranking)
        found[number] = (*ranked, loss / total / entropy(positives / total), positives / expected)
    return found


def interval(draws: NDArray[np.float64], *, logarithmic: bool = False) -> Interval:
    """Student interval of the first of ``draws``, from the spread of the others; infinite without enough of them."""
    values = np.log(draws) if logarithmic else draws
    known = values[1:][np.isfinite(values[1:])]
    margin = special.stdtrit(len(known) - 1, 0.975) * np.std(known, ddof=1) if len(known) >= 20 else np.inf
    low, high = values[0] - margin, values[0] + margin
    return Interval(float(draws[0]), *(map(float, np.exp([low, high]) if logarithmic else (low, high))))
