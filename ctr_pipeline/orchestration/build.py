"""Binds assets, checks, automation and resources to one deployment."""

import warnings
from collections.abc import Mapping

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment, process_environment
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.orchestration.assets.attribution import attribution_assets
from ctr_pipeline.orchestration.assets.canary import canary_assets
from ctr_pipeline.orchestration.assets.datasets import dataset_assets
from ctr_pipeline.orchestration.assets.evaluation import evaluation_assets
from ctr_pipeline.orchestration.assets.feature_store import feature_store_assets
from ctr_pipeline.orchestration.assets.features import feature_assets
from ctr_pipeline.orchestration.assets.ingest import ingest_assets
from ctr_pipeline.orchestration.assets.label_quality import label_quality_assets
from ctr_pipeline.orchestration.assets.labels import label_assets
from ctr_pipeline.orchestration.assets.monitoring import monitoring_assets
from ctr_pipeline.orchestration.assets.propensity import propensity_assets
from ctr_pipeline.orchestration.assets.references import reference_assets
from ctr_pipeline.orchestration.assets.release import release_assets
from ctr_pipeline.orchestration.assets.serving_log import serving_log_assets
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
from ctr_pipeline.orchestration.stages import LABEL_JOB

# Dagster is pinned exactly, so that these interfaces cannot change without a change here.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_definitions(
    deployment: Deployment | None = None, resources: Mapping[str, dg.ConfigurableResource] | None = None
) -> dg.Definitions:
    """All of the pipeline for one deployment.

    Args:
        deployment: The deployment; by default the one that the environment names (see
            :meth:`Deployment.from_environment`).
        resources: Resources to use instead of the deployment's own, by name.
    """
    environment = process_environment()
    deployment = deployment or Deployment.from_environment(environment)
    jobs = pipeline_jobs(deployment)
    return dg.Definitions(
        assets=[
            *ingest_assets(deployment),
            *reference_assets(deployment),
            *monitoring_assets(deployment),
            *label_assets(deployment),
            *feature_assets(deployment),
            *feature_store_assets(deployment),
            *serving_log_assets(deployment),
            *dataset_assets(deployment),
            *propensity_assets(deployment),
            *label_quality_assets(deployment),
            *training_assets(deployment),
            *evaluation_assets(deployment),
            *attribution_assets(deployment),
            *release_assets(deployment),
            *canary_assets(deployment),
        ],
        jobs=list(jobs.values()),
        schedules=pipeline_schedules(deployment, jobs),
        sensors=[late_label_sensor(deployment, jobs[LABEL_JOB]), *alert_sensors()],
        resources={**_resources(deployment, environment), **(resources or {})},
        # Light steps share a process; the training has one of its own all the same.
        executor=dg.in_process_executor,
        loggers={"console": progress_logger},
    )


def tracking_of(deployment: Deployment, environment: Environment) -> TrackingResource:
    """MLflow as the environment names it, by default inside the data root."""
    paths = deployment.paths
    return TrackingResource(
        tracking_uri=environment.tracking_uri or default_tracking_uri(paths),
        artifact_root=str(paths.mlflow_artifacts),
        experiment=deployment.spec.name,
        ui_url=environment.tracking_page,
        dagster_url=environment.dagster_page,
    )


def default_tracking_uri(paths: DataRoot) -> str:
    """MLflow's database inside the data root."""
    return f"sqlite:///{paths.mlflow_database}"


def _resources(deployment: Deployment, environment: Environment) -> dict[str, dg.ConfigurableResource]:
    paths = deployment.paths
    return {
        "lake": LakeResource(root=str(paths.lake)),
        "notifier": NotifierResource(path=str(paths.notifications), webhook_url=environment.webhook_url),
        "tracking": tracking_of(deployment, environment),
        "trainer": TrainerResource(processes=deployment.spec.training.processes),
    }
