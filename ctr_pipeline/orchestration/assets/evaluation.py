"""`calibrated_ranker` → `evaluation`: probabilities that hold, and how good they are, with intervals."""

from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.assets.training import refusal_of
from ctr_pipeline.orchestration.checks.model_quality import (
    check_calibrated,
    check_informative,
    evaluation_check_specs,
)
from ctr_pipeline.orchestration.files import (
    CALIBRATION_FILE,
    EVALUATION_FILE,
    RUN_FILE,
    SCORED_SPLITS,
    read_json,
    scores,
    write_json,
)
from ctr_pipeline.orchestration.fingerprints import TAG, retrain_fingerprint
from ctr_pipeline.orchestration.metadata import plots, table
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.orchestration.user_errors import user_errors

if TYPE_CHECKING:
    from ctr_pipeline.evaluation import Calibrator, TaskMetrics


def evaluation_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """Calibration on its own slice, then the evaluation of every scored split."""
    partitions = daily_partitions(settings)

    @dg.asset(
        deps=["ranker", "training_dataset"],
        partitions_def=partitions,
        group_name="model",
        kinds={"numpy"},
        description="Platt scaling of each task's logit, fitted on the calibration slice only.",
    )
    def calibrated_ranker(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from ctr_pipeline.datasets import PackedDataset
        from ctr_pipeline.evaluation import fit_platt

        day = context.partition_key
        refusal = refusal_of(read_json(settings.training_folder(day) / "result.json", "ranker"))
        if refusal is not None:
            raise dg.Failure(refusal, allow_retries=False)
        with user_errors():
            split = PackedDataset.open(settings.packed_folder(day)).splits["calibration"]
            logits = scores(settings, day, "calibration")
            fitted = {
                task.name: fit_platt(logits[:, column], split.labels[:, column])
                for column, task in enumerate(settings.spec.tasks)
            }
        content = {task: calibrator.to_json() for task, calibrator in fitted.items()}
        write_json(settings.training_folder(day) / CALIBRATION_FILE, content)
        return dg.MaterializeResult(
            metadata={"calibrators": table({"task": task, **fields} for task, fields in content.items())},
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
        )

    @dg.asset(
        deps=["calibrated_ranker", "training_dataset"],
        partitions_def=partitions,
        check_specs=evaluation_check_specs("evaluation"),
        group_name="model",
        kinds={"numpy"},
        description="AUC, AP, log loss, NE and observed/expected of each task and split, with 95 % intervals.",
    )
    def evaluation(context: dg.AssetExecutionContext, tracking: TrackingResource) -> dg.MaterializeResult:
        day = context.partition_key
        folder = settings.training_folder(day)
        with user_errors():
            metrics = _measure(settings, day)
        content = {task: {split: found.to_json() for split, found in of.items()} for task, of in metrics.items()}
        write_json(folder / EVALUATION_FILE, {"metrics": content})
        images = _plots(settings, day, metrics)
        for name, image in images.items():
            path = folder / "plots" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        run = read_json(folder / RUN_FILE, "ranker")
        tracking.log(
            run["run_id"],
            {
                f"{split}/{task}/{name}": value
                for task, of in metrics.items()
                for split, found in of.items()
                for name, value in found.numbers().items()
            },
            {"plots": folder / "plots", "": folder / EVALUATION_FILE},
        )
        first = settings.spec.tasks[0].name
        return dg.MaterializeResult(
            metadata={
                "metrics": table(_rows(content)),
                **{
                    f"{name}/{task}": value
                    for task, of in metrics.items()
                    for name, value in of["test"].numbers().items()
                    if name in {"auc", "ap", "log_loss", "ne", "oe"}
                },
                **plots(images),
                "mlflow_run_id": run["run_id"],
                **({"mlflow_run": dg.MetadataValue.url(run["url"])} if run.get("url") else {}),
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
            check_results=[
                check_informative("evaluation", first, _value(metrics[first]["test"].ne)),
                check_calibrated(
                    "evaluation",
                    {
                        task: (of["test"].oe.value, of["test"].oe.low, of["test"].oe.high)
                        for task, of in metrics.items()
                        if of["test"].oe is not None
                    },
                ),
            ],
        )

    return [calibrated_ranker, evaluation]


def calibrators(settings: PipelineSettings, day: str) -> "dict[str, Calibrator]":
    """The calibrator of each task."""
    from ctr_pipeline.evaluation import Calibrator

    content = read_json(settings.training_folder(day) / CALIBRATION_FILE, "calibrated_ranker")
    return {task: Calibrator.from_json(fields) for task, fields in content.items()}


def _measure(settings: PipelineSettings, day: str) -> "dict[str, dict[str, TaskMetrics]]":
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation import evaluate

    dataset = PackedDataset.open(settings.packed_folder(day))
    fitted = calibrators(settings, day)
    metrics: dict[str, dict[str, TaskMetrics]] = {task.name: {} for task in settings.spec.tasks}
    for split in SCORED_SPLITS:
        logits, packed = scores(settings, day, split), dataset.splits[split]
        for column, task in enumerate(settings.spec.tasks):
            metrics[task.name][split] = evaluate(
                fitted[task.name].apply(logits[:, column]),
                packed.labels[:, column],
                packed.user,
                seed=settings.spec.seed,
            )
    return metrics


def _plots(settings: PipelineSettings, day: str, metrics: "dict[str, dict[str, TaskMetrics]]") -> dict[str, bytes]:
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation.plots import precision_recall_plot, reliability_plot, score_histogram

    labels = PackedDataset.open(settings.packed_folder(day)).splits["test"].labels
    logits = scores(settings, day, "test")
    fitted = calibrators(settings, day)
    images = {
        "reliability": reliability_plot(
            {task: of["test"].bins for task, of in metrics.items()}, title="Reliability on the test rows"
        )
    }
    for column, task in enumerate(settings.spec.tasks):
        calibrated = fitted[task.name].apply(logits[:, column])
        images[f"precision_recall_{task.name}"] = precision_recall_plot(
            calibrated, labels[:, column], title=f"Precision and recall of {task.name}"
        )
        images[f"scores_{task.name}"] = score_histogram(
            calibrated, labels[:, column], title=f"Scores of {task.name} by class"
        )
    return images


def _rows(content: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for task, splits in content.items():
        for split, found in splits.items():
            row = {"task": task, "split": split, "rows": found["rows"], "positives": found["positives"]}
            for name in ("auc", "ap", "log_loss", "ne", "oe"):
                interval = found[name] or {}
                row |= {
                    name: interval.get("value"),
                    f"{name}_low": interval.get("low"),
                    f"{name}_high": interval.get("high"),
                }
            rows.append(row)
    return rows


def _value(interval: Any) -> float | None:
    return None if interval is None else float(interval.value)
