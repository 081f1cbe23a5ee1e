"""`ctr controls`: the model of all tasks beside a single-task control of each, trained on the same arrays."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.commands.controls_text import AS_IT_IS
from ctr_pipeline.commands.further_trainings import (
    FurtherTraining,
    FurtherTrainingError,
    calibrated_test,
    changed_job,
    is_done,
    retrain_to_compare,
    spec_of,
    train,
)
from ctr_pipeline.datasets import PackedDataset
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.lock import exclusive
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles
from ctr_pipeline.evaluation.gradient_conflict import conflict_of
from ctr_pipeline.evaluation.task_comparison import TaskComparison, compare_by_value, compare_with_controls
from ctr_pipeline.orchestration.build import tracking_of
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.model import Model
from ctr_pipeline.training import TrainingJob

FORMAT = 1


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
        ``comparisons`` by side and task (see :class:`~ctr_pipeline.evaluation.task_comparison.TaskComparison`), ``by_value`` where
        `serving.score` declares what outcomes are worth, the seeds, and
        the conflict of the tasks' gradients where the model's was measured. Also in ``controls.json`` of the retrain.

    Raises:
        FurtherTrainingError: there is no such retrain, it has one task, a task is unknown, or a training failed.
        DataRootBusyError: another run is at work on the same data root.
    """
    with exclusive(deployment.data_root):
        paths, job, dataset = retrain_to_compare(deployment, day)
        names = dataset.layout.tasks
        if len(names) < 2:
            raise FurtherTrainingError(f"the model of {paths.day} has the task {names[0]} alone: it is its own control")
        if unknown := [task for task in tasks if task not in names]:
            raise FurtherTrainingError(f"{unknown[0]!r} is no task of {paths.day}; its tasks are {', '.join(names)}")
        if also and job.model.branches:
            raise FurtherTrainingError(
                f"the model of {paths.day} has `branches`, each with heads of its own, and no architecture beside them: leave "
                "--also out"
            )
        chosen = [task for task in names if task in tasks or not tasks]
        folder = paths.training.resolve() / "controls"
        trainings = _trainings(job, folder, chosen, also, [job.seed + n for n in range(seeds)])
        for place, training in enumerate(trainings):
            if not is_done(training, job.output):
                progress(f"training {place + 1} of {len(trainings)}: {training.name}, seed {training.job.seed}")
                train(training)
        found = compared(spec_of(deployment, paths), dataset, trainings, chosen)
        progress("gradients of the tasks on what they share")
        found["gradient_conflict"] = _gradient_conflict(job, names)
        content = {
            "format": FORMAT,
            "day": paths.day,
            "model_sha256": read_json(paths.result).get("model_sha256"),
            "seeds": [job.seed + n for n in range(seeds)],
            **found,
        }
        write_json(paths.controls, content)
        _log_to_mlflow(deployment, paths, content)
    return content


def control_job(job: TrainingJob, task: str, output: Path, seed: int) -> TrainingJob:
    """The job of a model of one task, with the settings of a model of several but for gradients that it stops."""
    objectives = {name: section for name, section in job.objectives.items() if name == task}
    model, heads = job.model, job.model.multi_task
    if heads is not None and heads.stop_gradient:
        # There is nobody to protect from its gradient, and without it nothing below the heads would learn.
        model = model.model_copy(update={"multi_task": heads.model_copy(update={"stop_gradient": []})})
    return changed_job(job, output, seed, model=model, tasks=[task], task_weights={}, objectives=objectives)


def compared(
    spec: Spec, dataset: PackedDataset, trainings: Sequence[FurtherTraining], tasks: Sequence[str]
) -> dict[str, Any]:
    """The comparisons from the scores of finished trainings."""
    test = dataset.splits["test"]
    logits: dict[str, list[NDArray[np.float64]]] = {}
    for training in trainings:
        logits.setdefault(training.name, []).append(calibrated_test(spec, dataset, training))
    comparisons: list[TaskComparison] = []
    for task in tasks:
        column = dataset.layout.tasks.index(task)
        sides = {name: [own[:, column] for own in found] for name, found in logits.items() if not _is_control(name)}
        control = [own[:, 0] for own in logits[_control_name(task)]]
        comparisons += compare_with_controls(task, sides, control, test.labels[:, column], test.user)
    by_value = compare_by_value(comparisons, _values(spec))
    return {
        "comparisons": [comparison.to_json() for comparison in comparisons],
        "by_value": [comparison.to_json() for comparison in by_value],
    }


def _values(spec: Spec) -> dict[str, float]:
    """What an outcome of each task is worth: the weights above 0 that `serving.score` declares, without its bids."""
    found: dict[str, float] = {}
    for term in spec.serving.score or ():
        found[term.task] = found.get(term.task, 0.0) + term.weight
    return {task: weight for task, weight in found.items() if weight > 0}


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
) -> list[FurtherTraining]:
    found = []
    for seed in seeds:
        # The first one is the run's own training.
        own = job if seed == job.seed else changed_job(job, folder / f"multi-task-{seed}", seed)
        found.append(FurtherTraining(AS_IT_IS, own))
        for task in tasks:
            found.append(FurtherTraining(_control_name(task), control_job(job, task, folder / f"{task}-{seed}", seed)))
        for kind in also:
            section = Model.model_validate({**job.model.model_dump(), "multi_task": kind})
            found.append(FurtherTraining(kind, changed_job(job, folder / f"{kind}-{seed}", seed, model=section)))
    return found


def _control_name(task: str) -> str:
    return f"control of {task}"


def _is_control(name: str) -> bool:
    return name.startswith("control of ")
