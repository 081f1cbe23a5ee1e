"""Raw logs → `impressions` and `outcome_events`: pseudonymised, checked, and nothing lost."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.raw_logs import (
    ensure_logs,
    impression_files,
    outcome_files,
    pseudonymiser,
    reading_time,
)
from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.engines.staging import StagedDays
from ctr_pipeline.orchestration.checks.contracts import (
    Share,
    check_days_not_empty,
    check_quarantine_share,
    check_rows_conserved,
    ingest_check_specs,
)
from ctr_pipeline.orchestration.fingerprints import (
    CONTRACT_TAG,
    TAG,
    contract_fingerprint,
    ingest_fingerprint,
    newest_tags,
)
from ctr_pipeline.orchestration.metadata import column_schema
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days, window_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import user_errors
from ctr_pipeline.privacy.forgotten_users import leave_out_forgotten

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.sources import ReadResult

StepOutput = dg.MaterializeResult | dg.AssetCheckResult

_STRETCH_BYTES = 200e6
"""Compressed bytes of Parquet that are read in one go: two to three million rows of forty columns."""


def ingest_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The two tables that are read from the raw logs."""
    partitions = daily_partitions(settings)

    @dg.asset(
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=ingest_check_specs("impressions"),
        group_name="ingest",
        kinds={"polars", "deltalake"},
        description="Impressions by day: ids hashed, contract checked, broken rows in impressions_quarantine.",
    )
    def impressions(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[StepOutput]:
        ensure_logs(settings, partition_days(context)[-1], context.log.info)
        with user_errors():
            files = impression_files(settings)

        def read(first: date, last: date, known: "pl.LazyFrame | None") -> "ReadResult":
            from ctr_pipeline.sources import read_impressions

            return read_impressions(
                settings.spec,
                files,
                first,
                last,
                pseudonymiser(os.environ),
                settings.first_day,
                reading_time(settings),
                known,
            )

        yield from _ingest(context, settings, lake, "impressions", files, read)

    @dg.asset(
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=ingest_check_specs("outcome_events"),
        group_name="ingest",
        kinds={"polars", "deltalake"},
        description="Outcomes by the day on which they arrived, from event logs, 0/1 columns or outcome times.",
    )
    def outcome_events(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[StepOutput]:
        ensure_logs(settings, partition_days(context)[-1], context.log.info)
        with user_errors():
            shown, told = impression_files(settings), outcome_files(settings)
        in_impressions = any(task.label.event is None for task in settings.spec.tasks)
        files = [*(shown if in_impressions else ()), *(path for paths in told.values() for path in paths)]

        def read(first: date, last: date, known: "pl.LazyFrame | None") -> "ReadResult":
            from ctr_pipeline.sources import read_events

            return read_events(
                settings.spec,
                shown,
                told,
                first,
                last,
                pseudonymiser(os.environ),
                settings.first_day,
                reading_time(settings),
                known,
            )

        yield from _ingest(context, settings, lake, "outcome_events", files, read)

    return [impressions, outcome_events]


def _ingest(
    context: dg.AssetExecutionContext,
    settings: PipelineSettings,
    lake: LakeResource,
    table: str,
    files: Sequence[Path],
    read: Callable[[date, date, "pl.LazyFrame | None"], "ReadResult"],
) -> Iterator[StepOutput]:
    """Reads the step's days, commits kept and quarantined rows, and reports where every row went.

    A day that breaks a blocking check is refused: its broken rows are stored for inspection, its kept ones are not.
    """
    days = partition_days(context)
    context.log.info(f"Reading {table} of {len(days)} days, {days[0]} to {days[-1]}")
    store = lake.open()
    known = _ids_of_other_days(context.instance, settings, store, days)
    with user_errors(), StagedDays(store, table) as staged:
        for first, last in intervals_of(days, _days_at_a_time(settings, table, files, days)):
            result = read(first, last, staged.with_ids(known, first - _reach(settings)))
            result = leave_out_forgotten(store, settings.spec, table, result, context.log.warning)
            staged.add(result)
            if last < days[-1]:
                context.log.info(f"Read up to {last}")
        quarantine_version = store.replace_days(f"{table}_quarantine", staged.quarantined, days)

        kept = {day: staged.kept.get(day, 0) for day in days}
        quarantined = _rows_by_day(staged.quarantined, days)
        rows_in = {day: staged.rows_in.get(day, 0) for day in days}
        reasons = _reasons(staged.quarantined)
        checks = [
            check_rows_conserved(table, staged.total, sum(kept.values()), staged.quarantined.height, staged.ignored),
            check_quarantine_share(
                table,
                rows_in,
                quarantined,
                reasons,
                settings.spec.quality.max_quarantine_share,
                Share(staged.undated, staged.rows_in_log),
            ),
            check_days_not_empty(table, kept),
        ]
        broken = [check for check in checks[:2] if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR]
        if broken:
            yield from checks
            raise dg.Failure(f"{table} refused: " + " ".join(str(check.description) for check in broken))
        version = staged.commit(days)
    for day in days:
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": kept[day],
                "rows_in_day": rows_in[day],
                "rows_kept_day": kept[day],
                "rows_quarantined_day": quarantined[day],
                "rows_ignored_day": rows_in[day] - kept[day] - quarantined[day],
            },
            asset_key=table,
            partition_key=day.isoformat(),
        )
    yield dg.MaterializeResult(
        metadata={
            "dagster/uri": str(store.root / table),
            "dagster/column_schema": column_schema(staged.empty),
            "rows_in": staged.total,
            "rows_ignored": staged.ignored,
            "quarantine_reasons": reasons,
            **{f"notice/{notice}": rows for notice, rows in staged.notices.items()},
            "delta_version": version,
            "quarantine_delta_version": quarantine_version,
        },
        tags={TAG: ingest_fingerprint(settings), CONTRACT_TAG: contract_fingerprint(settings)},
        check_results=checks,
    )


