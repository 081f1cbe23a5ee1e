"""How much worse a retrain is than the one before: the change in NE of their test rows, with an interval over users."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.attribution.differences.retrain_state import RetrainState
from ctr_pipeline.evaluation.metrics import Interval, entropy

REPLICATES = 400
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
    labels = [side.labels[:, column] for side, column in zip((old, new), columns, strict=True)]
    losses = [
        _losses(side.logits[:, column], own) for side, column, own in zip((old, new), columns, labels, strict=True)
    ]
    settled = [own >= 0 for own in labels]
    whole = [_ne(losses[n][settled[n]], labels[n][settled[n]] == 1) for n in (0, 1)]
    if whole[0] is None or whole[1] is None:
        return None
    draw = np.random.default_rng(seed)
    if places is not None:
        ours, theirs = places
        kept = settled[0][ours] & settled[1][theirs]
        ours, theirs = ours[kept], theirs[kept]
        users = _codes(old.users[ours])
        sums = [
            _sums(users, losses[0][ours], labels[0][ours] == 1),
            _sums(users, losses[1][theirs], labels[1][theirs] == 1),
        ]
        weights = draw.poisson(1.0, (REPLICATES, len(sums[0])))
        draws = [_ne_of(weights @ own) for own in sums]
        rows, positives = len(theirs), int((labels[1][theirs] == 1).sum())
    else:
        sums = [
            _sums(_codes(side.users[settled[n]]), losses[n][settled[n]], labels[n][settled[n]] == 1)
            for n, side in enumerate((old, new))
        ]
        draws = [_ne_of(draw.poisson(1.0, (REPLICATES, len(own))) @ own) for own in sums]
        rows, positives = int(settled[1].sum()), int((labels[1] == 1).sum())
    values = [_ne_of(own.sum(axis=0)[np.newaxis, :])[0] for own in sums]
    value = float(values[1] - values[0])
    if not np.isfinite(value):
        return None
    spread = (draws[1] - draws[0])[np.isfinite(draws[0]) & np.isfinite(draws[1])]
    margin = 1.96 * float(spread.std(ddof=1)) if len(spread) > 10 else float("inf")
    return EntropyChange(
        task=task, old=float(whole[0]), new=float(whole[1]), change=Interval(value, value - margin, value + margin),
        paired=places is not None, rows=rows, positives=positives,
    )  # fmt: skip


def _losses(logits: NDArray[np.float64], labels: NDArray[np.int8]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.logaddexp(0.0, np.where(labels == 1, -logits, logits))
    return found


def _ne(losses: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    if not 0 < positive.sum() < len(positive):
        return None
    return float(losses.mean() / entropy(float(positive.mean())))


def _codes(users: NDArray[np.int64]) -> NDArray[np.intp]:
    """Codes from 0 on; a row of nobody is a cluster of its own."""
    own = np.where(users < 0, -1 - np.arange(len(users)), users)
    return np.unique(own, return_inverse=True)[1].astype(np.intp)


def _sums(codes: NDArray[np.intp], losses: NDArray[np.float64], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[clusters, 3] sums of loss, positives and rows."""
    count = int(codes.max(initial=-1)) + 1
    amounts = (losses, positive.astype(np.float64), np.ones(len(codes)))
    return np.stack([np.bincount(codes, amount, minlength=count) for amount in amounts], axis=1)


def _ne_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """NE of each row of sums of loss, positives and rows; NaN where one class is absent."""
    with np.errstate(all="ignore"):
        rate = sums[:, 1] / sums[:, 2]
        expected = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        found: NDArray[np.float64] = sums[:, 0] / sums[:, 2] / expected
    return found
