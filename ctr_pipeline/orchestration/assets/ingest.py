"""Raw logs → `impressions` and `outcome_events`: pseudonymised, checked, and nothing lost."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.raw_logs import ensure_logs, files_of, list_logs, read_log, read_side_tables
from ctr_pipeline.deployment.stored_days import days_to_keep
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.engines.staging import StagedDays
from ctr_pipeline.orchestration.checks import check_results, check_specs, refused
from ctr_pipeline.orchestration.checks.contracts import IngestEvidence, Share
from ctr_pipeline.orchestration.checks.table_matches import TableEvidence, table_remark
from ctr_pipeline.orchestration.checks.touches import TouchEvidence, touch_remark
from ctr_pipeline.orchestration.checks.type_changes import TypeEvidence
from ctr_pipeline.orchestration.fingerprints import CONTRACT_TAG, TAG, FingerprintInputs, contract_fingerprint
from ctr_pipeline.orchestration.metadata import add_for_run, column_schema
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days, touch_days, window_days
from ctr_pipeline.orchestration.records import (
    EVENT_TYPES,
    FILES,
    REMARKS,
    event_types_of,
    newest_materializations,
    newest_tags,
)
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.orchestration.user_errors import user_errors
from ctr_pipeline.privacy.forgotten_users import leave_out_forgotten

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.sources import Logs, ReadTally, SideRows
    from ctr_pipeline.sources.event_types import TypeCounts
    from ctr_pipeline.sources.rotation import StoredDay

_ROWS_OF_DAY = (
    "dagster/partition_row_count",
    "rows_in_day",
    "rows_kept_day",
    "rows_quarantined_day",
    "rows_filtered_day",
    "rows_added_day",
    "rows_ignored_day",
)
"""Metadata of a day: where its rows went."""

StepOutput = dg.MaterializeResult | dg.AssetCheckResult


def ingest_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The two tables that are read from the raw logs."""
    partitions, listings = daily_partitions(deployment), dict[str, "Logs"]()

    @dg.asset(
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs("impressions"),
        group_name="ingest",
        kinds={"polars", "deltalake"},
        description="Impressions by day: ids hashed, contract checked, broken rows in impressions_quarantine.",
    )
    def impressions(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[StepOutput]:
        yield from _ingest(context, deployment, lake, "impressions", listings)

    past = touch_days(deployment.spec)

    @dg.asset(
        partitions_def=partitions,
        deps=[] if past is None else [dg.AssetDep("impressions", partition_mapping=past)],
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs("outcome_events"),
        group_name="ingest",
        kinds={"polars", "deltalake"},
        description="Outcomes by the day on which they arrived, from event logs, 0/1 columns or outcome times.",
    )
    def outcome_events(context: dg.AssetExecutionContext, lake: LakeResource) -> Iterator[StepOutput]:
        yield from _ingest(context, deployment, lake, "outcome_events", listings)

    return [impressions, outcome_events]


def _ingest(
    context: dg.AssetExecutionContext,
    deployment: Deployment,
    lake: LakeResource,
    table: str,
    listings: "dict[str, Logs]",
) -> Iterator[StepOutput]:
    """Reads the step's days, commits kept and quarantined rows, and reports where every row went.

    A day that breaks a blocking check is refused: its broken rows are stored for inspection, its kept ones are not. A
    day whose files are gone stays as it is.
    """
    from ctr_pipeline.sources import ReadTally
    from ctr_pipeline.sources.rotation import kept_remark

    store, tally, wanted = lake.open(), ReadTally(), partition_days(context)
    ensure_logs(deployment, wanted[-1], context.log.info)
    found, contract = newest_materializations(context.instance, table), contract_fingerprint(deployment)
    with user_errors(), StagedDays(store, table) as staged:
        # The steps of a run share a process, and see the same files.
        if context.run_id not in listings:
            listings[context.run_id] = list_logs(deployment)
        logs = listings[context.run_id]
        stored = {day: _stored_day(made, contract) for day, made in found.items()}
        sides = read_side_tables(deployment, logs) if table == "impressions" else {}
        shown = _attributable(context.instance, deployment, store) if table == "outcome_events" else None
        gone = days_to_keep(deployment, logs, table, wanted, stored, store, sides, shown)
        days = [day for day in wanted if day not in gone]
        if days:
            _read_days(context, deployment, staged, tally, logs, sides, shown, days)
        types = _event_types(table, found, tally, days)
        tables = _table_evidence(tally, sides)
        evidence = _evidence(deployment, table, staged, tally, days, types, tables)
        checks = check_results(table, evidence)
        quarantine_version = store.replace_days(f"{table}_quarantine", tally.quarantined, days)
        _store_quarantine_of_tables(store, deployment.first_day, sides)
        if broken := refused(table, checks):
            yield from checks
            raise dg.Failure(f"{table} refused: " + " ".join(str(check.description) for check in broken))
        version = staged.commit(days) if days else store.version(table)
    for day in days:
        rows = _rows_of_day(evidence, day)
        files = {path: logs.stamps[path] for path in sorted(tally.files.get(day, ()))}
        more = {EVENT_TYPES: dict(types.get(day, {}))} if table == "outcome_events" else {}
        context.add_asset_metadata({**rows, FILES: files, **more}, asset_key=table, partition_key=day.isoformat())
    for day in gone:
        kept = {
            name: value for name, value in found[day].metadata.items() if name in (*_ROWS_OF_DAY, FILES, EVENT_TYPES)
        }
        context.add_asset_metadata(kept, asset_key=table, partition_key=day.isoformat())
    inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=wanted[-1], logs=logs)
    remarks = [
        *logs.remarks,
        *([kept_remark(table, gone)] if gone else []),
        *tally.remarks(table),
        *(table_remark(found) for found in tables),
        *(touch_remark(found) for found in evidence.touches),
    ]
    add_for_run(
        context,
        table,
        {
            "dagster/uri": str(store.root / table),
            "dagster/column_schema": column_schema(staged.empty),
            "rows_in": tally.total,
            "rows_filtered": tally.filtered.total(),
            **({"impressions_added": tally.added.total()} if tally.added else {}),
            "rows_ignored": tally.ignored,
            "quarantine_reasons": dict(evidence.reasons),
            **{f"notice/{notice}": rows for notice, rows in tally.notices.items()},
            **{f"attribution/{found.log.name}": found.metadata for found in evidence.touches},
            **{f"side_table/{found.name}": found.metadata for found in tables},
            "quarantine_delta_version": quarantine_version,
        },
    )
    yield dg.MaterializeResult(
        metadata={"delta_version": version, **({REMARKS: remarks} if remarks else {})},
        tags={TAG: stage(table).fingerprint(inputs), CONTRACT_TAG: contract},
        check_results=checks,
    )


