"""How much worse a retrain is than the one before: the change in NE of their test rows, with an interval over users."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.attribution.differences.retrain_state import RetrainState
from ctr_pipeline.attribution.resampling import Resampling, entropies, interval_of
from ctr_pipeline.evaluation.metrics import Interval, normalised_entropy

LEAST_MATCHED = 0.5
"""Share of the smaller test that has to be matched for a paired interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyChange:
    """NE of a task's test rows on both sides; lower is better.

    Attributes:
        task: The task.
        old: NE of the old side on its own test rows and labels.
        new: The same of the new side.
        change: NE of the new side minus that of the old one, with a 95 % interval over users.
        paired: Whether the interval is of the same impressions.
        rows: Rows of it, of the new side.
        positives: Positive ones.
    """

    task: str
    old: float
    new: float
    change: Interval
    paired: bool
    rows: int
    positives: int

    @property
    def worse(self) -> bool:
        """Whether NE is worse beyond chance."""
        return self.change.low > 0

    @property
    def better(self) -> bool:
        """Whether NE is better beyond chance."""
        return self.change.high < 0

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task, "old": self.old, "new": self.new, "change": self.change.to_json(), "paired": self.paired,
            "rows": self.rows, "positives": self.positives, "significant": self.worse or self.better,
        }  # fmt: skip


def entropy_changes(old: RetrainState, new: RetrainState, by: list[str], *, seed: int) -> dict[str, EntropyChange]:
    """By task that both sides have and of which both tests have outcomes of both classes.

    Args:
        old: The old side.
        new: The new side.
        by: Columns by which impressions are matched; none where they cannot be.
        seed: Of the bootstrap.
    """
    found = {}
    sides = [_test_rows(side) for side in (old, new)]
    if sides[0] is None or sides[1] is None:
        return {}
    first, second = sides[0], sides[1]
    places = _places(first, second, by) if by else None
    paired = places is not None and len(places[0]) >= LEAST_MATCHED * min(first.height, second.height)
    for task in [task for task in old.tasks if task in new.tasks]:
        change = _change(task, old, new, places if paired else None, seed)
        if change is not None:
            found[task] = change
    return found


def _test_rows(side: RetrainState) -> pl.DataFrame | None:
    """Keys of the test rows in the order of the scores; None where they do not go together."""
    rows = side.keys.filter(pl.col("test")).sort("ts", "impression_id")
    return rows if rows.height == len(side.logits) and rows.height else None


def _places(first: pl.DataFrame, second: pl.DataFrame, by: list[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    numbered = [side.with_row_index("place").drop_nulls(by).unique(by, keep="none") for side in (first, second)]
    both = numbered[0].select(*by, "place").join(numbered[1].select(*by, pl.col("place").alias("other")), on=by)
    both = both.sort("place")
    return both["place"].to_numpy().astype(np.intp), both["other"].to_numpy().astype(np.intp)


def _change(
    task: str, old: RetrainState, new: RetrainState, places: tuple[NDArray[np.intp], NDArray[np.intp]] | None, seed: int
) -> EntropyChange | None:
    columns = [side.tasks.index(task) for side in (old, new)]
    logits = [side.logits[:, column] for side, column in zip((old, new), columns, strict=True)]
    labels = [side.labels[:, column] for side, column in zip((old, new), columns, strict=True)]
    whole = [normalised_entropy(own, of) for own, of in zip(logits, labels, strict=True)]
    if whole[0] is None or whole[1] is None:
        return None
    if places is not None:
        kept = (labels[0][places[0]] >= 0) & (labels[1][places[1]] >= 0)
        logits = [own[rows[kept]] for own, rows in zip(logits, places, strict=True)]
        labels = [own[rows[kept]] for own, rows in zip(labels, places, strict=True)]
        (of_both,) = Resampling.of(old.users[places[0][kept]], seed=seed)
        draws = of_both, of_both
    else:
        # Codes of two datasets name different users: with codes apart, each has a weight of its own.
        apart = np.where(new.users < 0, -1, new.users + old.users.max(initial=-1) + 1)
        first, second = Resampling.of(old.users, apart, seed=seed)
        draws = first, second
    drawn = [
        entropies([own], of, users)[:, 0] if len(own) else np.full(1, np.nan)
        for own, of, users in zip(logits, labels, draws, strict=True)
    ]
    change = interval_of(drawn[1] - drawn[0])
    if not np.isfinite(change.value):
        return None
    settled = labels[1][labels[1] >= 0]
    return EntropyChange(
        task=task, old=whole[0], new=whole[1], change=change, paired=places is not None,
        rows=len(settled), positives=int((settled == 1).sum()),
    )  # fmt: skip
