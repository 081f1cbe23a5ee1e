"""`ctr ablate`: the ranker without each of its parts in turn, trained on the same arrays and compared row by row."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from ctr_pipeline.evaluation.ablation_plot import ablation_plot
from ctr_pipeline.evaluation.task_comparison import compare_with_controls
from ctr_pipeline.orchestration.build import tracking_of
from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.model import Model
from ctr_pipeline.spec.position import NoPosition
from ctr_pipeline.training import TrainingJob

FORMAT = 1
WHOLE = "as it is"
"""Name of the model of the spec itself."""

PARENT_RUN = "mlflow.parentRunId"
"""Tag by which MLflow's page shows a run within another."""


def without_each_part(model: Model, *, positions: bool) -> dict[str, Model]:
    """The model without each of its parts in turn, by what is left out; of parts that it has only.

    Args:
        model: The model.
        positions: Whether it learns what positions do.
    """
    changes: dict[str, dict[str, Any]] = {}
    for field, what in (("interactions", "interaction"), ("sequences", "sequence"), ("branches", "branch")):
        parts = getattr(model, field)
        for at, part in enumerate(parts):
            named = part.name if field == "branches" else part.kind
            twice = [of.name if field == "branches" else of.kind for of in parts].count(named) > 1
            others = [*parts[:at], *parts[at + 1 :]]
            changes[f"{what} {named}" + (f" {at + 1}" if twice else "")] = _without_part(field, others)
    if model.hidden and not model.branches:
        changes["hidden layers"] = {"hidden": []}
    changes |= {
        name: change
        for name, there, change in (
            ("residual connections", model.residual, {"residual": False}),
            ("hidden gates", model.hidden_gates, {"hidden_gates": False}),
            ("normalisation", model.normalisation != "none", {"normalisation": "none"}),
            ("linear part", model.wide, {"wide": False}),
            ("multi-task architecture", model.multi_task is not None, {"multi_task": None}),
            ("position effect", positions, {"position": NoPosition()}),
            ("dropout", model.dropout != 0, {"dropout": 0.0}),
            ("embedding dropout", model.embedding_dropout != 0, {"embedding_dropout": 0.0}),
        )
        if there
    }
    return {name: _changed(model, change) for name, change in changes.items()}


def _without_part(field: str, others: Sequence[Any]) -> dict[str, Any]:
    if field != "branches" or len(others) > 1:
        return {field: list(others)}
    # One branch alone is the model itself.
    [alone] = others
    own = {} if alone.hidden is None else {"hidden": alone.hidden}
    return {"branches": [], "fusion": None, "interactions": alone.interactions, **own}


def _changed(model: Model, change: Mapping[str, Any]) -> Model:
    plain = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in change.items()}
    lists = {
        name: [part.model_dump() if hasattr(part, "model_dump") else part for part in value]
        for name, value in plain.items()
        if isinstance(value, list)
    }
    return Model.model_validate({**model.model_dump(), **plain, **lists})


