"""What ids must look like if they are rows of the vocabulary that was counted on the same training rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.gradients.contracts.outcome import Outcome

NAME = "id_concentration"
FACTOR = 5.0
FEWEST = 200
"""Occurrences of a row in the sample from which its share is compared."""


def id_outcome(
    columns: Sequence[NDArray[np.integer]], names: Sequence[str], heights: Sequence[int], first_row: int
) -> Outcome:
    """Rows of a vocabulary are in order of falling count: a row that occurs far more often than the first one collapsed.

    A hash that was cut off, ids that were limited to a table's height, and a vocabulary of another dataset all show so. A
    column with one value has a vocabulary of one row, and passes.

    Args:
        columns: For each feature its ids in the sample; those below ``first_row`` (missing, unknown) are left out.
        names: Names of the features.
        heights: Rows of each table.
        first_row: The row of the most frequent value.
    """
    worst, where, row = 0.0, "", -1
    for name, ids, height in zip(names, columns, heights, strict=True):
        known = ids[ids >= first_row].astype(np.int64)
        if not len(known):
            continue
        counts = np.bincount(known, minlength=height)
        top = int(counts.argmax())
        if counts[top] < FEWEST:
            continue
        ratio = float(counts[top] / max(counts[first_row], 1))
        if ratio > worst:
            worst, where, row = ratio, name, top
    if not where:
        message = f"no row of a vocabulary occurs {FEWEST} times in the sample"
        return Outcome(name=NAME, verdict="not_measured", message=message)
    if worst > FACTOR:
        message = (
            f"feature {where}: row {row} occurs {worst:.3g} times as often as row {first_row}, which the vocabulary says is "
            f"the most frequent (at most {FACTOR:g} expected): ids are cut off or hashed to few rows, or the vocabulary is "
            "of other rows; pack the dataset again"
        )
        return Outcome(
            name=NAME, verdict="failed", message=message, measured=worst, limit=FACTOR, where=where, feature=where
        )
    message = "the most frequent rows of the sample are the first ones of the vocabularies"
    return Outcome(name=NAME, verdict="passed", message=message, measured=worst, limit=FACTOR)
