"""The job file: the complete input of one training process."""

import hashlib
import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from ctr_pipeline.errors import UserError
from ctr_pipeline.spec.fields import Section, added_field
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.objectives import AnyObjective
from ctr_pipeline.spec.training import Training


class TrainingError(UserError):
    """A job, dataset or checkpoint that training cannot use; the message names the remedy."""


class MlflowTarget(Section):
    """An MLflow run that exists already and receives the metrics."""

    tracking_uri: str = Field(description="Address of the tracking server or database.")
    run_id: str = Field(description="Id of the run.")


class HealthLimits(Section):
    """Limits of the soft detectors that were taken from healthy runs (`ctr calibrate-health`)."""

    runs: int = Field(gt=0, description="Healthy runs.")
    steps: int = Field(gt=0, description="Their steps.")
    false_alarms: float = Field(
        gt=0, description="Most false alarms of each detector by 10,000 steps, with a confidence of 95 %."
    )
    limits: dict[str, float] = Field(description="Limit of each detector, in its own unit.")


class TrainingJob(Section):
    """One training: what to read, what to build, how to train it, where to write."""

    dataset: Path = Field(description="Directory of the packed dataset.")
    output: Path = Field(description="Directory that receives everything the trainer writes.")
    seed: int = Field(ge=0, lt=2**31, description="Seed of weights, order and dropout.")
    model: Model = Field(default=Model(), description="The spec's model section.")
    training: Training = Field(default=Training(), description="The spec's training section.")
    task_weights: dict[str, float] = Field(
        default={}, description="Weight of each task's loss; 1 for tasks not named here."
    )
    objectives: dict[str, AnyObjective] = added_field(
        {}, "Objective of each task; binary with its cross-entropy for tasks not named here."
    )
    tasks: list[str] = added_field([], "Tasks that are learnt, of those of the dataset; all when empty.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto` takes a GPU when there is one.")
    checkpoint_every: int | None = Field(
        default=None,
        gt=0,
        description="Steps between checkpoints; one is also written after each epoch. When absent, a twentieth of all "
        "steps, at most 1000, and fewer checkpoints where writing one takes long.",
    )
    health_limits: HealthLimits | None = added_field(
        None, "Limits in place of the soft detectors' rules of thumb, from healthy runs of the same settings."
    )
    last_good_steps: Path | None = added_field(
        None, "steps.jsonl of the last promoted training of the same settings, with which this one is compared."
    )
    mlflow: MlflowTarget | None = Field(default=None, description="Where metrics go while training runs.")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job file; relative directories in it are relative to the file's folder.

        Raises:
            TrainingError: No file, no JSON, or a wrong setting; the message names it.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"cannot read the job file {path}: {error.strerror}") from error
        try:
            job = cls.model_validate_json(text)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc']) or 'the file'}: {problem['msg']}"
                for problem in error.errors(include_url=False)
            )
            raise TrainingError(f"job file {path.name}: {problems}") from error
        base = path.parent
        reference = None if job.last_good_steps is None else base / job.last_good_steps
        paths = {"dataset": base / job.dataset, "output": base / job.output, "last_good_steps": reference}
        return job.model_copy(update=paths)

    @property
    def settings_hash(self) -> str:
        """Digest of what decides how a healthy run looks, whatever its rows and seed."""
        parts = {
            "model": self.model.model_dump_json(),
            "training": self.training.model_dump_json(exclude={"seed"}),
            "task_weights": sorted(self.task_weights.items()),
            "objectives": {task: section.model_dump_json() for task, section in sorted(self.objectives.items())},
        }
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the job file that :meth:`load` reads."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