def ablate(
    deployment: Deployment,
    day: str | None,
    *,
    seeds: int = 3,
    only: Sequence[str] = (),
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Trains the model without each of its parts, where that is missing, and compares it with the whole one.

    All trainings read the arrays of the retrain. Those that an earlier call finished are not repeated.

    Args:
        deployment: The data root and its spec.
        day: The retrain, YYYY-MM-DD; the newest when None.
        seeds: Training seeds, from that of the retrain's job on.
        only: Parts that are left out; each one of the model's when empty.
        progress: Receives how many trainings are done, of how many, and what comes next.

    Returns:
        ``comparisons`` by part and task (see :class:`~ctr_pipeline.evaluation.task_comparison.TaskComparison`; the control is
        the whole model), the ``seeds`` and the ``seconds`` of trainings by part. Also in ``ablation.json`` of the retrain.

    Raises:
        FurtherTrainingError: there is no such retrain, a part is unknown, or a training failed.
        DataRootBusyError: another run is at work on the same data root.
    """
    with exclusive(deployment.data_root):
        paths, job, dataset = retrain_to_compare(deployment, day)
        models = without_each_part(job.model, positions=bool(dataset.layout.positions))
        if unknown := [part for part in only if part not in models]:
            raise FurtherTrainingError(
                f"{unknown[0]!r} is no part of the model of {paths.day}; its parts are {', '.join(models)}"
            )
        chosen = {name: model for name, model in models.items() if not only or name in only}
        all_seeds = [job.seed + n for n in range(seeds)]
        trainings = _trainings(job, paths.training.resolve() / "ablation", chosen, all_seeds)
        for at, training in enumerate(trainings):
            progress(at, len(trainings), f"{training.name}, seed {training.job.seed}")
            if not is_done(training, job.output):
                train(training)
        progress(len(trainings), len(trainings), "comparing")
        found = compared(spec_of(deployment, paths), dataset, trainings)
        content = {"format": FORMAT, "day": paths.day, "seeds": all_seeds, **found}
        write_json(paths.ablation, content)
        plots = _write_plots(paths, content)
        _log_to_mlflow(deployment, paths, content, plots)
    return content


def compared(spec: Spec, dataset: PackedDataset, trainings: Sequence[FurtherTraining]) -> dict[str, Any]:
    """The comparisons from the scores of finished trainings, and how long these took."""
    logits: dict[str, list[NDArray[np.float64]]] = {}
    seconds: dict[str, list[float]] = {}
    for training in trainings:
        logits.setdefault(training.name, []).append(calibrated_test(spec, dataset, training))
        took = read_json(training.job.output / "result.json").get("wall_seconds")
        if took is not None:
            seconds.setdefault(training.name, []).append(float(took))
    test, comparisons = dataset.splits["test"], []
    whole = logits.pop(WHOLE)
    for at, task in enumerate(dataset.layout.tasks):
        sides = {name: [own[:, at] for own in of] for name, of in logits.items()}
        own = [of[:, at] for of in whole]
        found = compare_with_controls(task, sides, own, test.labels[:, at], test.user)
        comparisons += [comparison.to_json() for comparison in found]
    means = {name: round(sum(took) / len(took), 1) for name, took in seconds.items()}
    return {"comparisons": comparisons, "seconds": means}


def _trainings(
    job: TrainingJob, folder: Path, models: Mapping[str, Model], seeds: Sequence[int]
) -> list[FurtherTraining]:
    found = []
    for seed in seeds:
        # The first one is the run's own training.
        own = job if seed == job.seed else changed_job(job, folder / f"whole-{seed}", seed)
        found.append(FurtherTraining(WHOLE, own))
        for name, model in models.items():
            place = folder / f"{name.replace(' ', '_')}-{seed}"
            found.append(FurtherTraining(f"no {name}", changed_job(job, place, seed, model=model)))
    return found


def _write_plots(paths: RetrainPaths, content: Mapping[str, Any]) -> list[Path]:
    """A picture for each task, beside the trainings."""
    found = []
    for task in dict.fromkeys(own["task"] for own in content["comparisons"]):
        rows = [own for own in content["comparisons"] if own["task"] == task and own["ne_difference"] is not None]
        if not rows:
            continue
        path = paths.training / "ablation" / f"ablation_{task}.png"
        intervals = {own["side"]: own["ne_difference"] for own in rows}
        path.write_bytes(ablation_plot(intervals, title=f"{task}: NE without a part, minus that of the whole model"))
        found.append(path)
    return found


def _log_to_mlflow(
    deployment: Deployment, paths: RetrainPaths, content: Mapping[str, Any], plots: Sequence[Path]
) -> None:
    """A run within the retrain's own, and within it one for each part that was left out."""
    if not paths.mlflow_run.is_file():
        return
    tracking, own = tracking_of(deployment, process_environment()), RetrainFiles(paths).mlflow_run()
    tags = {"dagster.run_id": "", "ctr.partition": paths.day}
    parent = tracking.start_run(
        f"ablation of {paths.day}", {**tags, PARENT_RUN: own.run_id}, {"seeds": content["seeds"]}
    )
    with tracking.closing(parent):
        tracking.log(parent, {}, [("", paths.ablation), *(("plots", path) for path in plots)])
        for side in dict.fromkeys(found["side"] for found in content["comparisons"]):
            run = tracking.start_run(side, {**tags, PARENT_RUN: parent}, {"left out": side.removeprefix("no ")})
            with tracking.closing(run):
                tracking.log(run, dict(_metrics(content, side)), [])


def _metrics(content: Mapping[str, Any], side: str) -> list[tuple[str, float]]:
    found = []
    for own in (own for own in content["comparisons"] if own["side"] == side):
        values = {"auc": own["auc"], "ne": own["ne"]}
        for name in ("auc_difference", "ne_difference"):
            for part, value in (own[name] or {}).items():
                values[name if part == "value" else f"{name}_{part}"] = value
        found += [(f"{own['task']}/{name}", value) for name, value in values.items() if value is not None]
    if side in content["seconds"]:
        found.append(("seconds", content["seconds"][side]))
    return found
