"""A key's last impressions or outcomes, point-in-time on a daily grid."""

from collections.abc import Sequence
from datetime import date

import narwhals.stable.v2 as nw

from ctr_pipeline.features.daily_grid import Frame, day_of_start, midnight, on_grid
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistorySequence


def sequence_values(moments: Frame, feature: HistorySequence, days: Sequence[date]) -> Frame:
    """The latest items of each key on each of ``days``: a row for each place, 1 for the latest.

    Of moments at one and the same instant, the one with the smaller impression id counts as the later; of one
    impression, the kind that ``feature.events`` names last.

    Args:
        moments: Rows with ``key``, ``item``, ``moment``, ``known_ts`` and ``impression_id``, and the ``kind`` of the
            event where there are several: its place in ``feature.events``, from 0 on. Rows without a key or an item are
            left out.
        feature: The feature.
        days: The days on which the values will be used.

    Returns:
        Rows with :data:`~ctr_pipeline.features.daily_grid.HISTORY_COLUMNS`; ``value`` is the instant in microseconds.
        Where there are several kinds of events, each place has another row, whose item is the kind.
    """
    there = moments.filter(~nw.col("key").is_null(), ~nw.col("item").is_null())
    cells = there.with_columns(at=midnight("moment"), known=midnight("known_ts"), earlier=0 - nw.col("moment"))
    order = ["earlier", "impression_id"]
    if feature.kinds:
        cells, order = cells.with_columns(before=0 - nw.col("kind")), [*order, "before"]
    # The latest of a day that became known on one day: no more of them can be among the latest of all.
    few = first_of(cells, ("key", "at", "known"), order, feature.length).drop("place")
    listed = first_of(on_grid(few, days, feature.days * DAY_US), ("key", "start"), order, feature.length)
    return listed_rows(listed, feature, "key", day_of_start(days))


def listed_rows(listed: Frame, feature: HistorySequence, key: str, day: nw.Expr) -> Frame:
    """Rows with :data:`~ctr_pipeline.features.daily_grid.HISTORY_COLUMNS` of what is listed.

    Args:
        listed: Rows with ``place`` (from 1 on), ``moment`` and ``item``, and ``kind`` where there are several.
        feature: The feature.
        key: Column that becomes ``key``.
        day: What becomes ``day``.
    """
    name, item = name_of_place(feature.items), nw.col("item")
    if feature.kinds:
        listed = listed.with_columns(part=nw.lit("item,kind").str.split(",")).explode("part")
        is_kind, kind = nw.col("part") == "kind", nw.lit(None).cast(nw.String)
        for code, event in enumerate(feature.events or ()):
            kind = nw.when(nw.col("kind") == code).then(nw.lit(event)).otherwise(kind)
        name = nw.when(is_kind).then(name_of_place(feature.kinds)).otherwise(name)
        item = nw.when(is_kind).then(kind).otherwise(item)
    return listed.select(day=day, feature=name, key=key, value=nw.col("moment").cast(nw.Float64), item=item)


def name_of_place(names: Sequence[str]) -> nw.Expr:
    """The one of ``names`` that ``place`` counts to, from 1 on; found by halving them, as texts of nested cases are long."""
    return _name_from(1, names)


def _name_from(first: int, names: Sequence[str]) -> nw.Expr:
    if len(names) == 1:
        return nw.lit(names[0])
    middle = len(names) // 2
    earlier, later = _name_from(first, names[:middle]), _name_from(first + middle, names[middle:])
    return nw.when(nw.col("place") < first + middle).then(earlier).otherwise(later)


def first_of(rows: Frame, of: tuple[str, ...], order: Sequence[str], length: int) -> Frame:
    """The first ``length`` rows of each group in ``order``, with their ``place`` from 1 on."""
    counted = nw.col("one").cum_sum().over(*of, order_by=list(order))
    placed = rows.with_columns(one=nw.lit(1).cast(nw.Int64)).with_columns(place=counted.cast(nw.Int64))
    return placed.filter(nw.col("place") <= length).drop("one")
