"""The normalised entropy of a model day by day, and beside another model's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from ctr_pipeline.calibration.labelled import Float64s, Indices, Integers, Reals, labelled
from ctr_pipeline.evaluation.intervals import MIN_CLUSTERS, cluster_codes
from ctr_pipeline.evaluation.metrics import row_losses
from ctr_pipeline.evaluation.paired_metrics import MetricDifference, entropy_errors, of_errors, ratio_errors

EPOCH = np.datetime64("1970-01-01")


@dataclass(frozen=True, slots=True, kw_only=True)
class DayEntropy:
    """One task on one day, UTC.

    Attributes:
        day: YYYY-MM-DD.
        task: The task.
        rows: Labelled rows.
        positives: Positive ones.
        ne: Normalised entropy of the model, over the entropy of the day's own rate.
        error: Standard error of its logarithm, between users.
        reference_ne: That of the other model; None without one.
        reference_error: Standard error of its logarithm.
        relative: NE / NE of the other model - 1; None without one.
        relative_error: Its standard error.
        freedom: Degrees of freedom of ``relative_error``.
    """

    day: str
    task: str
    rows: int
    positives: int
    ne: float
    error: float
    reference_ne: float | None = None
    reference_error: float | None = None
    relative: float | None = None
    relative_error: float | None = None
    freedom: float | None = None

    @property
    def difference(self) -> MetricDifference | None:
        """``relative`` with its error; None without another model."""
        if self.relative is None or self.relative_error is None or self.freedom is None:
            return None
        return MetricDifference(value=self.relative, error=self.relative_error, freedom=self.freedom)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The day that :meth:`to_json` described."""
        return cls(**content)


def daily_entropies(
    tasks: Sequence[str],
    logits: Reals,
    reference: Reals | None,
    labels: Integers,
    clusters: Integers | None,
    days: Integers,
) -> list[DayEntropy]:
    """Each day and task on which both classes have at least ten users, in order of days.

    Args:
        tasks: T names.
        logits: [N, T] calibrated.
        reference: [N, T] of the other model; None without one.
        labels: [N, T] in {0, 1, -1}.
        clusters: [N] user codes, -1 for none.
        days: [N] days since 1970-01-01.
    """
    found = []
    for day in np.unique(days):
        at = days == day
        for column, task in enumerate(tasks):
            own = labelled(logits[at, column], labels[at, column])
            codes, count = cluster_codes(None if clusters is None else clusters[at][own.kept], len(own))
            sides = [len(np.unique(codes[side])) for side in (own.positive, ~own.positive)]
            if min(sides) < MIN_CLUSTERS:
                continue
            losses, positive = row_losses(own.logits, own.positive), own.positive.astype(np.float64)
            ne, error = _entropy(losses, positive, codes, count)
            beside: dict[str, float] = {}
            if reference is not None:
                theirs = row_losses(labelled(reference[at, column], labels[at, column]).logits, own.positive)
                relative = of_errors(
                    float(losses.sum() / theirs.sum()) - 1.0, ratio_errors(losses, theirs, codes, count)
                )
                reference_ne, reference_error = _entropy(theirs, positive, codes, count)
                beside = {
                    "reference_ne": reference_ne,
                    "reference_error": reference_error,
                    "relative": relative.value,
                    "relative_error": relative.error,
                    "freedom": relative.freedom,
                }
            found.append(
                DayEntropy(
                    day=str(EPOCH + int(day)),
                    task=task,
                    rows=len(own),
                    positives=own.positives,
                    ne=ne,
                    error=error,
                    **beside,
                )
            )
    return found


def _entropy(losses: Float64s, positive: Float64s, codes: Indices, count: int) -> tuple[float, float]:
    ne, errors = entropy_errors(losses, positive, codes, count)
    return ne, of_errors(ne, errors).error
