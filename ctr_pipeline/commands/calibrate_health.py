"""`ctr calibrate-health`: limits of the soft detectors, from healthy runs of the newest training."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.json_files import write_json
from ctr_pipeline.deployment.lock import exclusive
from ctr_pipeline.errors import UserError


class CalibrationRunError(UserError):
    """There is no training whose settings could be run again."""


def calibrate(
    deployment: Deployment,
    day: str | None,
    *,
    runs: int,
    epochs: int | None,
    budget: float | None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Trains the job of a retrain again and again with other seeds, and stores the limits for the trainings to come.

    Args:
        deployment: The data root and its spec.
        day: The retrain, YYYY-MM-DD; the newest when None.
        runs: Healthy runs.
        epochs: Epochs of each; all of the job when None.
        budget: Most false alarms of each detector by 10,000 steps; the smallest that the runs can show when None.
        progress: Receives a line for each run.

    Returns:
        What was stored: the limits, and of which runs and settings they are.

    Raises:
        CalibrationRunError: there is no such retrain, or its arrays are gone.
        TrainingError: a run was stopped, or there are too few runs or steps for the budget.
        DataRootBusyError: another run is at work on the same data root.
    """
    import torch

    from ctr_pipeline.training import TrainingJob
    from ctr_pipeline.training.health_calibration import calibrate_health

    with exclusive(deployment.data_root):
        paths = deployment.paths.retrain(day or _newest(deployment))
        if not paths.job.is_file() or not paths.packed_manifest.is_file():
            raise CalibrationRunError(f"there is no training of {paths.day} with its arrays: run `ctr run` first")
        job = TrainingJob.load(paths.job)
        torch.set_num_threads(job.training.threads)
        torch.use_deterministic_algorithms(True)
        with tempfile.TemporaryDirectory(dir=deployment.data_root) as folder:
            found = calibrate_health(
                job, Path(folder), runs=runs, epochs=epochs, budget=budget,
                progress=lambda run: progress(f"seed {run.seed}: {run.steps} steps"),
            )  # fmt: skip
        content = {"settings": job.settings_hash, "day": paths.day, **found.model_dump(mode="json")}
        write_json(deployment.paths.health_limits, content)
    return content


def _newest(deployment: Deployment) -> str:
    jobs = deployment.paths.retrains("job.json")
    if not jobs:
        raise CalibrationRunError("there is no training yet: run `ctr run` first")
    return jobs[-1].parent.name
