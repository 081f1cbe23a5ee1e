"""Which values of the other side cure a model: each is an experiment on the model itself."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from ctr_pipeline.attribution.model_change import Substitution
from ctr_pipeline.attribution.replay_rows import Replay
from ctr_pipeline.attribution.resampling import Resampling, entropies, interval_of
from ctr_pipeline.attribution.trained_side import Encoded, ReplayRows, TrainedSide
from ctr_pipeline.calibration.labelled import Float64s, Integers
from ctr_pipeline.evaluation.metrics import Interval

LABELS = "the labels"
"""Among the features of a substitution: the labels of the other side are used. No feature has such a name."""


FEWEST_DRAWS = 20
"""Fewest draws of users that tell an interval."""


@dataclass(frozen=True, slots=True)
class Substitutions:
    """One side's model on the matched rows, ready for the values of the other side; the rows are encoded once.

    Attributes:
        model: Whose model it is.
        side: That side.
        rows: The matched rows as its own pipeline has them.
        other: The same impressions as the other side's has them.
        own: ``rows`` as the model's inputs.
        theirs: ``other`` as its inputs.
        lacking: Features that the model reads and ``other`` lacks.
        elsewhere: By task [R + 1] NE of the other side's model on its own data, NaN where that has one class.
        draws: Of the users.
    """

    model: Literal["old", "new"]
    side: TrainedSide
    rows: ReplayRows
    other: ReplayRows
    own: Encoded
    theirs: Encoded
    lacking: tuple[str, ...]
    elsewhere: Mapping[str, Float64s]
    draws: Resampling

    @classmethod
    def of(cls, replay: Replay, model: Literal["old", "new"], draws: Resampling) -> "Substitutions":
        """Of a replay whose rows are matched; ``draws`` are of the users of the new side's matched rows."""
        if model == "new":
            side, counterpart, rows, other = replay.new, replay.old, replay.new_matched, replay.old_matched
        else:
            side, counterpart, rows, other = replay.old, replay.new, replay.old_matched, replay.new_matched
        logits = counterpart.logits(other)
        places = {task: counterpart.layout.tasks.index(task) for task in replay.tasks}
        return cls(
            model=model,
            side=side,
            rows=rows,
            other=other,
            own=side.encode(rows),
            theirs=side.encode(other),
            lacking=side.absent(other),
            elsewhere={
                task: entropies([logits[:, place]], other.label(task), draws)[:, 0] for task, place in places.items()
            },
            draws=draws,
        )

    def substitution(self, task: str, features: Collection[str]) -> Substitution | None:
        """What NE does when ``features`` have the other side's values; None where the labels of the rows are of one class.

        Args:
            task: A task of both sides.
            features: Names of features of the model, and :data:`LABELS`.
        """
        rows = self.own
        for name in features:
            if name != LABELS:
                rows = rows.with_columns(self.side.columns(name), self.theirs)
        at = self.side.layout.tasks.index(task)
        own = self._entropy(self.own, at, self.rows.label(task))
        given = self._entropy(rows, at, (self.other if LABELS in features else self.rows).label(task))
        if not np.isfinite([own[0], given[0]]).all():
            return None
        return Substitution(
            features=tuple(features),
            model=self.model,
            change=interval_of(given - own),
            share=share_of(own - given, own - self.elsewhere[task]),
        )

    def of_each(self, task: str) -> tuple[Substitution, ...]:
        """One for each feature of the model whose inputs differ between both sides' rows, the best cure first."""
        differing = [name for name in self.side.features if self._differs(name)]
        found = [self.substitution(task, [name]) for name in differing]
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.change.value))

    def _entropy(self, rows: Encoded, place: int, labels: Integers) -> Float64s:
        return entropies([self.side.calibrated(rows)[:, place]], labels, self.draws)[:, 0]

    def _differs(self, feature: str) -> bool:
        numbers, ids = self.side.columns(feature)
        same = np.array_equal(self.own.numeric[:, numbers], self.theirs.numeric[:, numbers], equal_nan=True)
        return not (same and np.array_equal(self.own.ids[:, ids], self.theirs.ids[:, ids]))


def share_of(part: Float64s, whole: Float64s) -> Interval | None:
    """Share of a difference [R + 1] that a part [R + 1] of it is; None where the interval of the whole holds 0.

    The interval is Fieller's (1954): the shares s for which part - s · whole may be 0. The spread of draws of the ratio would
    be too narrow where the whole is not much larger than its error.
    """
    known = np.isfinite(part[1:]) & np.isfinite(whole[1:])
    count = int(known.sum())
    if count < FEWEST_DRAWS or not np.isfinite([part[0], whole[0]]).all():
        return None
    quantile = float(special.stdtrit(count - 1, 0.975)) ** 2
    spread = np.cov(part[1:][known], whole[1:][known])
    square = whole[0] ** 2 - quantile * spread[1, 1]
    if square <= 0:
        return None
    middle = part[0] * whole[0] - quantile * spread[0, 1]
    rest = part[0] ** 2 - quantile * spread[0, 0]
    half = float(np.sqrt(max(middle**2 - square * rest, 0.0)))
    return Interval(float(part[0] / whole[0]), float((middle - half) / square), float((middle + half) / square))
