"""A model that knows nothing but the position: what any ranker has to be better than."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration.labelled import Integers, Reals
from ctr_pipeline.evaluation.intervals import paired_difference
from ctr_pipeline.evaluation.promotion import MIN_POSITIVES

SMOOTHING = 200.0
"""Weight, in impressions, of the overall rate in that of a position."""


def position_only_logits(
    train_positions: Integers, train_labels: Integers, positions: Integers
) -> NDArray[np.float64] | None:
    """Logits of the outcome's rate at each logged position, smoothed towards the overall rate.

    Args:
        train_positions: [M] positions of the training rows, 0 where not logged.
        train_labels: [M] in {0, 1, -1}.
        positions: [N] positions of the rows to score; one that no training row has gets the overall rate.

    Returns:
        [N]; None where fewer than two positions were logged, or the labels are not of both classes.
    """
    known = (train_labels >= 0) & (train_positions > 0)
    labels, places = train_labels[known], train_positions[known].astype(np.int64)
    if len(np.unique(places)) < 2 or len(np.unique(labels)) < 2:
        return None
    overall = labels.mean()
    size = int(max(places.max(), positions.max(initial=0))) + 1
    outcomes = np.bincount(places, weights=labels, minlength=size) + SMOOTHING * overall
    rates = outcomes / (np.bincount(places, minlength=size) + SMOOTHING)
    logits: NDArray[np.float64] = np.log(rates) - np.log1p(-rates)
    return logits[positions.astype(np.int64)]


def position_only_reasons(
    tasks: Sequence[str],
    model: Reals,
    labels: Integers,
    clusters: Integers | None,
    position_only: Sequence[NDArray[np.float64] | None],
    *,
    seed: int,
    replicates: int = 200,
) -> list[str]:
    """A sentence for each task that the model predicts no better than the position alone does.

    A task with fewer than :data:`~ctr_pipeline.evaluation.promotion.MIN_POSITIVES` positives objects only when it is surely
    worse: the lower 95 % bound of the difference in NE lies above 0.

    Args:
        tasks: T names.
        model: [N, T] calibrated logits with the logged position where the model learns what it does.
        labels: [N, T] in {0, 1, -1}.
        clusters: [N] user codes, -1 for none.
        position_only: By task [N] of :func:`position_only_logits`; a task without them is not compared.
        seed: Of the bootstrap.
        replicates: Bootstrap replicates.
    """
    reasons = []
    for column, (task, reference) in enumerate(zip(tasks, position_only, strict=True)):
        if reference is None:
            continue
        found = paired_difference(
            model[:, column], reference, labels[:, column], clusters, seed=seed, replicates=replicates
        )
        if found is None:
            continue
        change = found.relative
        if change.low > 0 or (change.value >= 0 and found.positives >= MIN_POSITIVES):
            reasons.append(
                f"{task}: NE is {change.value:+.1%} (95 % interval {change.low:+.1%} to {change.high:+.1%}) against the rates by "
                "position alone; a model that knows more has to be better."
            )
    return reasons
