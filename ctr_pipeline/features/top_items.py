"""What a key interacted with most, with weights that fall with age, point-in-time on a daily grid."""

from collections.abc import Sequence
from datetime import date

import narwhals.stable.v2 as nw

from ctr_pipeline.features.daily_grid import Frame, day_of_start, midnight, on_grid
from ctr_pipeline.features.sequences import first_of, name_of_place
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistoryTop

UNIT = 2**32
"""Weight of an interaction of age 0. Weights are whole numbers, so that their sums are the same in any order."""


def weight_of_age(days: int, half_life: int) -> int:
    """Weight of an interaction whose day began ``days`` days before; at least 1, so that nothing weighs nothing.

    Args:
        days: Days from 1 on.
        half_life: Microseconds after which an interaction weighs half.
    """
    return max(1, round(UNIT * 2 ** (-days * DAY_US / half_life)))


def top_values(moments: Frame, feature: HistoryTop, days: Sequence[date]) -> Frame:
    """The items of most weight of each key on each of ``days``: a row for each place, 1 for the one of most weight.

    Of items of one weight the one met last counts more, then the one whose text comes first.

    Args:
        moments: Rows with ``key``, ``item``, ``moment`` and ``known_ts``; those without a key or an item are left out.
        feature: The feature.
        days: The days on which the values will be used.

    Returns:
        Rows with :data:`~ctr_pipeline.features.daily_grid.HISTORY_COLUMNS`; ``value`` is the weight, in interactions of
        age 0.
    """
    there = moments.filter(~nw.col("key").is_null(), ~nw.col("item").is_null())
    dated = there.with_columns(at=midnight("moment"), known=midnight("known_ts"))
    cells = dated.group_by("key", "item", "at", "known").agg(n=nw.len(), last=nw.col("moment").max())
    cells = cells.with_columns(n=nw.col("n").cast(nw.Int64))
    past = on_grid(cells, days, feature.days * DAY_US).with_columns(age=nw.col("start") - nw.col("at"))
    weights = [weight_of_age(age, feature.half_life) for age in range(1, feature.days + 1)]
    weighted = past.with_columns(weight=nw.col("n") * _by_age(1, weights))
    summed = weighted.group_by("key", "item", "start").agg(
        weight=nw.col("weight").sum().cast(nw.Int64), last=nw.col("last").max()
    )
    ordered = summed.with_columns(less=0 - nw.col("weight"), earlier=0 - nw.col("last"))
    listed = first_of(ordered, ("key", "start"), ("less", "earlier", "item"), feature.length)
    # Exact, as a product with a power of two is.
    value = nw.col("weight").cast(nw.Float64) * (1 / UNIT)
    return listed.select(
        day=day_of_start(days), feature=name_of_place(feature.items), key="key", value=value, item=nw.col("item")
    )


def _by_age(first: int, weights: Sequence[int]) -> nw.Expr:
    """The weight that belongs to ``age`` (microseconds): the first of ``weights`` to that of ``first`` days."""
    if len(weights) == 1:
        return nw.lit(weights[0]).cast(nw.Int64)
    middle = len(weights) // 2
    younger, older = _by_age(first, weights[:middle]), _by_age(first + middle, weights[middle:])
    return nw.when(nw.col("age") < (first + middle) * DAY_US).then(younger).otherwise(older)
