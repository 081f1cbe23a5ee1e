"""`history`: aggregates of each key's past, point-in-time on a daily grid."""

from datetime import timedelta

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.engines import engine_session
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.metadata import add_for_run
from ctr_pipeline.orchestration.partitions import daily_partitions, early_days, history_days, partition_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.orchestration.user_errors import user_errors

INTERVAL_DAYS = 28
"""Days computed in one go at least: they share the labels of their common past."""


def feature_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The history table, by the day on which its values are used."""
    past = history_days(deployment.spec)

    @dg.asset(
        deps=[
            dg.AssetDep("impressions", partition_mapping=past),
            dg.AssetDep("outcome_events", partition_mapping=past),
        ],
        partitions_def=daily_partitions(deployment),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="tables",
        kinds={deployment.engine, "deltalake"},
        description="Rates, counts and recencies of each key, from what had arrived before the day began.",
    )
    def history(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        import polars as pl

        from ctr_pipeline.features import HISTORY_ORDER, history_for_days, history_reach

        days, spec, store = partition_days(context), deployment.spec, lake.open()
        reach = timedelta(days=history_reach(spec))
        environment = process_environment().variables
        version = -1
        for first, last in intervals_of(days, INTERVAL_DAYS, store.rows_by_day("impressions")):
            # A session an interval: what it holds goes with it.
            with user_errors(), engine_session(deployment.engine, deployment.data_root, environment) as engine:
                past = max(deployment.first_day, first - reach)
                shown = engine.scan(store, "impressions", first=past, last=last)
                arrived = engine.scan(store, "outcome_events", first=past - early_days(spec), last=last)
                interval = [first + timedelta(days=n) for n in range((last - first).days + 1)]
                values = history_for_days(spec, shown, arrived, interval)
                version = engine.replace_days(store, "history", values, interval, HISTORY_ORDER)
            context.log.info(f"History up to {last}")
        rows = int(store.scan("history", version, days[0], days[-1]).select(pl.len()).collect().item())
        inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=days[-1])
        add_for_run(
            context,
            "history",
            {
                "dagster/uri": str(store.root / "history"),
                "rows": rows,
                "delta_version": version,
                "features": ", ".join(feature.name for feature in spec.features.history) or "none",
            },
        )
        return dg.MaterializeResult(tags={TAG: stage("history").fingerprint(inputs)})

    return [history]
