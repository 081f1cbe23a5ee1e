"""`labels`: what is known of each impression's outcomes, made again while it matures."""

from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment, end_of_day_us
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.engines import engine_session
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.maturity import LateEvidence
from ctr_pipeline.orchestration.fingerprints import TAG, FingerprintInputs
from ctr_pipeline.orchestration.metadata import add_for_run, state_rows, table
from ctr_pipeline.orchestration.partitions import arrival_days, daily_partitions, early_days, partition_days
from ctr_pipeline.orchestration.records import EVENTS_VERSION, WATERMARK, arrival_day_watermark, arrivals
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.stages import stage
from ctr_pipeline.orchestration.user_errors import user_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

INTERVAL_DAYS = 7
"""Days labelled in one query, and more where they have few rows: bounds memory."""


def label_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The label table, by day of the impression."""
    spec = deployment.spec

    @dg.asset(
        deps=["impressions", dg.AssetDep("outcome_events", partition_mapping=arrival_days(spec))],
        partitions_def=daily_partitions(deployment),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs("labels"),
        group_name="tables",
        kinds={deployment.engine, "deltalake"},
        description="State of each impression and task: positive, negative, censored, late or out of window.",
    )
    def labels(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.labels import TABLE_ORDER, label_table, stored_states

        days = partition_days(context)
        watermark = _watermark(context.instance, deployment)
        store = lake.open()
        # Before anything is read: what is committed later counts as not seen.
        events_version = store.version("outcome_events")
        context.log.info(f"Labelling {len(days)} days with what had arrived by the end of {watermark}")
        version = -1
        environment = process_environment().variables
        with user_errors(), engine_session(deployment.engine, deployment.data_root, environment) as engine:
            for first, last in intervals_of(days, INTERVAL_DAYS, store.rows_by_day("impressions")):
                labelled = label_table(
                    engine.scan(store, "impressions", None, first, last),
                    engine.scan(store, "outcome_events", events_version, first - early_days(spec), watermark),
                    spec.tasks,
                    end_of_day_us(watermark),
                    spec.split.ingest_lag,
                    spec.source.max_early,
                )
                interval = [first + timedelta(days=n) for n in range((last - first).days + 1)]
                version = engine.replace_days(store, "labels", labelled, interval, TABLE_ORDER)
                context.log.info(f"Labelled up to {last}")
        counts = stored_states(
            spec,
            store.scan("impressions", first=days[0], last=days[-1]),
            store.scan("labels", first=days[0], last=days[-1]),
        )
        inputs = FingerprintInputs(deployment=deployment, instance=context.instance, last=days[-1], watermark=watermark)
        add_for_run(
            context,
            "labels",
            {
                "dagster/uri": str(store.root / "labels"),
                "delta_version": version,
                "impressions_version": store.version("impressions") or 0,
                "states": table(state_rows(counts)),
                **{f"positives/{task}": count for task, count in _positives(counts).items()},
                **{f"censored/{task}": of["CENSORED"] for task, of in counts.items()},
            },
        )
        return dg.MaterializeResult(
            metadata={WATERMARK: watermark.isoformat(), EVENTS_VERSION: events_version or 0},
            tags={TAG: stage("labels").fingerprint(inputs)},
            check_results=check_results(
                "labels", LateEvidence({t: of["LATE_POSITIVE"] for t, of in counts.items()}, _positives(counts))
            ),
        )

    return [labels]


def _watermark(instance: dg.DagsterInstance, deployment: Deployment) -> date:
    watermark = arrival_day_watermark(arrivals(instance, deployment), deployment.first_day)
    if watermark is None:
        raise dg.Failure(
            f"outcome_events of {deployment.first_day} are absent: run daily_ingest of that day first.",
            allow_retries=False,
        )
    return watermark


def _positives(counts: "Mapping[str, Mapping[str, int]]") -> dict[str, int]:
    return {task: of["POSITIVE"] + of["LATE_POSITIVE"] for task, of in counts.items()}
