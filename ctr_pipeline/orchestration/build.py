"""Binds assets, checks, automation and resources to one deployment."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.assets.datasets import dataset_assets
from ctr_pipeline.orchestration.assets.evaluation import evaluation_assets
from ctr_pipeline.orchestration.assets.features import feature_assets
from ctr_pipeline.orchestration.assets.ingest import ingest_assets
from ctr_pipeline.orchestration.assets.label_quality import label_quality_assets
from ctr_pipeline.orchestration.assets.labels import label_assets
from ctr_pipeline.orchestration.assets.monitoring import monitoring_assets
from ctr_pipeline.orchestration.assets.propensity import propensity_assets
from ctr_pipeline.orchestration.assets.references import reference_assets
from ctr_pipeline.orchestration.assets.release import release_assets
from ctr_pipeline.orchestration.assets.training import training_assets
from ctr_pipeline.orchestration.automation.alerts import alert_sensors
from ctr_pipeline.orchestration.automation.jobs import pipeline_jobs
from ctr_pipeline.orchestration.automation.schedules import pipeline_schedules
from ctr_pipeline.orchestration.automation.sensors import late_label_sensor
from ctr_pipeline.orchestration.progress import progress_logger
from ctr_pipeline.orchestration.resources import (
    LakeResource,
    NotifierResource,
    TrackingResource,
    TrainerResource,
)

# Pinned exactly, so that a change of these interfaces cannot come unseen.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

WEBHOOK_VARIABLE = "CTR_WEBHOOK_URL"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
TRACKING_PAGE_VARIABLE = "CTR_MLFLOW_URL"
DAGSTER_PAGE_VARIABLE = "CTR_DAGSTER_URL"
TRACKING_PAGE, DAGSTER_PAGE = "http://127.0.0.1:5000", "http://127.0.0.1:3000"
"""Where `make ui` serves the pages, so that links of a run made without it work once it is started."""


def build_definitions(
    settings: PipelineSettings | None = None, resources: Mapping[str, dg.ConfigurableResource] | None = None
) -> dg.Definitions:
    """All of the pipeline for one deployment.

    Args:
        settings: The deployment; by default the one that the environment names (see
            :meth:`PipelineSettings.from_environment`).
        resources: Resources to use instead of the deployment's own, by name.
    """
    settings = settings or PipelineSettings.from_environment(os.environ)
    jobs = pipeline_jobs(settings)
    return dg.Definitions(
        assets=[
            *ingest_assets(settings),
            *reference_assets(settings),
            *monitoring_assets(settings),
            *label_assets(settings),
            *feature_assets(settings),
            *dataset_assets(settings),
            *propensity_assets(settings),
            *label_quality_assets(settings),
            *training_assets(settings),
            *evaluation_assets(settings),
            *release_assets(settings),
        ],
        jobs=list(jobs.values()),
        schedules=pipeline_schedules(settings, jobs),
        sensors=[late_label_sensor(settings, jobs["label_refresh"]), *alert_sensors()],
        resources={**_resources(settings), **(resources or {})},
        # Light steps share a process; the training has one of its own all the same.
        executor=dg.in_process_executor,
        loggers={"console": progress_logger},
    )


def _resources(settings: PipelineSettings) -> dict[str, dg.ConfigurableResource]:
    root = settings.data_root
    return {
        "lake": LakeResource(root=str(settings.lake_root)),
        "notifier": NotifierResource(
            path=str(root / "notifications.jsonl"), webhook_url=os.environ.get(WEBHOOK_VARIABLE, "")
        ),
        "tracking": tracking_of(settings),
        "trainer": TrainerResource(processes=settings.spec.training.processes),
    }


def tracking_of(settings: PipelineSettings) -> TrackingResource:
    """MLflow as the environment names it, by default inside the data root."""
    root = settings.data_root
    return TrackingResource(
        tracking_uri=os.environ.get(TRACKING_VARIABLE) or default_tracking_uri(root),
        artifact_root=str(root / "mlflow-artifacts"),
        experiment=settings.spec.name,
        ui_url=os.environ.get(TRACKING_PAGE_VARIABLE, TRACKING_PAGE),
        dagster_url=os.environ.get(DAGSTER_PAGE_VARIABLE, DAGSTER_PAGE),
    )


def default_tracking_uri(data_root: Path) -> str:
    """MLflow's database inside the data root."""
    return f"sqlite:///{data_root / 'mlflow.db'}"
