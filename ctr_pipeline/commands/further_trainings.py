"""Further trainings on the packed arrays of a retrain, each in a process of its own: what comparisons of models are made of."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration import calibrated_logits, fit_calibrators
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.errors import UserError
from ctr_pipeline.spec import Spec, parse_spec
from ctr_pipeline.training import TrainingJob

KEPT = ("job.json", "result.json", "scores/calibration.npy", "scores/test.npy")
"""Files of a training that stay: they hold no ids."""


class FurtherTrainingError(UserError):
    """There is no retrain to compare with, or a further training failed."""


@dataclass(frozen=True, slots=True)
class FurtherTraining:
    """One training of a comparison.

    Attributes:
        name: Of the model; trainings with other seeds have the same.
        job: The job.
    """

    name: str
    job: TrainingJob


def retrain_to_compare(deployment: Deployment, day: str | None) -> tuple[RetrainPaths, TrainingJob, PackedDataset]:
    """A retrain with its job, whose paths are made absolute, and its arrays.

    Args:
        deployment: The data root.
        day: YYYY-MM-DD; the newest when None.

    Raises:
        FurtherTrainingError: there is none, or its own training has no result.
    """
    paths = deployment.paths.retrain(day or _newest(deployment))
    if not paths.job.is_file() or not paths.packed_manifest.is_file():
        raise FurtherTrainingError(f"there is no training of {paths.day} with its arrays: run `ctr run` first")
    missing = [name for name in KEPT if not (paths.training / name).is_file()]
    if missing or read_json(paths.result).get("status") != "finished":
        raise FurtherTrainingError(
            f"the training of {paths.day} is not finished: run `ctr run` again, or name another day with --day"
        )
    job = TrainingJob.load(paths.job)
    # A job file's paths are relative to its own folder.
    job = job.model_copy(update={"dataset": job.dataset.resolve(), "output": paths.training.resolve()})
    return paths, job, PackedDataset.open(paths.packed)


def spec_of(deployment: Deployment, paths: RetrainPaths) -> Spec:
    """The spec that a retrain was made from; the data root may be bound to another one since.

    Raises:
        SpecError: this version does not read it.
    """
    if not paths.spec.is_file():
        return deployment.spec
    return parse_spec(paths.spec.read_text(encoding="utf-8"), where=str(paths.spec))


def changed_job(job: TrainingJob, output: Path, seed: int, **changes: Any) -> TrainingJob:
    """``job`` with another seed and folder and other ``changes``, without what belongs to the run's own training."""
    plain = {"mlflow": None, "last_good_steps": None, "health_limits": None}
    return job.model_copy(update={**plain, "seed": seed, "output": output, **changes})


def is_done(training: FurtherTraining, own: Path) -> bool:
    """Whether a training need not be repeated: it is the run's ``own``, or finished with the same job."""
    output = training.job.output
    if output == own:
        return True
    if not all((output / name).is_file() for name in KEPT):
        return False
    same = TrainingJob.load(output / "job.json") == training.job
    return same and read_json(output / "result.json").get("status") == "finished"


def train(training: FurtherTraining) -> None:
    """Trains in a process of its own, and keeps what a comparison needs.

    Raises:
        FurtherTrainingError: it did not finish; says why.
    """
    output = training.job.output
    shutil.rmtree(output, ignore_errors=True)
    training.job.save(output / "job.json")
    command = [sys.executable, "-m", "ctr_pipeline.training.entry", "--job", str(output / "job.json")]
    environment = {**process_environment().variables, "GOMP_SPINCOUNT": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    result = read_json(output / "result.json")
    if done.returncode != 0 or result.get("status") != "finished":
        cause = (result.get("cause") or {}).get("message") or done.stderr[-2000:]
        raise FurtherTrainingError(
            f"the training of {training.name} with seed {training.job.seed} did not finish: {cause}"
        )
    for path in sorted(output.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(output).as_posix() not in KEPT:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def calibrated_test(spec: Spec, dataset: PackedDataset, training: FurtherTraining) -> NDArray[np.float64]:
    """[N, T] calibrated logits of the test rows, by the spec's own rule on the calibration rows."""
    own = dataset.of_tasks(training.job.tasks)
    scores: Mapping[str, Any] = {
        split: np.load(training.job.output / "scores" / f"{split}.npy") for split in ("calibration", "test")
    }
    rows = own.splits["calibration"]
    fitted = fit_calibrators(
        spec.calibration, own.layout.tasks, scores["calibration"], rows.labels, layout=own.layout, ids=rows.ids
    )
    in_order = [fitted[task] for task in own.layout.tasks]
    return calibrated_logits(in_order, own.layout.parents, scores["test"], own.splits["test"].ids)


def _newest(deployment: Deployment) -> str:
    jobs = deployment.paths.retrains("job.json")
    if not jobs:
        raise FurtherTrainingError("there is no training yet: run `ctr run` first")
    return jobs[-1].parent.name
