"""MLflow: one run for each training materialisation, with the datasets that it reads and the model that it makes."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml

from ctr_pipeline.deployment.environment import set_default_variables
from ctr_pipeline.deployment.tracked_datasets import TrackedDataset

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Metric
    from mlflow.tracking import MlflowClient

BATCH = 1000
"""MLflow accepts at most this many metrics in one call."""

KIND = ("mlflow.experimentKind", "custom_model_development")
"""Tag of an experiment by which the page shows trainings and models; without it, traces of language models."""

VERSIONS_TAG = "mlflow.modelVersions"
"""Tag of a logged model by which its page names the versions in the registry."""


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

    def continue_run(self, run_id: str, tags: Mapping[str, str]) -> bool:
        """Opens a run again that had ended, with further tags; False where the store does not have it."""
        from mlflow.exceptions import MlflowException

        client = self.client()
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException:
            return False
        self.tag(run_id, {**self._link_back(tags["dagster.run_id"]), **tags})
        return True

    def log(self, run_id: str, metrics: Mapping[str, float], artifacts: Sequence[tuple[str, Path]]) -> None:
        """Adds metrics, and files or folders each under the artifact folder that it comes with, to a run."""
        client = self.client()
        self._log_metrics(run_id, _metrics(metrics))
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

    def log_datasets(self, run_id: str, datasets: Sequence[TrackedDataset]) -> None:
        """Names the datasets that a run reads."""
        self.client().log_inputs(run_id, datasets=[_dataset_input(dataset) for dataset in datasets])

    def start_model(
        self, run_id: str, name: str, kind: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """Names the model that a run makes. It is pending until :meth:`finish_model` or a failure of the run."""
        from mlflow.entities import LoggedModelOutput

        client = self.client()
        model = client.create_logged_model(
            self._experiment_id(client),
            name=name,
            source_run_id=run_id,
            tags=dict(tags),
            params={key: str(value) for key, value in params.items()},
            model_type=kind,
        )
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])

    def log_model_metrics(self, run_id: str, metrics: Mapping[str, float], dataset: TrackedDataset) -> None:
        """Adds metrics of a run's model, measured on a dataset, to both; to the run alone where it names no model."""
        model = self._model(run_id)
        self._log_metrics(run_id, _metrics(metrics, dataset, model.model_id if model else None))

    def finish_model(self, run_id: str, folder: Path, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        """Keeps the files of ``folder`` as those of the run's model, which is ready with them.

        Args:
            run_id: The run.
            folder: The model's files.
            inputs: MLflow's type of each column that the model takes, in brackets where it is a list of them.
            outputs: MLflow's type of each column that it gives.

        Raises:
            LookupError: the run names no model.
        """
        client, model = self.client(), self._model(run_id)
        if model is None:
            raise LookupError(f"MLflow run {run_id} names no model")
        client.log_model_artifacts(model.model_id, str(folder))
        # The page and `mlflow.models.get_model_info` read the signature from this file. It has no flavour: the package
        # opens its bundle itself.
        signature = {
            name: json.dumps(_columns(columns)) for name, columns in (("inputs", inputs), ("outputs", outputs))
        }
        with tempfile.TemporaryDirectory() as temporary:
            described = Path(temporary) / "MLmodel"
            content = {"flavors": {}, "model_id": model.model_id, "run_id": run_id, "signature": signature}
            described.write_text(yaml.safe_dump(content), encoding="utf-8")
            client.log_model_artifact(model.model_id, str(described))
        client.finalize_logged_model(model.model_id, "READY")

    def fail_model(self, run_id: str) -> None:
        """Marks the run's model, if it names one, as one that must not be used."""
        model = self._model(run_id)
        if model is not None:
            self.client().finalize_logged_model(model.model_id, "FAILED")

    def test_metrics(self, run_id: str) -> dict[str, float]:
        """Metrics of a run's test rows: task and name, such as ``click/ne``, to value; none where the run is gone."""
        from mlflow.exceptions import MlflowException

        try:
            metrics = self.client().get_run(run_id).data.metrics
        except MlflowException:
            return {}
        return {name.removeprefix("test/"): float(value) for name, value in metrics.items() if name.startswith("test/")}

    def has_model(self, run_id: str) -> bool:
        """Whether the run names the model that it makes; runs of earlier versions name none."""
        return self._model(run_id) is not None

    @contextmanager
    def closing(self, run_id: str) -> Iterator[None]:
        """Closes the run as FINISHED, FAILED, or KILLED when the step is cancelled; its model fails with it."""
        try:
            yield
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            self._close_failed(run_id, "KILLED")
            raise
        except BaseException:
            self._close_failed(run_id, "FAILED")
            raise
        self.client().set_terminated(run_id, "FINISHED")

    def close_killed(self, dagster_run: str) -> None:
        """Closes as KILLED what a Dagster run, whose process was killed, left running."""
        client = self.client()
        found = client.search_runs(
            [self._experiment_id(client)], f"tags.`dagster.run_id` = '{dagster_run}' and attributes.status = 'RUNNING'"
        )
        for run in found:
            self._close_failed(run.info.run_id, "KILLED")

    def url(self, run_id: str) -> str:
        """Link to the run's page, or an empty text when the page's address is not known."""
        experiment = self._experiment_id(self.client())
        # Without it the page opens in its mode for language models.
        view = "?workflowType=machine_learning"
        return f"{self.ui_url}/#/experiments/{experiment}/runs/{run_id}{view}" if self.ui_url else ""

    def register(self, name: str, run_id: str, artifact: str, tags: Mapping[str, str]) -> str:
        """Registers a run's model as a new version of ``name`` and returns the version.

        Args:
            name: Name in the registry.
            run_id: The run.
            artifact: Folder among the run's artifacts where the files lie if the run names no model.
            tags: Tags of the version.
        """
        from mlflow.exceptions import MlflowException

        client = self.client()
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model = self._model(run_id)
        if model is None:
            source = f"{client.get_run(run_id).info.artifact_uri}/{artifact}"
            return str(client.create_model_version(name, source, run_id, tags=dict(tags)).version)
        # The location, not models:/<id>: a SQL registry would look the id up in the process-wide tracking store.
        made = client.create_model_version(
            name, model.artifact_location, run_id, tags=dict(tags), model_id=model.model_id
        )
        registered = [*json.loads(model.tags.get(VERSIONS_TAG, "[]")), {"name": name, "version": int(made.version)}]
        client.set_logged_model_tags(model.model_id, {VERSIONS_TAG: json.dumps(registered)})
        return str(made.version)

    def version_files(self, name: str, version: str) -> Path:
        """Folder with the files of a version of the model, downloaded unless they lie on this machine.

        Raises:
            MlflowException: they are gone.
        """
        from mlflow.artifacts import download_artifacts

        location = self.client().get_model_version_download_uri(name, version)
        return Path(download_artifacts(artifact_uri=location, tracking_uri=self.tracking_uri))

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

    def _model(self, run_id: str) -> "LoggedModel | None":
        """The model that the run names last."""
        client = self.client()
        made = client.get_run(run_id).outputs
        outputs = made.model_outputs if made else []
        return client.get_logged_model(outputs[-1].model_id) if outputs else None

    def _close_failed(self, run_id: str, status: str) -> None:
        self.client().set_terminated(run_id, status)
        self.fail_model(run_id)

    def _log_metrics(self, run_id: str, entries: "list[Metric]") -> None:
        for start in range(0, len(entries), BATCH):
            self.client().log_batch(run_id, metrics=entries[start : start + BATCH])

    def _link_back(self, dagster_run: str) -> dict[str, str]:
        """A note that MLflow renders, with a link to the Dagster run."""
        if not self.dagster_url:
            return {}
        return {"mlflow.note.content": f"[Dagster run {dagster_run}]({self.dagster_url}/runs/{dagster_run})"}

    def _experiment_id(self, client: "MlflowClient") -> str:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is None:
            # Given explicitly: the default would lie in the working folder.
            return str(
                client.create_experiment(self.experiment, artifact_location=self.artifact_root, tags=dict([KIND]))
            )
        if KIND[0] not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, *KIND)
        return str(experiment.experiment_id)


def _metrics(
    values: Mapping[str, float], dataset: TrackedDataset | None = None, model_id: str | None = None
) -> "list[Metric]":
    from mlflow.entities import Metric

    # Of the values of one metric the page shows the latest, so a repeated step must come later.
    now = time.time_ns() // 1_000_000
    names = {"dataset_name": dataset.name, "dataset_digest": dataset.digest} if dataset else {}
    return [Metric(key, float(value), now, 0, model_id=model_id, **names) for key, value in values.items()]


def _columns(types: Mapping[str, str]) -> list[dict[str, Any]]:
    """Columns in the form in which MLflow keeps them; a type in brackets is that of the values of a list."""

    def described(kind: str) -> dict[str, Any]:
        element = kind.strip("[]")
        return {"type": kind} if element == kind else {"type": "array", "items": {"type": element}}

    return [{"name": name, **described(kind), "required": False} for name, kind in types.items()]


def _dataset_input(dataset: TrackedDataset) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(
        Dataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type=dataset.source_type,
            source=json.dumps(dataset.source),
            schema=json.dumps({"mlflow_colspec": _columns(dataset.columns)}),
            profile=json.dumps(dataset.profile),
        ),
        [InputTag("mlflow.data.context", dataset.context)],
    )
