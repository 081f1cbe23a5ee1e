"""What the columns of numbers say of causes, beside the statistics that the layout has of them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import Layout, NumericColumn
from ctr_pipeline.gradients.triage.evidence import Clue

FITS = 0.35
"""Largest mean, and log of the deviation, of values that their statistics fit."""

APART = 1.0
"""The same from which they do not fit."""

FEWEST = 500


def column_clues(numeric: NDArray[np.floating], layout: Layout) -> Iterator[Clue]:
    """Clues from two columns that have each other's statistics, and not their own.

    Args:
        numeric: [N, D] raw numbers of training rows.
        layout: Their layout.
    """
    columns = [column[np.isfinite(column)].astype(np.float64) for column in numeric.T]
    for at, own in enumerate(layout.numeric):
        for other in range(at + 1, len(layout.numeric)):
            named = layout.numeric[other]
            pairs = ((columns[at], own, named), (columns[other], named, own))
            if all(len(values) >= FEWEST and _is_of(values, its, others) for values, its, others in pairs):
                text = f"feature {own.name} has the mean and the spread of feature {named.name}, and the other way round: they are exchanged"
                yield Clue(cause="feature_permuted", weight=0.95, text=text, location=own.name, separating=True)
                against = f"features {own.name} and {named.name} are each within the other's statistics"
                yield Clue(cause="unnormalised_feature", weight=0.6, text=against, against=True)
                return


def _is_of(values: NDArray[np.float64], own: NumericColumn, other: NumericColumn) -> bool:
    """Whether ``values`` fit the statistics of ``other`` and not their own."""
    return _misfit(values, other) < FITS and _misfit(values, own) > APART


def _misfit(values: NDArray[np.float64], column: NumericColumn) -> float:
    if column.transform == "signed_log1p":
        values = np.sign(values) * np.log1p(np.abs(values))
    spread = float(values.std()) / max(column.std, 1e-12)
    return max(abs(float(values.mean()) - column.mean) / max(column.std, 1e-12), abs(float(np.log(max(spread, 1e-12)))))