def _stored_day(made: dg.AssetMaterialization, contract: str) -> "StoredDay":
    from ctr_pipeline.sources.rotation import StoredDay

    files = made.metadata.get(FILES)
    return StoredDay(
        files=files.value if isinstance(files, dg.JsonMetadataValue) and isinstance(files.value, dict) else {},
        is_current=(made.tags or {}).get(CONTRACT_TAG) == contract,
    )


def _read_days(
    context: dg.AssetExecutionContext,
    deployment: Deployment,
    staged: StagedDays,
    tally: "ReadTally",
    logs: "Logs",
    sides: "Mapping[str, SideRows]",
    shown: "pl.LazyFrame | None",
    days: list[date],
) -> None:
    """Reads the step's days, one interval after the other, which bounds memory."""
    from ctr_pipeline.sources.extent import days_at_a_time

    spec, table = deployment.spec, staged.table
    context.log.info(f"Reading {table} of {len(days)} days, {days[0]} to {days[-1]}")
    known = _ids_of_other_days(context.instance, deployment, staged.lake, days)
    key = key_fingerprint(process_environment())
    span = (max(deployment.last_day or days[-1], days[-1]) - deployment.first_day).days + 1
    files, log_first = files_of(spec, logs, table), deployment.log_first_day
    if log_first in partition_days(context) and log_first not in days:
        # Rows that no day can be given to count to the first day that is read.
        log_first = days[0]
    for first, last in intervals_of(days, days_at_a_time(spec, table, files, span) or len(days)):
        reach = _with_written_ids(known, staged, first - _reach(deployment))
        result = read_log(deployment, logs, table, first, last, log_first, reach, sides, shown)
        result = leave_out_forgotten(staged.lake, spec, table, result, key, context.log.warning)
        staged.add(result.kept)
        tally.add(result)
        if last < days[-1]:
            context.log.info(f"Read up to {last}")


