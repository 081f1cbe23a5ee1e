"""A key's last impressions or outcomes, point-in-time on a daily grid."""

from collections.abc import Sequence
from datetime import date

import narwhals.stable.v2 as nw

from ctr_pipeline.features.daily_grid import Frame, day_of_start, midnight, on_grid
from ctr_pipeline.spec.features import HistorySequence
from ctr_pipeline.spec.fields import DAY_US


def sequence_values(moments: Frame, feature: HistorySequence, days: Sequence[date]) -> Frame:
    """The latest items of each key on each of ``days``: a row for each place, 1 for the latest.

    Of moments at one and the same instant, the one with the smaller impression id counts as the later.

    Args:
        moments: Rows with ``key``, ``item``, ``moment``, ``known_ts`` and ``impression_id``; those without a key or
            an item are left out.
        feature: The feature.
        days: The days on which the values will be used.

    Returns:
        Rows with :data:`~ctr_pipeline.features.daily_grid.HISTORY_COLUMNS`; ``value`` is the instant in microseconds.
    """
    there = moments.filter(~nw.col("key").is_null(), ~nw.col("item").is_null())
    cells = there.with_columns(at=midnight("moment"), known=midnight("known_ts"), earlier=0 - nw.col("moment"))
    # The latest of a day that became known on one day: no more of them can be among the latest of all.
    few = _latest(cells, ("key", "at", "known"), feature.length).drop("place")
    listed = _latest(on_grid(few, days, feature.days * DAY_US), ("key", "start"), feature.length)
    name = nw.lit(None).cast(nw.String)
    for place, item in enumerate(feature.items, start=1):
        name = nw.when(nw.col("place") == place).then(nw.lit(item)).otherwise(name)
    return listed.select(
        day=day_of_start(days), feature=name, key="key", value=nw.col("moment").cast(nw.Float64), item="item"
    )


def _latest(rows: Frame, of: tuple[str, ...], length: int) -> Frame:
    """The ``length`` latest rows of each group, with their ``place``."""
    counted = nw.col("one").cum_sum().over(*of, order_by=["earlier", "impression_id"])
    placed = rows.with_columns(one=nw.lit(1).cast(nw.Int64)).with_columns(place=counted.cast(nw.Int64))
    return placed.filter(nw.col("place") <= length).drop("one")
