"""Where everything lies below one data root."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DataRoot:
    """The folder of everything that is made from one spec and its logs; data/README.md lists its contents."""

    root: Path

    @property
    def settings(self) -> Path:
        """Spec, logs and days, as the last command bound them."""
        return self.root / "pipeline.json"

    @property
    def log_files(self) -> Path:
        """The stamp of each file that a command has found in the logs, those that are gone since too."""
        return self.root / "log_files.json"

    @property
    def lake(self) -> Path:
        """Folder of the Delta tables."""
        return self.root / "lake"

    @property
    def online(self) -> Path:
        """Folder of the online feature store: snapshots of the history values, and fresh events."""
        return self.root / "online"

    @property
    def reports(self) -> Path:
        """Folder of the reports of `ctr run`, one a day."""
        return self.root / "reports"

    @property
    def health_limits(self) -> Path:
        """Limits of gradient health that were taken from healthy runs, with the settings that they are of."""
        return self.root / "health_limits.json"

    @property
    def dagster_home(self) -> Path:
        """Folder of Dagster's own storage and configuration."""
        return self.root / "dagster"

    @property
    def notifications(self) -> Path:
        """File of the alerts, a JSON line each."""
        return self.root / "notifications.jsonl"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's SQLite database."""
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder of MLflow's artifacts."""
        return self.root / "mlflow-artifacts"

    @property
    def reproduction(self) -> Path:
        """Folder of `ctr reproduce` while it works."""
        return self.root / "reproduction"

    @property
    def serving_spool(self) -> Path:
        """Folder of the segments of served requests that the asset `serving_log` has not fetched yet."""
        return self.root / "serving_log" / "spool"

    @property
    def serving(self) -> Path:
        """Folder that the processes of `ctr serve` share: what is served, and verified copies of it."""
        return self.root / "serving"

    @property
    def registry_read(self) -> Path:
        """Its time of change is when `ctr serve` last read the registry. Who changes that removes the file: a service that starts
        begins with what it finds in :attr:`serving` only where that is fresh.
        """
        return self.serving / "registry_read"

    def skew_page(self, day: str) -> Path:
        """The page of what the requests of ``day`` (YYYY-MM-DD) show."""
        return self.reports / "skew" / f"{day}.html"

    @property
    def server_logs(self) -> Path:
        """Folder of the log files of the pages' servers."""
        return self.root / "logs"

    def retrain(self, day: str) -> "RetrainPaths":
        """What the retrain of ``day`` (YYYY-MM-DD) makes."""
        return RetrainPaths(self.root / "datasets" / day, self.root / "training" / day)

    def replaced(self, day: str) -> "RetrainPaths":
        """What is kept of a retrain of ``day`` that another one took the place of."""
        folder = self.root / "replaced"
        return RetrainPaths(folder / "datasets" / day, folder / "training" / day)

    def failed_trainings(self) -> list[Path]:
        """The descriptions of all trainings that failed."""
        return sorted(self.root.glob("failed_trainings/*/*/failure.json"))

    def retrains(self, file: str) -> list[Path]:
        """The files called ``file`` in the training folders of all retrains, by day."""
        return sorted(self.root.glob(f"training/*/{file}"))


