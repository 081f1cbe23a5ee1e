"""Positives and negatives of each task in each part of a packed dataset."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctr_pipeline.datasets.packed import SPLITS, PackedDataset
from ctr_pipeline.datasets.split_parts import iso


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """Labels of one task in one part of a dataset.

    Attributes:
        task: Name of the task.
        part: ``train``, ``validation``, ``calibration`` or ``test``.
        positives: Rows with label 1.
        negatives: Rows with label 0.
        first: Time of the part's first row, ISO 8601; None where it has no rows.
        last: Time of its last row.
    """

    task: str
    part: str
    positives: int
    negatives: int
    first: str | None
    last: str | None

    @property
    def one_class(self) -> str | None:
        """What the part lacks, where its settled labels do not have both classes; None where they do."""
        if self.positives and self.negatives:
            return None
        if self.first is None:
            return f"{self.task}: the {self.part} part has no rows."
        rows = self.positives + self.negatives
        absent = "settled label" if not rows else "positive" if not self.positives else "negative"
        among = f" among its {rows:,} labelled rows" if rows else ""
        return f"{self.task}: the {self.part} part ({self.first} to {self.last}) has no {absent}{among}."


def class_counts(dataset: PackedDataset, tasks: Sequence[str]) -> list[ClassCounts]:
    """The counts of every task and part, the tasks in order.

    Args:
        dataset: The packed arrays.
        tasks: Names of the tasks, in the order of the label columns.
    """
    return [
        ClassCounts(
            task=task,
            part=part,
            positives=int(np.count_nonzero(split.labels[:, column] == 1)),
            negatives=int(np.count_nonzero(split.labels[:, column] == 0)),
            first=iso(int(split.ts.min())) if len(split) else None,
            last=iso(int(split.ts.max())) if len(split) else None,
        )
        for column, task in enumerate(tasks)
        for part, split in ((name, dataset.splits[name]) for name in SPLITS)
    ]


def one_class_parts(dataset: PackedDataset, tasks: Sequence[str]) -> list[str]:
    """A sentence for each task and part without both classes: nothing can be learnt, calibrated or shown on it."""
    return [found.one_class for found in class_counts(dataset, tasks) if found.one_class is not None]
