"""Whether values of the past are those of other days: older than they were, or of days to come."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from ctr_pipeline.attribution.differences.column_values import mean

MOST_DAYS = 14
NEARLY_ALL, ENOUGH = 0.9, 0.2
"""Share of the rows with a value of that day that have it; and least share of all rows that differ that have one."""

_VALUE, _LATER, _NEW = "__value", "__later", "__new"


@dataclass(frozen=True, slots=True)
class Lag:
    """By how many days values are older than they were (below 0, younger), of the same key."""

    days: int
    key: str
    explained: float

    @property
    def words(self) -> str:
        """As a part of a sentence."""
        count = abs(self.days)
        age = f"{count} day{'s' if count > 1 else ''}"
        if self.days < 0:
            return f"has the values that its {self.key} has {age} later: it knows days to come"
        return f"has the values that its {self.key} had {age} earlier"


def lag_of(feature: str, old: pl.DataFrame, new: pl.DataFrame, differs: pl.Series, keys: Sequence[str]) -> Lag | None:
    """The lag that says nearly all values that differ, if one does.

    Args:
        feature: A number.
        old: Rows of the old side, with ``day``, the keys and the feature.
        new: The same impressions of the new side.
        differs: [M] rows of which the values differ.
        keys: Categories, one of which the value may be one of for each day.
    """
    best: Lag | None = None
    for key in keys:
        known = old.select("day", key, pl.col(feature).cast(pl.Float64).alias(_VALUE)).drop_nulls()
        # A value of a key and day is one value; of a price of each row it would be none.
        daily = known.group_by("day", key).agg(
            pl.col(_VALUE).median(), spread=pl.col(_VALUE).max() - pl.col(_VALUE).min()
        )
        if not daily.height or mean(daily["spread"].abs() <= 1e-9 * daily[_VALUE].abs() + 1e-12) < NEARLY_ALL:
            continue
        if daily.height == daily[key].n_unique():
            continue
        asked = new.filter(differs).select("day", key, pl.col(feature).cast(pl.Float64).alias(_NEW))
        for lag in [*range(1, MOST_DAYS + 1), *range(-1, -MOST_DAYS - 1, -1)]:
            moved = daily.select(
                (pl.col("day") + pl.duration(days=lag)).alias("day"), key, pl.col(_VALUE).alias(_LATER)
            )
            found = asked.join(moved, on=["day", key], how="inner")
            if found.height < max(5, ENOUGH * asked.height):
                continue
            same = ((found[_NEW] - found[_LATER]).abs() <= 1e-5 * found[_LATER].abs() + 1e-12).fill_null(False)
            share = mean(same)
            if share >= NEARLY_ALL and (best is None or share > best.explained + 0.01):
                best = Lag(lag, key, share)
    return best