def _days_at_a_time(settings: PipelineSettings, table: str, files: Sequence[Path], days: Sequence[date]) -> int:
    """Days to read in one go, which bounds memory.

    Of logs in Parquet, of which a stretch reads little else. Text has to be read from its first line each time, so it
    is read in one go. So are 0/1 columns: which of two rows with one id counts is seen only beside each other.
    """
    by_column = table == "outcome_events" and any(task.label.column is not None for task in settings.spec.tasks)
    if by_column or any(path.suffix not in (".parquet", ".pq") for path in files):
        return len(days)
    span = (max(settings.last_day or days[-1], days[-1]) - settings.first_day).days + 1
    size = sum(path.stat().st_size for path in files) / span
    return max(1, int(_STRETCH_BYTES // max(1.0, size)))


def _reach(settings: PipelineSettings) -> timedelta:
    """How far apart the days of two rows with one id may lie and still be compared."""
    return timedelta(days=window_days(settings) + 1)


def _ids_of_other_days(
    instance: dg.DagsterInstance, settings: PipelineSettings, store: "Lake", days: Sequence[date]
) -> "pl.LazyFrame | None":
    """Ids of the impressions of the days around, so that no id occurs on two days that are read apart.

    Of the days whose events may belong to these, or the other way round, that were read under the same contract:
    under another one, rows may have had another day or hash.
    """
    import polars as pl

    if settings.spec.impression.id is None or not store.exists("impressions"):
        return None
    reach, contract = _reach(settings), contract_fingerprint(settings)
    tags, own = newest_tags(instance, "impressions", CONTRACT_TAG), set(days)
    others = [
        day
        for day, tag in tags.items()
        if tag == contract and day not in own and days[0] - reach <= day <= days[-1] + reach
    ]
    if not others:
        return None
    stored = store.scan("impressions", first=min(others), last=max(others))
    return stored.filter(pl.col("day").is_in(others)).select("impression_id", "ts", "ingest_ts")


def _rows_by_day(frame: Any, days: Sequence[date]) -> dict[date, int]:
    counts = dict(frame.group_by("day").len().iter_rows())
    return {day: int(counts.get(day, 0)) for day in days}


def _reasons(quarantined: "pl.DataFrame") -> dict[str, int]:
    counts = quarantined.group_by("reason").len().sort("reason")
    return {str(reason): int(rows) for reason, rows in counts.iter_rows()}
