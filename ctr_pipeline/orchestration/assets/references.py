"""`event_references`: do events belong to impressions that the log holds?"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings, end_of_day_us
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.orchestration.automation.jobs import REFERENCES
from ctr_pipeline.orchestration.checks.contracts import (
    References,
    Share,
    check_event_references,
    event_references_spec,
)
from ctr_pipeline.orchestration.fingerprints import TAG, reference_fingerprint
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days, past_days, window_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import require, user_errors

if TYPE_CHECKING:
    import polars as pl

    from ctr_pipeline.lake import Lake

STRETCH_DAYS = 7
"""Arrival days that are looked up in one go: bounds memory."""


def reference_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The events that cannot count because of their impression, by day of arrival."""

    @dg.asset(
        name=REFERENCES,
        deps=[
            "outcome_events",
            dg.AssetDep("impressions", partition_mapping=past_days(window_days(settings) + 1)),
        ],
        partitions_def=daily_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[event_references_spec(REFERENCES)],
        group_name="ingest",
        kinds={"polars", "deltalake"},
        description="Events without an impression, or before it: kept for a late impression, and listed here.",
    )
    def event_references(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        import polars as pl

        from ctr_pipeline.sources import (
            QUARANTINE_SCHEMA,
            find_broken_references,
            reference_quarantine,
            referring,
            refers,
        )

        days, spec = partition_days(context), settings.spec
        store = lake.open()
        versions = {name: store.version(name) for name in ("impressions", "outcome_events")}
        found: dict[date, References] = {}
        quarantined = [pl.DataFrame(schema=QUARANTINE_SCHEMA)]
        with user_errors():
            for first, last in intervals_of(days, STRETCH_DAYS) if refers(spec) else ():
                arrived = store.scan("outcome_events", versions["outcome_events"], first, last)
                events = referring(spec, arrived).collect()
                shown = _pieces(settings, store, versions["impressions"], first, last)
                broken = find_broken_references(events, shown)
                found |= _by_day(events, broken, _judged_from(settings))
                quarantined.append(reference_quarantine(spec, broken))
            version = store.replace_days(f"{REFERENCES}_quarantine", pl.concat(quarantined), days)
        quality = spec.quality
        check = check_event_references(REFERENCES, found, quality.max_orphan_share, quality.max_quarantine_share)
        yield from require(check)
        yield dg.MaterializeResult(
            metadata={
                "dagster/uri": str(store.root / f"{REFERENCES}_quarantine"),
                "events": sum(day.orphans.of for day in found.values()),
                "orphan_event": sum(day.orphans.broken for day in found.values()),
                "event_before_impression": sum(day.early.broken for day in found.values()),
                "quarantine_delta_version": version,
                **{f"delta_version/{name}": number for name, number in versions.items() if number is not None},
            },
            tags={TAG: reference_fingerprint(settings)},
            check_results=[check],
        )

    return [event_references]


def _pieces(
    settings: PipelineSettings, store: "Lake", version: int | None, first: date, last: date
) -> "Iterator[pl.LazyFrame]":
    """The impressions: those whose events arrive on these days in time, then older and younger ones."""
    start = max(settings.first_day, first - timedelta(days=window_days(settings) + 1))
    yield store.scan("impressions", version, start, last)
    yield store.scan("impressions", version, settings.first_day, start - timedelta(days=1))
    yield store.scan("impressions", version, last + timedelta(days=1), settings.last_day)


def _judged_from(settings: PipelineSettings) -> int:
    """The instant from which events cannot belong, within the longest window, to an impression before the log."""
    return end_of_day_us(settings.first_day - timedelta(days=1)) + settings.spec.longest_maturity


def _by_day(events: "pl.DataFrame", broken: "pl.DataFrame", judged_from: int) -> dict[date, References]:
    import polars as pl

    late = pl.col("event_ts") >= judged_from
    totals = events.group_by("day").agg(events=pl.len(), late=late.sum())
    orphan, early = pl.col("reason") == "orphan_event", pl.col("reason") == "event_before_impression"
    counts = broken.group_by("day").agg(orphans=orphan.sum(), judged=(orphan & late).sum(), early=early.sum())
    rows = totals.join(counts, on="day", how="left").fill_null(0)
    return {
        row["day"]: References(
            early=Share(row["early"], row["events"]),
            orphans=Share(row["orphans"], row["events"]),
            judged=Share(row["judged"], row["late"]),
        )
        for row in rows.iter_rows(named=True)
    }
