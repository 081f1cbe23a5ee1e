"""`feature_snapshot`: what servers look up of the past on the next day."""

from datetime import timedelta

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.engines import engine_session
from ctr_pipeline.online.snapshot_index import KEPT, listed
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.feature_snapshot import SnapshotEvidence
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.metadata import add_for_run
from ctr_pipeline.orchestration.partitions import daily_partitions, partition_days, past_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.orchestration.user_errors import user_errors

COMPARED = 1000
"""Values that are looked up again."""


def feature_store_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The snapshots, by the day after which servers use them."""
    spec = deployment.spec

    @dg.asset(
        deps=[
            "history",
            *(dg.AssetDep(name, partition_mapping=past_days(1)) for name in ("impressions", "outcome_events")),
        ],
        partitions_def=daily_partitions(deployment),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs("feature_snapshot"),
        group_name="release",
        kinds={"lmdb"},
        description="History values of the day after the partition's, from what had arrived by its end, for the "
        f"look-ups of servers on that day. Of many days only the last {KEPT} are made.",
    )
    def feature_snapshot(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.features.history_definition import history_definition
        from ctr_pipeline.online.day_values import HISTORY, values_of_day
        from ctr_pipeline.online.opened_snapshot import Snapshot
        from ctr_pipeline.online.snapshot_writing import make_snapshot
        from ctr_pipeline.online.store_layout import StoreLayout
        from ctr_pipeline.online.table_comparison import compared_values

        days, store, root = partition_days(context), lake.open(), deployment.paths.online
        environment = process_environment().variables
        with user_errors(), engine_session(deployment.engine, deployment.data_root, environment) as engine:
            # What servers had on the last day, before it may be made again.
            before = {one.day: one for one in listed(root) if one.definition == history_definition(spec)}
            served = None
            if (facts := before.get(days[-1])) is not None and store.rows_by_day(HISTORY).get(days[-1]):
                then, _ = values_of_day(spec, engine, store, days[-1], deployment.first_day)
                opened = Snapshot.open(root, facts, StoreLayout.of(spec))
                served = compared_values(opened, then, COMPARED, spec.seed)
            for day in days[-KEPT:]:
                rows, version = values_of_day(spec, engine, store, day + timedelta(days=1), deployment.first_day)
                made = make_snapshot(root, spec, day + timedelta(days=1), rows, version)
                context.log.info(f"Snapshot {made.id} of {made.day}")
            compared = compared_values(Snapshot.open(root, made, StoreLayout.of(spec)), rows, COMPARED, spec.seed)
        last = max(store.rows_by_day("impressions"), default=days[-1])
        newest = max((one.day for one in listed(root)), default=None)
        evidence = SnapshotEvidence(
            made=compared, served=served, newest=newest, needed=max(last, days[-1]) + timedelta(days=1)
        )
        add_for_run(
            context,
            "feature_snapshot",
            {
                "dagster/uri": str(root / made.id),
                "snapshot": made.id,
                "day_in_use": made.day.isoformat(),
                "definition": made.definition,
                "history_version": "computed" if made.history_version is None else made.history_version,
                "keys": made.keys,
                "values": rows.height,
                "bytes": made.bytes,
            },
        )
        inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=days[-1])
        return dg.MaterializeResult(
            tags={TAG: stage("feature_snapshot").fingerprint(inputs)},
            check_results=check_results("feature_snapshot", evidence),
        )

    return [feature_snapshot]
