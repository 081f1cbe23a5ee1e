"""What each feature is worth to both sides, and what it adds to their logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ctr_pipeline.attribution.encoded_rows import EncodedRows, reference_of
from ctr_pipeline.attribution.integrated_gradients import TOLERANCE, Attribution, integrated_gradients
from ctr_pipeline.attribution.model_change import AttributionChange, PermutationChange
from ctr_pipeline.attribution.resampling import Resampling, interval_of
from ctr_pipeline.attribution.trained_side import Encoded, TrainedSide
from ctr_pipeline.calibration.labelled import Float64s
from ctr_pipeline.evaluation.metrics import row_losses

MEAN_TOLERANCE = 1e-2
"""Share of its difference in logit that the features of a row may miss where means over rows are wanted: what rows miss has
either sign, and a row then costs a third."""

BASELINE_ROWS = 4096
"""Rows whose mean is the baseline of integrated gradients."""


@dataclass(frozen=True, slots=True)
class EncodedSide:
    """A side, and the rows of the comparison as its model reads them."""

    side: TrainedSide
    rows: Encoded


def permutation_changes(
    old: EncodedSide,
    new: EncodedSide,
    tasks: Sequence[str],
    labels: NDArray[np.int8],
    draws: Resampling,
    *,
    seed: int,
) -> dict[str, tuple[PermutationChange, ...]]:
    """By task what permuting each feature costs both sides; row i of both is one impression.

    A feature's values trade places among the rows, in the same way on both sides; a list of events with its kinds and ages,
    a vector as a whole. So what it says together with other features is lost too.

    Args:
        old: The old side.
        new: The new side.
        tasks: Tasks that both have.
        labels: [N, T] labels of these tasks.
        draws: Of the users of the rows.
        seed: Of the permutations.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    rises = [_rises(one, tasks, labels, order) for one in (old, new)]
    features = dict.fromkeys([*new.side.features, *old.side.features])
    found = {}
    for at, task in enumerate(tasks):
        kept = np.flatnonzero(labels[:, at] >= 0)
        if not len(kept):
            continue
        own = draws.take(kept)
        changes = []
        for name in features:
            parts = [rise[name][kept, at] if name in rise else None for rise in rises]
            first, second = (None if part is None else own.means(part[:, None])[:, 0] for part in parts)
            changes.append(
                PermutationChange(
                    feature=name,
                    old=None if first is None else interval_of(first),
                    new=None if second is None else interval_of(second),
                    change=None if first is None or second is None else interval_of(second - first),
                )
            )
        found[task] = tuple(sorted(changes, key=lambda change: -_size(change)))
    return found


def attribution_changes(
    old: EncodedSide, new: EncodedSide, task: str, draws: Resampling, chosen: NDArray[np.intp]
) -> tuple[tuple[AttributionChange, ...], tuple[AttributionChange, ...]]:
    """Integrated gradients of both sides by feature and by group, on the rows ``chosen``, in uncalibrated logits.

    Args:
        old: The old side.
        new: The new side.
        task: A task that both have.
        draws: Of the users of all rows.
        chosen: Places of the rows that are attributed.
    """
    values = [_by_feature(one, task, chosen) for one in (old, new)]
    names = dict.fromkeys([*values[1], *values[0]])
    own = draws.take(chosen)
    features = _changes(values, {name: [name] for name in names}, own)
    groups = old.side.groups | new.side.groups
    by_group: dict[str, list[str]] = {}
    for name in names:
        by_group.setdefault(groups[name], []).append(name)
    return features, _changes(values, by_group, own)


def attributed(
    side: TrainedSide, rows: Encoded, task: str, baseline: Encoded, tolerance: float = TOLERANCE
) -> Attribution:
    """Integrated gradients of the uncalibrated logits of ``rows``, from the mean row of ``baseline``."""
    ranker = side.ranker
    with torch.no_grad():
        mean = reference_of(EncodedRows.of(ranker, ranker.encode(*_tensors(baseline))))
        inputs = ranker.encode(*_tensors(rows))
    return integrated_gradients(ranker, side.layout, inputs, mean, side.layout.tasks.index(task), tolerance)


def baseline_rows(rows: Encoded) -> Encoded:
    """At most :data:`BASELINE_ROWS` of them, evenly spread."""
    count = len(rows.ids)
    return rows.take(np.linspace(0, count - 1, min(count, BASELINE_ROWS)).astype(np.intp))


def _by_feature(one: EncodedSide, task: str, chosen: NDArray[np.intp]) -> dict[str, Float64s]:
    found = attributed(one.side, one.rows.take(chosen), task, baseline_rows(one.rows), MEAN_TOLERANCE)
    return {name: found.values[:, place] for place, name in enumerate(found.features)}


def _changes(
    values: Sequence[Mapping[str, Float64s]], groups: Mapping[str, Sequence[str]], draws: Resampling
) -> tuple[AttributionChange, ...]:
    found = []
    for name, members in groups.items():
        there = [[side[member] for member in members if member in side] for side in values]
        sums = [np.sum(own, axis=0) if own else np.zeros(len(draws.codes)) for own in there]
        means = draws.means(np.column_stack([np.abs(sums[0]), np.abs(sums[1]), sums[1] - sums[0]]))
        old, new = (means[:, place] if own else None for place, own in enumerate(there))
        found.append(
            AttributionChange(
                name=name,
                old=None if old is None else interval_of(old),
                new=None if new is None else interval_of(new),
                change=None if old is None or new is None else interval_of(new - old),
                shift=interval_of(means[:, 2]),
            )
        )
    return tuple(sorted(found, key=lambda change: -abs(change.shift.value)))


def _rises(
    one: EncodedSide, tasks: Sequence[str], labels: NDArray[np.int8], order: NDArray[np.int64]
) -> dict[str, Float64s]:
    """By feature [N, T] the rise of the log loss of each row."""
    at = [one.side.layout.tasks.index(task) for task in tasks]
    positive = labels == 1

    def losses(rows: Encoded) -> Float64s:
        logits = one.side.calibrated(rows)[:, at]
        return row_losses(logits, positive)

    own, permuted = losses(one.rows), one.rows.take(order)
    return {name: losses(one.rows.with_columns(one.side.columns(name), permuted)) - own for name in one.side.features}


def _size(change: PermutationChange) -> float:
    values = [interval.value for interval in (change.old, change.new) if interval is not None]
    return abs(change.change.value) if change.change is not None else max(map(abs, values), default=0.0)


def _tensors(rows: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(np.ascontiguousarray(rows.numeric)), torch.from_numpy(np.ascontiguousarray(rows.ids))
