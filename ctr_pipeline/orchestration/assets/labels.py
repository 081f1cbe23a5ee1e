"""`labels`: what is known of each impression's outcomes, made again while it matures."""

import os
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings, end_of_day_us
from ctr_pipeline.engines.base import intervals_of
from ctr_pipeline.engines.factory import engine_session
from ctr_pipeline.orchestration.automation.sensors import (
    EVENTS_VERSION,
    WATERMARK,
    arrival_day_watermark,
    arrivals,
)
from ctr_pipeline.orchestration.checks.maturity import check_late_rate, late_rate_spec
from ctr_pipeline.orchestration.fingerprints import TAG, label_fingerprint
from ctr_pipeline.orchestration.metadata import state_rows, table
from ctr_pipeline.orchestration.partitions import arrival_days, daily_partitions, partition_days
from ctr_pipeline.orchestration.resources import LakeResource
from ctr_pipeline.orchestration.user_errors import user_errors

if TYPE_CHECKING:
    from ctr_pipeline.lake import Lake

STRETCH_DAYS = 7
"""Days labelled in one query: bounds memory."""


def label_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The label table, by day of the impression."""

    @dg.asset(
        deps=[
            "impressions",
            dg.AssetDep("outcome_events", partition_mapping=arrival_days(settings)),
        ],
        partitions_def=daily_partitions(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[late_rate_spec("labels")],
        group_name="tables",
        kinds={settings.engine, "deltalake"},
        description="State of each impression and task: positive, negative, censored, late or out of window.",
    )
    def labels(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
        from ctr_pipeline.labels import TABLE_ORDER, label_table

        days = partition_days(context)
        watermark = arrival_day_watermark(arrivals(context.instance, settings), settings.first_day)
        if watermark is None:
            raise dg.Failure(
                f"outcome_events of {settings.first_day} are absent: run daily_ingest of that day first.",
                allow_retries=False,
            )
        store = lake.open()
        # Before anything is read: what is committed later counts as not seen.
        events_version = store.version("outcome_events")
        context.log.info(f"Labelling {len(days)} days with what had arrived by the end of {watermark}")
        version = -1
        with user_errors(), engine_session(settings.engine, settings.data_root, os.environ) as engine:
            for first, last in intervals_of(days, STRETCH_DAYS):
                labelled = label_table(
                    engine.scan(store, "impressions", None, first, last),
                    engine.scan(store, "outcome_events", events_version, first, watermark),
                    settings.spec.tasks,
                    end_of_day_us(watermark),
                    settings.spec.split.ingest_lag,
                )
                stretch = [first + timedelta(days=n) for n in range((last - first).days + 1)]
                version = engine.replace_days(store, "labels", labelled, stretch, TABLE_ORDER)
                context.log.info(f"Labelled up to {last}")
        counts = stored_states(settings, store, days[0], days[-1])
        late = {task: of["LATE_POSITIVE"] for task, of in counts.items()}
        positives = {task: of["POSITIVE"] + of["LATE_POSITIVE"] for task, of in counts.items()}
        return dg.MaterializeResult(
            metadata={
                "dagster/uri": str(store.root / "labels"),
                WATERMARK: watermark.isoformat(),
                "delta_version": version,
                "impressions_version": store.version("impressions") or 0,
                EVENTS_VERSION: events_version or 0,
                "states": table(state_rows(counts)),
                **{f"positives/{task}": count for task, count in positives.items()},
                **{f"censored/{task}": of["CENSORED"] for task, of in counts.items()},
            },
            tags={TAG: label_fingerprint(settings, watermark)},
            check_results=[check_late_rate("labels", late, positives)],
        )

    return [labels]


def stored_states(settings: PipelineSettings, lake: "Lake", first: date, last: date) -> dict[str, dict[str, int]]:
    """Number of impressions by task and state, each day as of the instant as of which it was labelled."""
    import polars as pl

    from ctr_pipeline.labels import LabelState, label_days, label_state_counts

    spec = settings.spec
    stored = lake.scan("labels", first=first, last=last)
    shown = lake.scan("impressions", first=first, last=last).select("day", "ts", "ingest_ts")
    by_instant: dict[int, list[date]] = {}
    for day, header in label_days(stored).items():
        by_instant.setdefault(header.as_of, []).append(day)
    counts = {task.name: {state.value: 0 for state in LabelState} for task in spec.tasks}
    for as_of, days in by_instant.items():
        mine = pl.col("day").is_in(days)
        found = label_state_counts(shown.filter(mine), stored.filter(mine), spec.tasks, as_of, spec.split.ingest_lag)
        for task, states in found.items():
            for state, rows in states.items():
                counts[task][state] += rows
    return counts
