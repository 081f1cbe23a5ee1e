"""MLflow: one run for each training materialisation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.environment import set_default_variables

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

BATCH = 1000
"""MLflow accepts at most this many metrics in one call."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model in the registry."""

    version: str
    run_id: str
    """Id of the run that trained it."""
    tags: Mapping[str, str]


class TrackingResource(dg.ConfigurableResource):
    """Creates MLflow runs and fills them; mlflow itself loads on first use."""

    tracking_uri: str
    artifact_root: str
    experiment: str
    ui_url: str = ""
    """Address of the MLflow page, for links; empty when unknown."""
    dagster_url: str = ""
    """Address of the Dagster page, for links back; empty when unknown."""

    def client(self) -> "MlflowClient":
        """A client of the tracking store, which is made on first use."""
        # The client reads these when it loads: no usage reports, no log noise from the schema's creation.
        set_default_variables(
            {
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "DO_NOT_TRACK": "true",
                "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            }
        )
        import logging

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri)

    def start_run(self, name: str, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
        """Starts a run and returns its id. Every tag is written at once, so a crash leaves no anonymous run."""
        from mlflow.entities import Param

        client = self.client()
        run = client.create_run(
            self._experiment_id(client),
            run_name=name,
            tags={"mlflow.user": "ctr_pipeline", **self._link_back(tags["dagster.run_id"]), **tags},
        )
        client.log_batch(run.info.run_id, params=[Param(key, str(value)[:6000]) for key, value in params.items()])
        return str(run.info.run_id)

    def log(self, run_id: str, metrics: Mapping[str, float], artifacts: Sequence[tuple[str, Path]]) -> None:
        """Adds metrics, and files or folders each under the artifact folder that it comes with, to a run."""
        from mlflow.entities import Metric

        client = self.client()
        entries = [Metric(key, float(value), 0, 0) for key, value in metrics.items()]
        for start in range(0, len(entries), BATCH):
            client.log_batch(run_id, metrics=entries[start : start + BATCH])
        for folder, path in artifacts:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), folder or None)
            else:
                client.log_artifact(run_id, str(path), folder or None)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags of a run."""
        client = self.client()
        for key, value in tags.items():
            client.set_tag(run_id, key, value)

    @contextmanager
    def closing(self, run_id: str) -> Iterator[None]:
        """Closes the run as FINISHED, FAILED, or KILLED when the step is cancelled."""
        try:
            yield
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            self.client().set_terminated(run_id, "KILLED")
            raise
        except BaseException:
            self.client().set_terminated(run_id, "FAILED")
            raise
        self.client().set_terminated(run_id, "FINISHED")

    def close_killed(self, dagster_run: str) -> None:
        """Closes as KILLED what a Dagster run, whose process was killed, left running."""
        client = self.client()
        found = client.search_runs(
            [self._experiment_id(client)], f"tags.`dagster.run_id` = '{dagster_run}' and attributes.status = 'RUNNING'"
        )
        for run in found:
            client.set_terminated(run.info.run_id, "KILLED")

    def url(self, run_id: str) -> str:
        """Link to the run's page, or an empty text when the page's address is not known."""
        experiment = self._experiment_id(self.client())
        return f"{self.ui_url}/#/experiments/{experiment}/runs/{run_id}" if self.ui_url else ""

    def register(self, name: str, run_id: str, artifact: str, tags: Mapping[str, str]) -> str:
        """Registers a run's artifact folder as a new version of model ``name`` and returns the version."""
        from mlflow.exceptions import MlflowException

        client = self.client()
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/{artifact}"
        return str(client.create_model_version(name, source, run_id, tags=dict(tags)).version)

    def champion(self, name: str) -> "ModelVersion | None":
        """The version of the model that has the alias ``champion``; None when none has."""
        from mlflow.exceptions import MlflowException

        try:
            version = self.client().get_model_version_by_alias(name, "champion")
        except MlflowException as error:
            # The SQL store answers with the second code where the model exists, but not the alias.
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise
        return ModelVersion(str(version.version), str(version.run_id), dict(version.tags))

    def promote(self, name: str, version: str) -> None:
        """Moves the alias ``champion`` to ``version`` and keeps the one before as ``previous``."""
        client = self.client()
        held = self.champion(name)
        if held is not None and held.version != version:
            client.set_registered_model_alias(name, "previous", held.version)
        client.set_registered_model_alias(name, "champion", version)

    def set_challenger(self, name: str, version: str) -> None:
        """Gives ``version`` the alias ``challenger``."""
        self.client().set_registered_model_alias(name, "challenger", version)

    def _link_back(self, dagster_run: str) -> dict[str, str]:
        """A note that MLflow renders, with a link to the Dagster run."""
        if not self.dagster_url:
            return {}
        return {"mlflow.note.content": f"[Dagster run {dagster_run}]({self.dagster_url}/runs/{dagster_run})"}

    def _experiment_id(self, client: "MlflowClient") -> str:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            # Given explicitly: the default would lie in the working folder.
            return str(client.create_experiment(self.experiment, artifact_location=self.artifact_root))
        return str(experiment.experiment_id)