@dataclass(frozen=True, slots=True)
class RetrainPaths:
    """Files of the retrain of one day: its dataset, and its model."""

    dataset: Path
    """Folder of the view, the fitted vocabulary and the packed arrays."""
    training: Path
    """Folder of model, scores, metrics and bundle."""

    @property
    def day(self) -> str:
        """The day, YYYY-MM-DD."""
        return self.dataset.name

    @property
    def examples(self) -> Path:
        """The view: table versions, and where each split begins."""
        return self.dataset / "examples.json"

    @property
    def propensity(self) -> Path:
        """IPS weights by position and response."""
        return self.dataset / "position_propensity.json"

    @property
    def advertiser_quality(self) -> Path:
        """Keys whose outcome rates are implausible, and the weights of their labels."""
        return self.dataset / "advertiser_quality.json"

    @property
    def layout(self) -> Path:
        """The inputs as fitted on the training rows."""
        return self.dataset / "fitted" / "layout.json"

    @property
    def vocabulary(self) -> Path:
        """The ids as fitted on the training rows."""
        return self.dataset / "fitted" / "vocabulary.parquet"

    @property
    def packed(self) -> Path:
        """Folder of the memory-mapped arrays."""
        return self.dataset / "packed"

    @property
    def packed_manifest(self) -> Path:
        """What the packed arrays are."""
        return self.packed / "manifest.json"

    @property
    def spec(self) -> Path:
        """The spec as the user wrote it."""
        return self.training / "spec.yaml"

    @property
    def job(self) -> Path:
        """The job description of the trainer."""
        return self.training / "job.json"

    @property
    def controls(self) -> Path:
        """The tasks beside their single-task controls, where `ctr controls` was run."""
        return self.training / "controls.json"

    @property
    def ablation(self) -> Path:
        """The model beside itself without each of its parts, where `ctr ablate` was run."""
        return self.training / "ablation.json"

    @property
    def mlflow_run(self) -> Path:
        """Which MLflow run the training is."""
        return self.training / "run.json"

    @property
    def model(self) -> Path:
        """The weights of the best epoch."""
        return self.training / "model.pt"

    @property
    def result(self) -> Path:
        """What the trainer reports of the training."""
        return self.training / "result.json"

    @property
    def provenance(self) -> Path:
        """From what the model was made."""
        return self.training / "provenance.json"

    @property
    def plots(self) -> Path:
        """Folder of PNG images."""
        return self.training / "plots"

    @property
    def calibration(self) -> Path:
        """The fitted calibrators."""
        return self.training / "calibration.json"

    def calibrators(self, *, logged_position: bool) -> Path:
        """Calibrators of the model as it is served, or of scores with the logged position."""
        return self.training / "calibration_logged_position.json" if logged_position else self.calibration

    @property
    def position_effect(self) -> Path:
        """What the trainer learnt of the positions; absent where the model has no use of them."""
        return self.training / "position.json"

    @property
    def evaluation(self) -> Path:
        """Metrics of each task and split."""
        return self.training / "evaluation.json"

    @property
    def delays(self) -> Path:
        """How long outcomes take, by task."""
        return self.training / "delays.json"

    @property
    def report(self) -> Path:
        """What the report said when its page was last written."""
        return self.training / "report.json"

    @property
    def page(self) -> Path:
        """The report as a page."""
        return self.training / "report.html"

    @property
    def attribution(self) -> Path:
        """Why the model predicts otherwise than the one before it."""
        return self.training / "attribution.json"

    @property
    def attribution_page(self) -> Path:
        """The same as a page."""
        return self.training / "attribution.html"

    @property
    def bundle(self) -> Path:
        """Folder of the exported model."""
        return self.training / "bundle"

    @property
    def bundle_manifest(self) -> Path:
        """What the bundle holds."""
        return self.bundle / "manifest.json"

    @property
    def release(self) -> Path:
        """Whether the model was promoted, and why."""
        return self.training / "release.json"

    @property
    def identity(self) -> Path:
        """What decides the training: a checkpoint is continued by the same alone."""
        return self.training / "identity.json"

    @property
    def steps(self) -> Path:
        """A line for each step of the training."""
        return self.training / "steps.jsonl"

    @property
    def checkpoint(self) -> Path:
        """From what a training that was killed continues."""
        return self.training / "checkpoint.pt"

    @property
    def own_failed_steps(self) -> tuple[Path, ...]:
        """Folders in that of the training that may hold the batch that it stopped at; the second of earlier versions."""
        return self.training / "failed_step", self.training / "bad_step"

    @property
    def failures(self) -> Path:
        """Folder of what is kept of the trainings of the day that failed."""
        return self.training.parents[1] / "failed_trainings" / self.day

    def kept_failure(self, run_id: str) -> Path:
        """Folder of what is kept of the failed training with this MLflow run."""
        return self.failures / run_id

    @property
    def failed_steps(self) -> tuple[Path, ...]:
        """Folders that may hold the batch that a training stopped at: the retrain's own, further ones, those kept for good."""
        further = sorted(self.training.glob("*/*/failed_step"))
        return *self.own_failed_steps, *further, *sorted(self.failures.glob("*/failed_step"))

    def scores(self, split: str, *, logged_position: bool = False) -> Path:
        """Uncalibrated logits of a split, as the model is served or with the position that was logged."""
        return self.training / "scores" / f"{split}{'_logged_position' if logged_position else ''}.npy"