def _evidence(
    deployment: Deployment,
    table: str,
    staged: StagedDays,
    tally: "ReadTally",
    days: Sequence[date],
    types: "TypeCounts",
    tables: list[TableEvidence],
) -> IngestEvidence:
    quarantined, spec = tally.quarantined_by_day(), deployment.spec
    # An outcome may take the longest window, and arrive on the day after.
    used = {task.label.event: window_days(spec) + 1 for task in spec.tasks if task.label.event is not None}
    return IngestEvidence(
        table=table,
        rows_in={day: tally.rows_in.get(day, 0) for day in days},
        kept={day: staged.rows.get(day, 0) for day in days},
        quarantined={day: quarantined.get(day, 0) for day in days},
        filtered={day: tally.filtered.get(day, 0) for day in days},
        added={day: tally.added.get(day, 0) for day in days},
        reasons=tally.reasons(),
        total=tally.total,
        ignored=tally.ignored,
        undated=Share(tally.undated, tally.rows_in_log),
        max_quarantine_share=spec.quality.max_quarantine_share,
        outcomes={day: Share(*found) for day, found in sorted(tally.outcomes.items())},
        event_types=TypeEvidence(counts=types, used=used),
        tables=tables,
        touches=[
            TouchEvidence(log=log, fates=dict(tally.attributions.get(log.name, {})))
            for log in spec.source.events
            if log.attribute is not None and table == "outcome_events"
        ],
    )


def _table_evidence(tally: "ReadTally", sides: "Mapping[str, SideRows]") -> list[TableEvidence]:
    return [
        TableEvidence(
            name=name,
            fates=dict(tally.joins.get(name, {})),
            rows=side.rows_in,
            quarantined={str(reason): int(rows) for reason, rows in side.reasons.iter_rows()},
            repeated=side.repeated,
            column=side.table.joined_by,
            key=side.table.key,
            timeless=side.table.valid_from is None,
        )
        for name, side in sides.items()
    ]


def _store_quarantine_of_tables(store: "Lake", day: date, sides: "Mapping[str, SideRows]") -> None:
    """Replaces what was set aside when the side tables were read before: their rows belong to no day."""
    import polars as pl

    if not sides:
        return
    name = "side_tables_quarantine"
    days = {day, *(store.rows_by_day(name) if store.exists(name) else ())}
    store.replace_days(name, pl.concat([side.quarantined for side in sides.values()]), sorted(days))


def _event_types(
    table: str, found: Mapping[date, dg.AssetMaterialization], tally: "ReadTally", days: Sequence[date]
) -> "TypeCounts":
    """Events by day and type: of ``days`` as they were read, of other days as they were recorded."""
    if table != "outcome_events":
        return {}
    recorded = {
        day: event_types_of({name: entry.value for name, entry in made.metadata.items()}) for day, made in found.items()
    }
    return {**recorded, **{day: tally.event_types.get(day, {}) for day in days}}


def _rows_of_day(evidence: IngestEvidence, day: date) -> dict[str, int]:
    rows_in, kept, added = evidence.rows_in[day], evidence.kept[day], evidence.added[day]
    quarantined, filtered = evidence.quarantined[day], evidence.filtered[day]
    ignored = rows_in + added - kept - quarantined - filtered
    return dict(zip(_ROWS_OF_DAY, (kept, rows_in, kept, quarantined, filtered, added, ignored), strict=True))


def _reach(deployment: Deployment) -> timedelta:
    """How far apart the days of two rows with one id may lie and still be compared."""
    return timedelta(days=window_days(deployment.spec) + 1)


def _with_written_ids(known: "pl.LazyFrame | None", staged: StagedDays, since: date) -> "pl.LazyFrame | None":
    """``known``, and the ids of the impressions that this step wrote, from the day ``since`` on."""
    import polars as pl

    written = staged.written(since)
    if staged.table != "impressions" or not written:
        return known
    ids = pl.scan_parquet(written, glob=False).select("impression_id", "ts", "ingest_ts")
    return ids if known is None else pl.concat([known, ids])


def _attributable(instance: dg.DagsterInstance, deployment: Deployment, store: "Lake") -> "pl.LazyFrame | None":
    """The stored impressions to which events that name none may belong: those that were read under the same contract."""
    import polars as pl

    if touch_days(deployment.spec) is None or not store.exists("impressions"):
        return None
    contract = contract_fingerprint(deployment)
    days = [day for day, tag in newest_tags(instance, "impressions", CONTRACT_TAG).items() if tag == contract]
    return store.scan("impressions").filter(pl.col("day").is_in(days))


def _ids_of_other_days(
    instance: dg.DagsterInstance, deployment: Deployment, store: "Lake", days: Sequence[date]
) -> "pl.LazyFrame | None":
    """Ids of the impressions of the days around, so that no id occurs on two days that are read apart.

    Of the days whose events may belong to these, or the other way round, that were read under the same contract:
    under another one, rows may have had another day or hash.
    """
    import polars as pl

    if deployment.spec.impression.id is None or not store.exists("impressions"):
        return None
    reach, contract = _reach(deployment), contract_fingerprint(deployment)
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
