"""The jobs that people and schedules launch."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.partitions import daily_partitions

INGEST = ("impressions", "outcome_events")
REFERENCES = "event_references"
TABLES = (REFERENCES, "profile", "labels", "history")
RETRAIN = (
    "examples",
    "position_propensity",
    "advertiser_quality",
    "vocabulary",
    "training_dataset",
    "ranker",
    "calibrated_ranker",
    "evaluation",
    "serving_bundle",
    "champion",
)
"""Assets by stretch of the flow, in order."""


def pipeline_jobs(settings: PipelineSettings) -> dict[str, UnresolvedAssetJobDefinition]:
    """The jobs by name: read a day's logs, refresh labels, compute history, retrain."""
    partitions = daily_partitions(settings)
    selections = {
        "daily_ingest": (
            "Reads one day's logs, checks and compares them with the days before, and computes history features.",
            (*INGEST, REFERENCES, "profile", "history"),
        ),
        "label_refresh": ("Labels the impressions of a day again with what has arrived since.", ("labels",)),
        "daily_retrain": ("Trains, evaluates, exports and compares a model as of the end of a day.", RETRAIN),
    }
    return {
        name: dg.define_asset_job(
            name,
            selection=dg.AssetSelection.assets(*assets),
            partitions_def=partitions,
            description=text,
            tags={"dagster/max_retries": "0"},
        )
        for name, (text, assets) in selections.items()
    }
