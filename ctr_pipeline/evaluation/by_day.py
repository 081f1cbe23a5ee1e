"""How a task is predicted on each day by itself, and beside another model on the same rows."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration.labelled import Integers, Reals, labelled
from ctr_pipeline.evaluation.intervals import (
    PairedDifference,
    bootstrap_of,
    cluster_codes,
    delong_of,
    paired_difference,
)
from ctr_pipeline.evaluation.metrics import EvaluationError, Interval, rank, with_error_of_slice

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DayMetrics:
    """One UTC day of rows. A metric is None where the rows do not define it.

    Attributes:
        day: YYYY-MM-DD.
        rows: Rows with a settled label.
        masked: Rows without one.
        positives: Rows with label 1.
        auc: Area under the ROC curve.
        ne: Log loss over the entropy of the day's own base rate.
        oe: Observed over expected positives.
        ne_against_champion: Difference in NE to the other model on the same rows; None without one.
    """

    day: str
    rows: int
    masked: int
    positives: int
    auc: Interval | None
    ne: Interval | None
    oe: Interval | None
    ne_against_champion: PairedDifference | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name, with each interval as an object."""
        intervals = {"auc": self.auc, "ne": self.ne, "oe": self.oe, "ne_against_champion": self.ne_against_champion}
        return {
            "day": self.day,
            "rows": self.rows,
            "masked": self.masked,
            "positives": self.positives,
            **{name: None if value is None else value.to_json() for name, value in intervals.items()},
        }


def metrics_by_day(
    logits: Reals,
    labels: Integers,
    ts: NDArray[np.int64],
    clusters: Integers | None = None,
    champion: Reals | None = None,
    *,
    seed: int,
    calibrated_on: float = 0,
) -> tuple[DayMetrics, ...]:
    """Measures each UTC day of rows, in order.

    Args:
        logits: [N] calibrated.
        labels: [N] in {0, 1, -1}.
        ts: [N] microseconds since 1970-01-01 UTC.
        clusters: [N] what intervals draw, -1 for none; None where every row is independent.
        champion: [N] calibrated logits of the model to compare with; None without one.
        seed: Of the bootstrap.
        calibrated_on: As for :func:`~ctr_pipeline.evaluation.task_metrics.evaluate_rows`.

    Raises:
        EvaluationError: an array has another length than the logits.
    """
    for name, given in (("ts", ts), ("clusters", clusters), ("champion", champion)):
        if given is not None and given.shape != logits.shape:
            raise EvaluationError(f"{name}: expected shape {logits.shape}; found {given.shape}")
    days = np.floor_divide(ts, _DAY_US)
    found = []
    for day in np.unique(days):
        at = np.flatnonzero(days == day)
        rows = labelled(logits[at], labels[at])
        ranking, own = rank(rows.logits), None if clusters is None else clusters[at]
        codes, count = cluster_codes(None if own is None else own[rows.kept], len(rows))
        drawn = bootstrap_of(rows, ranking, codes, count, seed=seed)
        oe = drawn.observed_expected
        found.append(
            DayMetrics(
                day=datetime.fromtimestamp(int(day) * _DAY_US / 1e6, UTC).date().isoformat(),
                rows=len(rows),
                masked=len(at) - len(rows),
                positives=rows.positives,
                auc=delong_of(rows, ranking, codes, count),
                ne=drawn.normalised_entropy,
                oe=None if oe is None else with_error_of_slice(oe, calibrated_on),
                ne_against_champion=None
                if champion is None
                else paired_difference(logits[at], champion[at], labels[at], own, seed=seed, replicates=100),
            )
        )
    return tuple(found)
