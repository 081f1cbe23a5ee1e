"""`ctr controls`: the model of all tasks beside a single-task control of each, trained on the same arrays."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.calibration import calibrated_logits, fit_calibrators
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.lock import exclusive
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.errors import UserError
from ctr_pipeline.evaluation.gradient_conflict import conflict_of
from ctr_pipeline.evaluation.task_comparison import compare_with_controls
from ctr_pipeline.orchestration.build import tracking_of
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.model import Model
from ctr_pipeline.training import TrainingJob

FORMAT = 1
AS_IT_IS = "multi-task"
"""Name of the model of the spec itself."""

KEPT = ("job.json", "result.json", "scores/calibration.npy", "scores/test.npy")
"""Files of a training that stay: they hold no ids."""


class ControlsError(UserError):
    """There is no training whose controls could be trained, or one of them failed."""


@dataclass(frozen=True, slots=True)
class ControlTraining:
    """One training of the comparison."""

    name: str
    job: TrainingJob


def compare_tasks(
    deployment: Deployment,
    day: str | None,
    *,
    seeds: int = 1,
    tasks: Sequence[str] = (),
    also: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Trains what is missing, and compares each task with its control.

    The control of a task has the job's own settings and learns this task alone, on the entire space of impressions; its
    embeddings and layers are shared with none. Trainings that an earlier call finished are not repeated.

    Args:
        deployment: The data root and its spec.
        day: The retrain, YYYY-MM-DD; the newest when None.
        seeds: Training seeds, from that of the job on.
        tasks: Tasks that are compared; all when empty.
        also: Further architectures (kinds of ``model.multi_task``) that are trained and compared with the same controls.
        progress: Receives a line for each training.

    Returns:
        ``comparisons`` by side and task (see :class:`~ctr_pipeline.evaluation.task_comparison.TaskComparison`), the seeds, and
        the conflict of the tasks' gradients where the model's was measured. Also in ``controls.json`` of the retrain.

    Raises:
        ControlsError: there is no such retrain, it has one task, a task is unknown, or a training failed.
        DataRootBusyError: another run is at work on the same data root.
    """
    with exclusive(deployment.data_root):
        paths = deployment.paths.retrain(day or _newest(deployment))
        if not paths.job.is_file() or not paths.packed_manifest.is_file():
            raise ControlsError(f"there is no training of {paths.day} with its arrays: run `ctr run` first")
        job, dataset = TrainingJob.load(paths.job), PackedDataset.open(paths.packed)
        names = dataset.layout.tasks
        if len(names) < 2:
            raise ControlsError(f"the model of {paths.day} has the task {names[0]} alone: it is its own control")
        if unknown := [task for task in tasks if task not in names]:
            raise ControlsError(f"{unknown[0]!r} is no task of {paths.day}; its tasks are {', '.join(names)}")
        chosen = [task for task in names if task in tasks or not tasks]
        # A job file's paths are relative to its own folder.
        job = job.model_copy(update={"dataset": job.dataset.resolve(), "output": paths.training.resolve()})
        folder = paths.training.resolve() / "controls"
        trainings = _trainings(job, folder, chosen, also, [job.seed + n for n in range(seeds)])
        for place, training in enumerate(trainings):
            if not _is_done(training, paths):
                progress(f"training {place + 1} of {len(trainings)}: {training.name}, seed {training.job.seed}")
                _train(training)
        found = compared(deployment.spec, dataset, trainings, chosen)
        progress("gradients of the tasks on what they share")
        found["gradient_conflict"] = _gradient_conflict(job, names)
        content = {"format": FORMAT, "day": paths.day, "seeds": [job.seed + n for n in range(seeds)], **found}
        write_json(paths.controls, content)
        _log_to_mlflow(deployment, paths, content)
    return content


def control_job(job: TrainingJob, task: str, output: Path, seed: int) -> TrainingJob:
    """The job of a model of one task, with the settings of a model of several."""
    own = {"tasks": [task], "task_weights": {}, "output": output, "seed": seed, "mlflow": None, "last_good_steps": None}
    objectives = {name: section for name, section in job.objectives.items() if name == task}
    return job.model_copy(update={**own, "objectives": objectives, "health_limits": None})


