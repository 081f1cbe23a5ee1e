"""Which days of a table stay as they are stored, since the files of today do not hold them any more."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.raw_logs import read_log

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.sources import Logs, SideRows
    from ctr_pipeline.sources.rotation import StoredDay


def days_to_keep(
    deployment: Deployment,
    logs: "Logs",
    table: str,
    days: Sequence[date],
    stored: "Mapping[date, StoredDay]",
    lake: "Lake",
    tables: "Mapping[str, SideRows]",
    shown: "pl.LazyFrame | None",
) -> set[date]:
    """Those of ``days`` that must not be read again, as rows that are stored would be lost.

    Args:
        deployment: Declares the logs.
        logs: Their files.
        table: The table that is about to be read.
        days: The days that are about to be read.
        stored: From what the stored days of the table were read.
        lake: Holds them.
        tables: What was read of the side tables.
        shown: Stored impressions, to which events that name none may belong.

    Raises:
        SourceError: a day can neither be read again nor stay as it is.
    """
    import polars as pl

    from ctr_pipeline.engines.base import intervals_of
    from ctr_pipeline.sources.rotation import days_at_risk, lost_days, refuse_mixed_days

    spec, stamps, first = deployment.spec, logs.stamps, deployment.log_first_day
    if spec.source.simulator is not None or not lake.exists(table):
        return set()
    own = {day: found for day, found in stored.items() if day in set(days)}
    risk = days_at_risk(own, stamps, first)
    if not risk:
        return set()
    # The impression log has no row before its first day.
    without_rows = {day for day in risk if day < first} if table == "impressions" or not logs.events else set()
    time = "ts" if table == "impressions" else "event_ts"
    now = [pl.DataFrame(schema={"day": pl.Date, "time": pl.Int64})]
    found: dict[date, set[str]] = {}
    for begin, end in intervals_of(sorted(risk - without_rows), len(risk)):
        result = read_log(deployment, logs, table, begin, end, first, tables=tables, shown=shown)
        now.append(result.kept.select("day", pl.col(time).alias("time")))
        found |= {day: set(paths) for day, paths in result.files.items()}
    before = lake.scan(table, first=min(risk), last=max(risk)).filter(pl.col("day").is_in(sorted(risk)))
    lost = lost_days(own, before.select("day", pl.col(time).alias("time")).collect(), pl.concat(now)) | without_rows
    has_ids, has_clock = spec.impression.id is not None, spec.impression.time is not None
    refuse_mixed_days(lost, own, stamps, found, has_ids, has_clock)
    return lost
