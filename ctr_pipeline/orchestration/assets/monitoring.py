"""`profile`: each day of the log in a few thousand numbers, compared with the days before it."""

from datetime import timedelta

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.drift import DriftEvidence
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.metadata import add_for_run
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.orchestration.user_errors import user_errors

INTERVAL_DAYS = 7
"""Days profiled in one go, and more where they have few rows: bounds memory."""


def monitoring_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The profile table, by day, with a check for each symptom of drift."""
    spec = deployment.spec

    @dg.asset(
        deps=["impressions", "outcome_events"],
        partitions_def=daily_partitions(deployment),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs("profile"),
        group_name="monitoring",
        kinds={"polars", "deltalake"},
        description="Counts, magnitudes, shares and delays of each day, compared with up to 14 days before it.",
    )
    def profile(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        import polars as pl

        from ctr_pipeline.features import REFERENCE_DAYS, evaluated_days, find_drift, profile_days, profiled_columns

        days, store = partition_days(context), lake.open()
        columns = profiled_columns(spec)
        profiles = []
        with user_errors():
            for first, last in intervals_of(days, INTERVAL_DAYS, store.rows_by_day("impressions")):
                profiles.append(
                    profile_days(
                        spec,
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
        evaluated = len(evaluated_days(known, days))
        unlike = len({finding.day for finding in findings})
        context.log.info(f"{unlike} of {evaluated} days look unlike the days before")
        inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=days[-1])
        add_for_run(
            context,
            "profile",
            {
                "dagster/uri": str(store.root / "profile"),
                "rows": sum(part.height for part in profiles),
                "days_evaluated": evaluated,
                "delta_version": version,
            },
        )
        return dg.MaterializeResult(
            tags={TAG: stage("profile").fingerprint(inputs)},
            check_results=check_results("profile", DriftEvidence(findings, evaluated)),
        )

    return [profile]
