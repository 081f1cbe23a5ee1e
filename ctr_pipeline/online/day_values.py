"""The history values that requests of a day are to see."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import narwhals.stable.v2 as nw

from ctr_pipeline.engines import Engine
from ctr_pipeline.features import history_for_days, history_reach
from ctr_pipeline.lake import Lake
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.fields import DAY_US
from ctr_pipeline.spec.history import HistoryList, is_exact

if TYPE_CHECKING:
    import polars as pl

HISTORY = "history"


def values_of_day(
    spec: Spec, engine: Engine, lake: Lake, day: date, first_day: date
) -> "tuple[pl.DataFrame, int | None]":
    """The rows of ``day`` of the history table; those that it will have where it does not have the day yet.

    The values of a day depend on what had arrived before it began, and so can be had once the day before has been read.

    Args:
        spec: The history features. Those with ``exact`` look back from an impression, and are left out.
        engine: What computes them.
        lake: The tables; they must have been read up to the day before.
        day: The day.
        first_day: First day of the log.

    Returns:
        ``feature``, ``key``, ``value`` and ``item``, and the version of the table where they are from it.

    Raises:
        LakeError: a table does not exist.
    """
    import polars as pl

    columns = ["feature", "key", "value", "item"]
    daily = [f for f in spec.features.history if not is_exact(f)]
    version = lake.version(HISTORY)
    if version is not None and lake.rows_by_day(HISTORY, version).get(day):
        others = [f for f in spec.features.history if f not in daily]
        exact = [name for f in others for name in (f.stored if isinstance(f, HistoryList) else (f.name,))]
        rows = lake.scan(HISTORY, version, day, day).filter(~pl.col("feature").is_in(exact))
        # Of tables of before there were lists.
        missing = [pl.lit(None, dtype=pl.String).alias("item")] if "item" not in rows.collect_schema() else []
        return rows.with_columns(missing).select(columns).collect(), version
    features = spec.features.model_copy(update={"history": daily})
    wanted = spec.model_copy(update={"features": features})
    last, past = day - timedelta(days=1), max(first_day, day - timedelta(days=history_reach(wanted)))
    early = timedelta(days=-(-spec.source.max_early // DAY_US))
    shown = engine.scan(lake, "impressions", first=past, last=last)
    arrived = engine.scan(lake, "outcome_events", first=past - early, last=last)
    values = nw.from_native(history_for_days(wanted, shown, arrived, [day]))
    found: pl.DataFrame = values.select(columns).collect("polars").to_native()
    return found, None
