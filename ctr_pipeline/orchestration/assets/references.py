"""`event_references`: do events belong to impressions that the log holds?"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.contracts import ReferenceEvidence, References, Share
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.metadata import add_for_run
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days, past_days, window_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.orchestration.user_errors import require, user_errors

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake

INTERVAL_DAYS = 7
"""Arrival days that are looked up in one go, and more where they have few events: bounds memory."""

REFERENCES = "event_references"


def reference_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The events that cannot count because of their impression, by day of arrival."""
    spec = deployment.spec

    @dg.asset(
        deps=[
            "outcome_events",
            dg.AssetDep("impressions", partition_mapping=past_days(window_days(spec) + 1)),
        ],
        partitions_def=daily_partitions(deployment),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs(REFERENCES),
        group_name="ingest",
        kinds={"polars", "deltalake"},
        description="Events without an impression, or before it: kept for a late impression, and listed here.",
    )
    def event_references(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        days, store = partition_days(context), lake.open()
        versions = {name: store.version(name) for name in ("impressions", "outcome_events")}
        with user_errors():
            found, quarantined = _find_broken(deployment, store, versions, days)
            version = store.replace_days(f"{REFERENCES}_quarantine", quarantined, days)
        limits = spec.quality
        evidence = ReferenceEvidence(
            table=REFERENCES,
            days=found,
            max_orphan_share=limits.max_orphan_share,
            max_early_share=limits.max_quarantine_share,
        )
        checks = check_results(REFERENCES, evidence)
        yield from require(REFERENCES, checks)
        inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=days[-1])
        add_for_run(
            context,
            REFERENCES,
            {
                "dagster/uri": str(store.root / f"{REFERENCES}_quarantine"),
                "events": sum(day.orphans.of for day in found.values()),
                "orphan_event": sum(day.orphans.broken for day in found.values()),
                "event_before_impression": sum(day.early.broken for day in found.values()),
                "quarantine_delta_version": version,
                **{f"delta_version/{name}": number for name, number in versions.items() if number is not None},
            },
        )
        yield dg.MaterializeResult(
            tags={TAG: stage(REFERENCES).fingerprint(inputs)},
            check_results=checks,
        )

    return [event_references]


def _find_broken(
    deployment: Deployment, store: "Lake", versions: dict[str, int | None], days: list[date]
) -> "tuple[dict[date, References], pl.DataFrame]":
    """Counts by day of arrival, and the rows for the quarantine, of events that cannot count."""
    import polars as pl

    from ctr_pipeline.sources import (
        QUARANTINE_SCHEMA,
        find_broken_references,
        reference_quarantine,
        referring,
        refers,
    )

    spec = deployment.spec
    found: dict[date, References] = {}
    quarantined = [pl.DataFrame(schema=QUARANTINE_SCHEMA)]
    for first, last in (
        intervals_of(days, INTERVAL_DAYS, store.rows_by_day("outcome_events", versions["outcome_events"]))
        if refers(spec)
        else ()
    ):
        arrived = store.scan("outcome_events", versions["outcome_events"], first, last)
        events = referring(spec, arrived).collect()
        shown = _pieces(deployment, store, versions["impressions"], first, last)
        broken = find_broken_references(events, shown, spec.source.max_early)
        found |= _by_day(events, broken, _evaluated_from(deployment))
        quarantined.append(reference_quarantine(spec, broken))
    return found, pl.concat(quarantined)


def _pieces(
    deployment: Deployment, store: "Lake", version: int | None, first: date, last: date
) -> "Iterator[pl.LazyFrame]":
    """The impressions: those whose events arrive on these days in time, then older and younger ones."""
    start = max(deployment.first_day, first - timedelta(days=window_days(deployment.spec) + 1))
    yield store.scan("impressions", version, start, last)
    yield store.scan("impressions", version, deployment.first_day, start - timedelta(days=1))
    yield store.scan("impressions", version, last + timedelta(days=1), deployment.last_day)


def _evaluated_from(deployment: Deployment) -> int:
    """The instant from which events cannot belong, within the longest window, to an impression before the log."""
    return end_of_day_us(deployment.first_day - timedelta(days=1)) + deployment.spec.longest_maturity


def _by_day(events: "pl.DataFrame", broken: "pl.DataFrame", evaluated_from: int) -> dict[date, References]:
    import polars as pl

    late = pl.col("event_ts") >= evaluated_from
    totals = events.group_by("day").agg(events=pl.len(), late=late.sum())
    orphan, early = pl.col("reason") == "orphan_event", pl.col("reason") == "event_before_impression"
    counts = broken.group_by("day").agg(orphans=orphan.sum(), evaluated=(orphan & late).sum(), early=early.sum())
    rows = totals.join(counts, on="day", how="left").fill_null(0)
    return {
        row["day"]: References(
            early=Share(row["early"], row["events"]),
            orphans=Share(row["orphans"], row["events"]),
            evaluated=Share(row["evaluated"], row["late"]),
        )
        for row in rows.iter_rows(named=True)
    }
