"""A key's last impressions or outcomes as they were known at an impression itself."""

from collections.abc import Sequence
from datetime import date

import narwhals.stable.v2 as nw

from ctr_pipeline.features.daily_grid import Frame, midnight, on_grid, start_of
from ctr_pipeline.features.sequences import first_of, listed_rows
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistorySequence


def exact_sequence_values(probes: Frame, moments: Frame, feature: HistorySequence, days: Sequence[date]) -> Frame:
    """The latest items of the key of each impression of ``days``: a row for each place, 1 for the latest.

    For an impression at t they are of what happened in [t - ``feature.days``, t) and was known before t; in the order of
    :func:`~ctr_pipeline.features.sequences.sequence_values`. Each impression is held against the latest of before its
    day began, which are found once a day, and against what happened or became known on its day.

    Args:
        probes: Impressions of ``days``: day, impression_id, ts, and the key's column.
        moments: As for :func:`~ctr_pipeline.features.sequences.sequence_values`.
        feature: The feature.
        days: The days.

    Returns:
        Rows with :data:`~ctr_pipeline.features.daily_grid.HISTORY_COLUMNS`; ``key`` is the impression's id, all else is as
        for :func:`~ctr_pipeline.features.sequences.sequence_values`.
    """
    there = moments.filter(~nw.col("key").is_null(), ~nw.col("item").is_null())
    cells = there.with_columns(
        at=midnight("moment"),
        known=midnight("known_ts"),
        earlier=0 - nw.col("moment"),
        since=nw.max_horizontal("moment", "known_ts"),
    )
    order = ["earlier", "impression_id"]
    if feature.kinds:
        cells, order = cells.with_columns(before=0 - nw.col("kind")), [*order, "before"]
    # The look of a day goes back further than that of any of its impressions, by less than a day, and ends before it.
    few = first_of(cells, ("key", "at", "known"), order, feature.length).drop("place")
    before = first_of(on_grid(few, days, feature.days * DAY_US), ("key", "start"), order, feature.length).drop("place")
    today = cells.with_columns(start=midnight("since"))
    today = today.filter(nw.col("start").is_in([start_of(day) for day in days]))
    columns = ["key", "start", "since", "moment", "item", *order, *(("kind",) if feature.kinds else ())]
    met = nw.concat([before.select(columns), today.select(columns)], how="vertical")
    asked = probes.filter(~nw.col(feature.key).is_null()).select(
        "day", probe="impression_id", instant="ts", key=feature.key, start=midnight("ts")
    )
    seen = asked.join(met, on=["key", "start"], how="inner")
    seen = seen.filter(
        nw.col("since") < nw.col("instant"), nw.col("moment") >= nw.col("instant") - feature.days * DAY_US
    )
    return listed_rows(first_of(seen, ("day", "probe"), order, feature.length), feature, "probe", nw.col("day"))