def compared(
    spec: Spec, dataset: PackedDataset, trainings: Sequence[ControlTraining], tasks: Sequence[str]
) -> dict[str, Any]:
    """The comparisons from the scores of finished trainings."""
    test = dataset.splits["test"]
    logits: dict[str, list[NDArray[np.float64]]] = {}
    for training in trainings:
        logits.setdefault(training.name, []).append(_calibrated(spec, dataset, training))
    comparisons = []
    for task in tasks:
        column = dataset.layout.tasks.index(task)
        sides = {name: [own[:, column] for own in found] for name, found in logits.items() if not _is_control(name)}
        control = [own[:, 0] for own in logits[_control_name(task)]]
        found = compare_with_controls(task, sides, control, test.labels[:, column], test.user)
        comparisons += [comparison.to_json() for comparison in found]
    return {"comparisons": comparisons}


def _gradient_conflict(job: TrainingJob, tasks: Sequence[str]) -> dict[str, Any] | None:
    """How the tasks' gradients on what they share agree at the end of the run's own training; None where nothing is."""
    import torch

    from ctr_pipeline.training.task_gradients import task_gradient_products

    torch.set_num_threads(job.training.threads)
    products, rows, parameters = task_gradient_products(job)
    return conflict_of(tasks, products, rows=rows, parameters=parameters).to_json() if products.size else None


def _log_to_mlflow(deployment: Deployment, paths: RetrainPaths, content: Mapping[str, Any]) -> None:
    """The differences and cosines beside the other figures of the run's training, and the whole content as a file."""
    if not paths.mlflow_run.is_file():
        return
    metrics = {}
    for own in content["comparisons"]:
        if own["side"] == AS_IT_IS and own["ne_difference"] is not None:
            metrics[f"control_{own['task']}_auc_difference"] = own["auc_difference"]["value"]
            metrics[f"control_{own['task']}_ne_difference"] = own["ne_difference"]["value"]
    for pair in (content["gradient_conflict"] or {}).get("pairs", ()):
        if pair["cosine"] is not None:
            metrics["gradient_cosine_" + "_".join(pair["tasks"])] = pair["cosine"]["value"]
    run_id = RetrainFiles(paths).mlflow_run().run_id
    tracking_of(deployment, process_environment()).log(run_id, metrics, [("", paths.controls)])


def _trainings(
    job: TrainingJob, folder: Path, tasks: Sequence[str], also: Sequence[str], seeds: Sequence[int]
) -> list[ControlTraining]:
    found = []
    for seed in seeds:
        plain = {"seed": seed, "mlflow": None, "last_good_steps": None, "health_limits": None}
        # The first one is the run's own training.
        own = job if seed == job.seed else job.model_copy(update={**plain, "output": folder / f"multi-task-{seed}"})
        found.append(ControlTraining(AS_IT_IS, own))
        for task in tasks:
            found.append(ControlTraining(_control_name(task), control_job(job, task, folder / f"{task}-{seed}", seed)))
        for kind in also:
            section = Model.model_validate({**job.model.model_dump(), "multi_task": kind})
            changed = {**plain, "model": section, "output": folder / f"{kind}-{seed}"}
            found.append(ControlTraining(kind, job.model_copy(update=changed)))
    return found


def _is_done(training: ControlTraining, paths: RetrainPaths) -> bool:
    output = training.job.output
    if output == paths.training.resolve():
        return True
    if not all((output / name).is_file() for name in KEPT):
        return False
    same = TrainingJob.load(output / "job.json") == training.job
    return same and read_json(output / "result.json").get("status") == "finished"


def _train(training: ControlTraining) -> None:
    """Trains in a process of its own, and keeps what the comparison needs."""
    output = training.job.output
    shutil.rmtree(output, ignore_errors=True)
    training.job.save(output / "job.json")
    command = [sys.executable, "-m", "ctr_pipeline.training.entry", "--job", str(output / "job.json")]
    environment = {**process_environment().variables, "GOMP_SPINCOUNT": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    result = read_json(output / "result.json")
    if done.returncode != 0 or result.get("status") != "finished":
        cause = (result.get("cause") or {}).get("message") or done.stderr[-2000:]
        raise ControlsError(f"the training of {training.name} with seed {training.job.seed} did not finish: {cause}")
    for path in sorted(output.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(output).as_posix() not in KEPT:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _calibrated(spec: Spec, dataset: PackedDataset, training: ControlTraining) -> NDArray[np.float64]:
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


def _control_name(task: str) -> str:
    return f"control of {task}"


def _is_control(name: str) -> bool:
    return name.startswith("control of ")


def _newest(deployment: Deployment) -> str:
    jobs = deployment.paths.retrains("job.json")
    if not jobs:
        raise ControlsError("there is no training yet: run `ctr run` first")
    return jobs[-1].parent.name
