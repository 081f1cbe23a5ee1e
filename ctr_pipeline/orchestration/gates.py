"""Whether the model of a retrain may be served at all: its own files, and the checks of its own day.

Looked up in the files of the retrain and in the runs that made it: the newest result of a check may be that of another
day.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles, TrainingOutcome
from ctr_pipeline.orchestration.checks.newest import errors_of_day
from ctr_pipeline.orchestration.records import newest_metadata
from ctr_pipeline.orchestration.stages import names
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    from ctr_pipeline.evaluation import Floor

SUMMARIES = {"evaluation.no_earlier_errors", "champion.promotion_floor"}
"""Checks that only repeat what others have found."""

IN_FILES = {
    "training_dataset.both_classes",
    "evaluation.better_than_base_rate",
    "evaluation.better_on_validation",
    "evaluation.better_than_position",
}
"""Checks whose grounds are read from the files of the retrain."""


SKEW_REPORT = "skew_report"
SKEW_DAYS = 7
"""The skew of requests counts for so many days: nothing is promoted while the newest of them with requests has an error."""


def skew_reasons(instance: dg.DagsterInstance, day: str) -> list[str]:
    """A sentence for each error of the newest skew report with requests, up to ``day`` and not long before it."""
    last = date.fromisoformat(day)
    reports = newest_metadata(instance, SKEW_REPORT)
    days = [
        of for of, found in reports.items() if found.get("requests") and last - timedelta(days=SKEW_DAYS) < of <= last
    ]
    if not days:
        return []
    newest = max(days).isoformat()
    errors = errors_of_day(instance, newest, [SKEW_REPORT])
    return [f"What is served is not what was trained on: {name} of {newest}: {text}" for name, text in errors.items()]


def errors_before(instance: dg.DagsterInstance, day: str, asset: str) -> list[str]:
    """A sentence for each check of the assets before ``asset`` that has an error of this day."""
    order = names()
    # The skew of requests is no fault of the model that is made: it only keeps it from being promoted.
    before = [name for name in order[: order.index(asset)] if name != SKEW_REPORT]
    errors = errors_of_day(instance, day, before)
    return [
        f"The check {name} has an error: {text}" for name, text in errors.items() if name not in SUMMARIES | IN_FILES
    ]


def floor_of(spec: Spec, paths: RetrainPaths) -> "Floor":
    """How the retrained model compares with the base rate on its validation, and with the position on its test."""
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation import (
        Floor,
        against_position,
        position_only,
        position_reasons,
        validation_entropy,
        validation_reasons,
    )

    dataset, files = PackedDataset.open(paths.packed), RetrainFiles(paths)
    validation, train, test = (dataset.splits[name] for name in ("validation", "train", "test"))
    # As the epoch was chosen, and as the other model is: knowing the position, where the model has learnt one.
    logged = True in files.position_modes
    logits = files.scores("validation", logged_position=logged)
    entropies, differences = {}, {}
    for column, task in enumerate(task.name for task in spec.tasks):
        labels = validation.labels[:, column]
        entropies[task] = validation_entropy(logits[:, column], labels, validation.user, seed=spec.seed)
    if spec.quality.better_than_position:
        calibrated = files.calibrated("test", [task.name for task in spec.tasks], logged_position=logged)
        for column, task in enumerate(task.name for task in spec.tasks):
            rates = position_only(train.position, train.labels[:, column], test.position)
            if rates is not None:
                differences[task] = against_position(
                    calibrated[:, column], rates, test.labels[:, column], test.user, seed=spec.seed
                )
    facts = TrainingOutcome.read(paths.result).facts
    mean = facts.get("best_validation_ne")
    mean = float(mean) if isinstance(mean, int | float) else None
    return Floor(
        validation_ne=mean,
        validation=entropies,
        position=differences,
        validation_reasons=validation_reasons(mean, entropies, spec.quality.max_validation_ne),
        position_reasons=position_reasons(differences),
    )


def refusal_reasons(spec: Spec, paths: RetrainPaths, instance: dg.DagsterInstance, asset: str) -> list[str]:
    """Why the model of a retrain must not be served, with a champion or without one; empty where it may.

    Args:
        spec: The spec.
        paths: The retrain.
        instance: Holds the checks of its day.
        asset: What is about to be made; the checks of the assets before it count.
    """
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.datasets.class_counts import one_class_parts
    from ctr_pipeline.evaluation import Interval, base_rate_reasons

    files, tasks = RetrainFiles(paths), [task.name for task in spec.tasks]
    metrics, floor = files.evaluation(), files.floor()
    entropy = {task: metrics[task]["test"]["ne"] for task in tasks}
    return [
        *one_class_parts(PackedDataset.open(paths.packed), tasks),
        *(floor["reasons"] if floor else ["evaluation.json is of an earlier version: materialise evaluation again."]),
        *base_rate_reasons({task: Interval.from_json(ne) if ne else None for task, ne in entropy.items()}),
        *errors_before(instance, paths.day, asset),
        *(skew_reasons(instance, paths.day) if asset == "champion" else []),
    ]


def passed_text(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], floor: Mapping[str, Any]) -> str:
    """What a model that passed every gate was held against, in a sentence."""
    tasks = []
    for task, of in metrics.items():
        position = floor["position"].get(task)
        beside = f", {position['relative']['value']:+.1%} beside the position alone" if position else ""
        tasks.append(f"{task} NE {of['test']['ne']['value']:.3f}{beside}")
    mean = floor["validation_ne"]
    validation = "" if mean is None else f"validation NE {mean:.3f}; "
    return f"Every gate is passed: {validation}on the test {', '.join(tasks)}."
