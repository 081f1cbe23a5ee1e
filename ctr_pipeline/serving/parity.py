"""Whether a bundle scores as the trained model does: on any rows, one by one and together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import MISSING_ROW, PADDING, UNKNOWN_ROW, Layout
from ctr_pipeline.serving.bundle import MAX_LOGIT_DIFFERENCE, MAX_PROBABILITY_DIFFERENCE, Bundle, Scores
from ctr_pipeline.serving.request_values import BundleError

MAX_BATCH_DIFFERENCE = 1e-6
"""Largest difference in probability between a row scored alone and in a batch."""

ROWS_ALONE = 64
"""Rows that are also scored one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Largest absolute differences over rows and tasks.

    Attributes:
        rows: Rows compared.
        logit: Trained model against bundle, in logits.
        probability: Trained model against bundle, in calibrated probabilities.
        batch: Row alone against row in a batch, in probabilities.
        storage: Trained model against itself with embeddings as they are stored, in probabilities. Its limit is the spec's.
    """

    rows: int
    logit: float
    probability: float
    batch: float
    storage: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every difference is within its limit; a NaN is not."""
        return (
            self.logit <= MAX_LOGIT_DIFFERENCE
            and self.probability <= MAX_PROBABILITY_DIFFERENCE
            and self.batch <= MAX_BATCH_DIFFERENCE
        )

    def to_json(self) -> dict[str, Any]:
        """The fields and ``passed``."""
        return {
            "rows": self.rows,
            "logit": self.logit,
            "probability": self.probability,
            "batch": self.batch,
            "storage": self.storage,
            "passed": self.passed,
        }

    def require(self) -> None:
        """Refuses a bundle that scores differently.

        Raises:
            BundleError: a difference is above its limit.
        """
        if not self.passed:
            raise BundleError(
                f"the exported model does not score as the trained one: over {self.rows} rows the logits differ by up "
                f"to {self.logit:.3g} (limit {MAX_LOGIT_DIFFERENCE:g}), the probabilities by {self.probability:.3g} "
                f"(limit {MAX_PROBABILITY_DIFFERENCE:g}), a row alone from itself in a batch by {self.batch:.3g} "
                f"(limit {MAX_BATCH_DIFFERENCE:g}). Do not serve it."
            )


def probe_rows(
    numeric: NDArray[Any], ids: NDArray[Any], layout: Layout, *, most: int = 512
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows for a parity check: up to ``most`` of the given ones, evenly spread, and the corners of the input space.

    The corners: all missing, all unknown, the last embedding row of every table, numbers of ± 10^6, one row for each
    number that is missing alone, and empty lists.
    """
    chosen = np.linspace(0, len(numeric) - 1, min(most, len(numeric))).astype(np.intp)
    fill = np.array([column.fill for column in layout.numeric], dtype=np.float32)
    lowest, last = layout.id_rows
    missing, unknown = layout.lone(MISSING_ROW), layout.lone(UNKNOWN_ROW)
    corners = [
        (np.full_like(fill, np.nan), missing),
        (fill, unknown),
        (fill, last),
        (np.full_like(fill, 1e6), last),
        (np.full_like(fill, -1e6), unknown),
        *((np.where(np.arange(len(fill)) == lone, np.nan, fill), last) for lone in range(len(fill))),
        *([(fill, lowest)] if PADDING in lowest else []),
    ]
    return (
        np.concatenate([numeric[chosen], np.stack([numbers for numbers, _ in corners])]).astype(np.float32),
        np.concatenate([ids[chosen], np.stack([rows for _, rows in corners])]).astype(np.int64),
    )


def measure_parity(bundle: Bundle, numeric: NDArray[Any], ids: NDArray[Any], expected: Scores) -> Parity:
    """Compares the bundle with the scores ``expected`` of the trained model for the same N > 0 rows.

    Raises:
        BundleError: there are no rows, or they do not fit the bundle.
    """
    if not len(numeric):
        raise BundleError("parity: no rows to compare; give at least one")
    together = bundle.score(numeric, ids)
    spread = np.linspace(0, len(numeric) - 1, min(ROWS_ALONE, len(numeric))).astype(np.intp)
    alone = np.concatenate([bundle.score(numeric[i : i + 1], ids[i : i + 1]).probabilities for i in spread])
    batch = _largest(alone, together.probabilities[spread])
    if bundle.columns.share:
        batch = max(batch, _of_one_request(bundle, numeric[spread], ids[spread]))
    return Parity(
        rows=len(numeric),
        logit=_largest(together.logits, expected.logits),
        probability=_largest(together.probabilities, expected.probabilities),
        batch=batch,
    )


def _of_one_request(bundle: Bundle, numeric: NDArray[Any], ids: NDArray[Any]) -> float:
    """Difference in probability of rows of one request, whose shared inputs are read once, from the same beside another."""
    numbers, rows = numeric.copy(), ids.copy()
    shared = [*bundle.columns.shared_ids]
    # Of the row with most events, where there are any.
    most = int(np.argmax((ids[:, shared] >= 0).sum(axis=1)))
    for columns, values in ((bundle.columns.shared_numbers, numbers), (bundle.columns.shared_ids, rows)):
        values[:, columns] = values[most, columns]
    other, others = numbers[:1].copy(), rows[:1].copy()
    lowest, last = bundle.layout.id_rows
    others[:, shared] = np.where(others == lowest, last, lowest)[:, shared]
    other[:, bundle.columns.shared_numbers] = np.nan
    once = bundle.score(numbers, rows).probabilities
    mixed = bundle.score(np.concatenate([numbers, other]), np.concatenate([rows, others])).probabilities
    return _largest(once, mixed[:-1])


def _largest(left: NDArray[Any], right: NDArray[Any]) -> float:
    return float(np.max(np.abs(left.astype(np.float64) - right)))
