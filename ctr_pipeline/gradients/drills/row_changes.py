"""What faults of rows have in common."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.datasets import PackedSplit

FIRST_WORD = 2
"""First row of an id column that is a word of its vocabulary."""


def chosen(rows: PackedSplit, at: NDArray[Any]) -> PackedSplit:
    """The rows at the places ``at`` [M], each as often as it is there."""
    return replace(rows, **{name: array[at] for name, array in rows.arrays().items()})


def joined(*parts: PackedSplit) -> PackedSplit:
    """All rows of ``parts``, one part after the other."""
    arrays = [part.arrays() for part in parts]
    return replace(parts[0], **{name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]})


def with_clicks(rows: PackedSplit, click: NDArray[Any]) -> PackedSplit:
    """The rows with ``click`` [N] as labels of their first task; of the second no positive is left without a click."""
    labels = rows.labels.copy()
    labels[:, 0] = click
    labels[(labels[:, 0] == 0) & (labels[:, 1] == 1), 1] = 0
    return replace(rows, labels=labels)


def with_number(rows: PackedSplit, column: int, values: NDArray[Any]) -> PackedSplit:
    """The rows with ``values`` [N] in a column of numbers."""
    numeric = rows.numeric.copy()
    numeric[:, column] = values
    return replace(rows, numeric=numeric)


def with_ids(rows: PackedSplit, column: int, values: NDArray[Any]) -> PackedSplit:
    """The rows with ``values`` [N] in a column of ids."""
    ids = rows.ids.copy()
    ids[:, column] = values
    return replace(rows, ids=ids)
