"""One call for a whole run of the pipeline in this process, for the commands."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.orchestration.build import build_definitions
from ctr_pipeline.orchestration.in_process import execute_job, execute_retrain, run_pipeline
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource
from ctr_pipeline.orchestration.run_facts import RunFacts, collect_facts
from ctr_pipeline.orchestration.stages import CANARY_JOB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctr_pipeline.lake import Lake


def execute_pipeline(deployment: Deployment, first: date, last: date) -> RunFacts:
    """Brings every asset up to date for the days ``first`` to ``last``; DAGSTER_HOME names the instance.

    Where a step fails, what came before it is kept, and the facts name the failure.

    Raises:
        PipelineError: the days cannot be run; nothing was made.
    """
    with dg.DagsterInstance.get() as instance:
        defs = build_definitions(deployment)
        runs, failure = run_pipeline(deployment, defs, instance, first, last)
        return collect_facts(instance, runs, first, last, failure)


def watch_canary(deployment: Deployment) -> None:
    """Materialises `canary` once; DAGSTER_HOME names the instance.

    Raises:
        PipelineError: it failed.
    """
    with dg.DagsterInstance.get() as instance:
        execute_job(build_definitions(deployment), instance, CANARY_JOB)


class SnapshotLakeResource(LakeResource):
    """Gives assets the lake as it was."""

    versions: dict[str, int]

    def open(self) -> "Lake":
        """The lake at the recorded versions; it refuses to be written."""
        from ctr_pipeline.lake.snapshot import LakeSnapshot

        return LakeSnapshot(Path(self.root), self.versions)


def execute_assets(
    deployment: Deployment, lake: Path, versions: "Mapping[str, int]", assets: "Sequence[str]", day: str
) -> None:
    """Materialises assets of the retrain of ``day`` over the lake as it was, with a Dagster and MLflow of their own.

    Args:
        deployment: Determines where the files go; its MLflow lies in its data root.
        lake: Folder of the tables.
        versions: Version of each table.
        assets: Names of the assets, in order.
        day: Partition of the retrain.

    Raises:
        PipelineError: a step failed.
    """
    root = deployment.data_root
    resources = {
        "lake": SnapshotLakeResource(root=str(lake), versions=dict(versions)),
        "tracking": TrackingResource(
            tracking_uri=f"sqlite:///{root / 'mlflow.db'}",
            artifact_root=str(root / "artifacts"),
            experiment="reproduce",
        ),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        execute_retrain(build_definitions(deployment, resources), instance, assets, day)
