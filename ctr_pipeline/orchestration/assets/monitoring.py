"""`profile`: each day of the log in a few thousand numbers, compared with the days before it."""

from datetime import timedelta

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.orchestration.checks.drift import drift_check_specs, drift_checks
from ctr_pipeline.orchestration.fingerprints import TAG, profile_fingerprint
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import user_errors

STRETCH_DAYS = 7
"""Days profiled in one go: bounds memory."""


def monitoring_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The profile table, by day, with a check for each symptom of drift."""

    @dg.asset(
        deps=["impressions", "outcome_events"],
        partitions_def=daily_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=drift_check_specs("profile"),
        group_name="monitoring",
        kinds={"polars", "deltalake"},
        description="Counts, magnitudes, shares and delays of each day, compared with up to 14 days before it.",
    )
    def profile(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        import polars as pl

        from ctr_pipeline.features import REFERENCE_DAYS, find_drift, judged_days, profile_days, profiled_columns

        days = partition_days(context)
        store = lake.open()
        columns = profiled_columns(settings.spec)
        profiles = []
        with user_errors():
            for first, last in intervals_of(days, STRETCH_DAYS):
                profiles.append(
                    profile_days(
                        settings.spec,
                        store.scan("impressions", first=first, last=last).select(columns).collect(),
                        store.scan("outcome_events", first=first, last=last).collect(),
                        store.scan("impressions_quarantine", first=first, last=last).select("day", "reason").collect(),
                        [first + timedelta(days=n) for n in range((last - first).days + 1)],
                    )
                )
            version = store.replace_days("profile", pl.concat(profiles), days)
            # With the profiles of the days before, which earlier steps made.
            known = store.scan("profile", version, days[0] - timedelta(days=REFERENCE_DAYS), days[-1]).collect()
            findings = find_drift(known, days)
        judged = len(judged_days(known, days))
        context.log.info(f"{len({finding.day for finding in findings})} of {judged} days look unlike the days before")
        return dg.MaterializeResult(
            metadata={
                "dagster/uri": str(store.root / "profile"),
                "rows": sum(part.height for part in profiles),
                "days_judged": judged,
                "delta_version": version,
            },
            tags={TAG: profile_fingerprint(settings)},
            check_results=drift_checks("profile", findings, judged),
        )

    return [profile]
