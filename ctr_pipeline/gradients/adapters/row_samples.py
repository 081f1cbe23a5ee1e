"""Samples of packed rows, as contracts look at them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit
from ctr_pipeline.features.layout import Layout
from ctr_pipeline.gradients.contracts.feature_profile import RowSample

WINDOW = 300_000
"""Neighbouring rows among which outcomes are looked for."""

OF_EACH = 2_500
"""Rows with and without the outcome that are compared at most."""


def sample_rows(rows: PackedSplit, layout: Layout, chosen: NDArray[np.int64]) -> RowSample:
    """The rows ``chosen`` [N], with standardised numbers and of each list its first place."""
    numbers = np.take(rows.numeric, chosen, axis=0).astype(np.float64)
    for at, column in enumerate(layout.numeric):
        # Filled, as the statistics were: of a column that is mostly missing, the values that are there lie far out.
        raw = np.where(np.isnan(numbers[:, at]), column.fill, numbers[:, at])
        if column.transform == "signed_log1p":
            raw = np.sign(raw) * np.log1p(np.abs(raw))
        numbers[:, at] = (raw - column.mean) / column.std
    # Of a list, the first place: one column a feature.
    single = [place.start for place in layout.id_places]
    return RowSample(
        names=[*(column.name for column in layout.numeric), *(column.name for column in layout.ids)],
        numbers=numbers,
        ids=np.take(rows.ids, chosen, axis=0)[:, single],
        labels=np.take(rows.labels, chosen, axis=0),
        tasks=layout.tasks,
    )


def spread_places(rows: PackedSplit, most: int, last: float = 1.0) -> NDArray[np.int64]:
    """At most ``most`` places, evenly spread over the ``last`` share of the rows."""
    start = int(len(rows) * (1 - last))
    return np.unique(np.linspace(start, len(rows) - 1, min(len(rows) - start, most)).astype(np.int64))


def paired_samples(
    training: PackedSplit, reference: PackedSplit, layout: Layout
) -> Iterator[tuple[RowSample, RowSample]]:
    """For each task, as many rows with and without its outcome: of the last training rows, and of the first of the reference.

    Both come from as many neighbouring rows, so that an id occurs as often in them.
    """
    window = min(len(training), len(reference), WINDOW)
    for task, name in enumerate(layout.tasks):
        pair = []
        for rows, start in ((training, len(training) - window), (reference, 0)):
            chosen = start + _balanced(np.asarray(rows.labels[start : start + window, task]))
            sample = sample_rows(rows, layout, chosen)
            labels = sample.labels[:, task : task + 1]
            pair.append(
                RowSample(names=sample.names, numbers=sample.numbers, ids=sample.ids, labels=labels, tasks=[name])
            )
        yield pair[0], pair[1]


def _balanced(label: NDArray[np.int8]) -> NDArray[np.int64]:
    """Evenly spread places with and without the outcome, ascending."""
    chosen = []
    for value in (0, 1):
        places = np.flatnonzero(label == value)
        chosen.append(places[np.unique(np.linspace(0, len(places) - 1, min(len(places), OF_EACH)).astype(np.int64))])
    return np.sort(np.concatenate(chosen))
