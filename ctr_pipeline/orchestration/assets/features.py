"""`history`: aggregates of each key's past, point-in-time on a daily grid."""

import os
from datetime import timedelta

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.engines.factory import engine_session
from ctr_pipeline.orchestration.automation.sensors import days_of
from ctr_pipeline.orchestration.fingerprints import TAG, history_fingerprint
from ctr_pipeline.orchestration.partitions import daily_partitions, history_days, partition_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import user_errors

STRETCH_DAYS = 28
"""Days computed in one go: they share the labels of their common past."""


def feature_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The history table, by the day on which its values are used."""
    past = history_days(settings)

    @dg.asset(
        deps=[
            dg.AssetDep("impressions", partition_mapping=past),
            dg.AssetDep("outcome_events", partition_mapping=past),
        ],
        partitions_def=daily_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="tables",
        kinds={settings.engine, "deltalake"},
        description="Rates, counts and recencies of each key, from what had arrived before the day began.",
    )
    def history(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        import polars as pl

        from ctr_pipeline.features import HISTORY_ORDER, history_for_days, history_reach

        days = partition_days(context)
        store = lake.open()
        reach = timedelta(days=history_reach(settings.spec))
        version = -1
        for first, last in intervals_of(days, STRETCH_DAYS):
            # A session a stretch: what it holds goes with it.
            with user_errors(), engine_session(settings.engine, settings.data_root, os.environ) as engine:
                past = max(settings.first_day, first - reach)
                shown = engine.scan(store, "impressions", first=past, last=last)
                arrived = engine.scan(store, "outcome_events", first=past, last=last)
                stretch = [first + timedelta(days=n) for n in range((last - first).days + 1)]
                values = history_for_days(settings.spec, shown, arrived, stretch)
                version = engine.replace_days(store, "history", values, stretch, HISTORY_ORDER)
            context.log.info(f"History up to {last}")
        rows = int(store.scan("history", version, days[0], days[-1]).select(pl.len()).collect().item())
        return dg.MaterializeResult(
            metadata={
                "dagster/uri": str(store.root / "history"),
                "rows": rows,
                "delta_version": version,
                "features": ", ".join(feature.name for feature in settings.spec.features.history) or "none",
            },
            tags={TAG: history_fingerprint(settings, min(days_of(context.instance, "impressions", settings)))},
        )

    return [history]
