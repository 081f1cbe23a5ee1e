"""The jobs that people and schedules launch."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.stages import CANARY_JOB, INGEST_JOB, LABEL_JOB, LIVE_ASSETS, RETRAIN_JOB, names

DESCRIPTIONS = {
    INGEST_JOB: "Reads one day's logs, checks and compares them with the days before, and computes history features.",
    LABEL_JOB: "Labels the impressions of a day again with what has arrived since.",
    RETRAIN_JOB: "Trains, evaluates, exports and compares a model as of the end of a day.",
}


def pipeline_jobs(deployment: Deployment) -> dict[str, UnresolvedAssetJobDefinition]:
    """The jobs by name: read a day's logs, refresh labels, compute history, retrain, watch a canary."""
    partitions = daily_partitions(deployment)
    watch = dg.define_asset_job(
        CANARY_JOB,
        selection=dg.AssetSelection.assets(*LIVE_ASSETS),
        description="Compares what a canary's impressions led to with what was predicted, and rolls it back where they differ.",
        tags={"dagster/max_retries": "0"},
    )
    daily = {
        job: dg.define_asset_job(
            job,
            selection=dg.AssetSelection.assets(*names(job=job)),
            partitions_def=partitions,
            description=text,
            tags={"dagster/max_retries": "0"},
        )
        for job, text in DESCRIPTIONS.items()
    }
    return {**daily, CANARY_JOB: watch}
