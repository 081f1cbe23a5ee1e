"""The jobs that people and schedules launch."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.stages import INGEST_JOB, LABEL_JOB, RETRAIN_JOB, names

DESCRIPTIONS = {
    INGEST_JOB: "Reads one day's logs, checks and compares them with the days before, and computes history features.",
    LABEL_JOB: "Labels the impressions of a day again with what has arrived since.",
    RETRAIN_JOB: "Trains, evaluates, exports and compares a model as of the end of a day.",
}


def pipeline_jobs(deployment: Deployment) -> dict[str, UnresolvedAssetJobDefinition]:
    """The jobs by name: read a day's logs, refresh labels, compute history, retrain."""
    partitions = daily_partitions(deployment)
    return {
        job: dg.define_asset_job(
            job,
            selection=dg.AssetSelection.assets(*names(job=job)),
            partitions_def=partitions,
            description=text,
            tags={"dagster/max_retries": "0"},
        )
        for job, text in DESCRIPTIONS.items()
    }
