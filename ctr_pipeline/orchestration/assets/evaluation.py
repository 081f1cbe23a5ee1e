"""`calibrated_ranker` → `evaluation`: probabilities that hold, and how good they are, with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import SCORED_SPLITS, RetrainFiles, TrainingOutcome
from ctr_pipeline.deployment.tracked_datasets import split_datasets
from ctr_pipeline.orchestration.assets.datasets import retrain_tags, tables_of
from ctr_pipeline.orchestration.assets.measures import Measures
from ctr_pipeline.orchestration.assets.scores import write_scores
from ctr_pipeline.orchestration.assets.slices import found_rows, measured_slices, slice_rows
from ctr_pipeline.orchestration.assets.training import blocking_findings
from ctr_pipeline.orchestration.champion_scores import ComparedChampion, champion_logits
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.model_quality import EvaluationEvidence
from ctr_pipeline.orchestration.gates import errors_before, floor_of
from ctr_pipeline.orchestration.metadata import NO_BREAK, cell, plots, run_metadata, table
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.report_pages import page_link, publish_page, with_page, write_delays
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource
from ctr_pipeline.orchestration.user_errors import forbid, user_errors
from ctr_pipeline.spec import Spec

if TYPE_CHECKING:
    from ctr_pipeline.calibration import Calibrator
    from ctr_pipeline.datasets import Tables
    from ctr_pipeline.evaluation import Floor, TaskMetrics

TITLES = {"AUC": "auc", "AP": "ap", "NE": "ne", "O/E": "oe"}
"""Metrics of the tables; O/E is observed over expected."""

RANGE = "95 % interval"

POSITION = {False: "neutral", True: "as logged"}
"""How rows are scored, by whether that is with the logged position."""

OTHER_SPLITS = tuple(split for split in SCORED_SPLITS if split != "test")

Metrics = Mapping[str, Mapping[str, "TaskMetrics"]]
"""By task and split."""


def evaluation_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """Calibration on its own slice, then the evaluation of every scored split."""
    partitions, spec = daily_partitions(deployment), deployment.spec

    @dg.asset(
        deps=["ranker", "training_dataset"],
        partitions_def=partitions,
        group_name="model",
        kinds={"numpy"},
        description="Calibration of each task's logit, fitted on the calibration slice only.",
    )
    def calibrated_ranker(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from ctr_pipeline.calibration import fit_calibrators
        from ctr_pipeline.datasets import PackedDataset

        paths = deployment.paths.retrain(context.partition_key)
        files = RetrainFiles(paths)
        with user_errors():
            scores = {logged: files.scores("calibration", logged_position=logged) for logged in files.position_modes}
            if (reason := TrainingOutcome.read(paths.result).blocking_reason(blocking_findings())) is not None:
                raise dg.Failure(reason, allow_retries=False)
            dataset = PackedDataset.open(paths.packed)
            split, layout = dataset.splits["calibration"], dataset.layout
            tasks = [task.name for task in spec.tasks]
            by_mode = {
                logged: fit_calibrators(spec.calibration, tasks, logits, split.labels, layout=layout, ids=split.ids)
                for logged, logits in scores.items()
            }
        for logged, fitted in by_mode.items():
            files.write_calibrators(fitted, logged_position=logged)
        return dg.MaterializeResult(
            metadata={
                "calibrators": table(
                    {"task": task, "position": POSITION[logged], **calibrator_cells(found)}
                    for logged, fitted in by_mode.items()
                    for task, found in fitted.items()
                )
            },
            tags=retrain_tags(deployment, context),
        )

    @dg.asset(
        deps=["calibrated_ranker", "training_dataset"],
        partitions_def=partitions,
        check_specs=check_specs("evaluation"),
        group_name="model",
        kinds={"numpy"},
        description="AUC, AP, log loss, NE and observed/expected of each task and split, with 95 % intervals.",
    )
    def evaluation(
        context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        paths = deployment.paths.retrain(context.partition_key)
        files = RetrainFiles(paths)
        with user_errors():
            run = files.mlflow_run()
            store = lake.open()
            tables = tables_of(deployment, store, context.partition_key)
            scores = write_scores(spec, paths, store, tables, context.partition_key)
            champion = _champion(spec, paths, tables, tracking, run.run_id)
            measures = Measures(spec, paths, tables, champion.logits)
            metrics, otherwise, references = measures.splits(), measures.otherwise(), measures.references()
            further: dict[str, Any] = {
                "test_by_day": measures.by_day(),
                "slices_found": measures.searched_slices(),
                "ranking_revenue": measures.revenue(),
                "champion": champion.to_json(),
            }
            images = draw_plots(spec, paths, metrics)
            floor = floor_of(spec, paths)
            slices = measured_slices(spec, paths)
            write_delays(deployment, store, context.partition_key)
        content = {task: {split: found.to_json() for split, found in of.items()} for task, of in metrics.items()}
        others_content = {name: {task: found.to_json() for task, found in of.items()} for name, of in otherwise.items()}
        references_content = {
            name: {task: found.to_json() for task, found in of.items()} for name, of in references.items()
        }
        further |= {"test_references": references_content}
        files.write_evaluation(content, others_content, floor.to_json(), slices, further)
        others = {name: value for split in OTHER_SPLITS for name, value in _numbers(metrics, split).items()}
        tracking.log(run.run_id, others, [("plots", paths.plots), ("", paths.evaluation)])
        [test] = split_datasets(paths.packed, ["test"])
        measured = {
            f"test_{how}/{task}/{name}": value
            for how, of in {**otherwise, **references}.items()
            for task, found in of.items()
            for name, value in found.numbers().items()
        }
        tracking.log_model_metrics(run.run_id, _numbers(metrics, "test") | measured, test)
        checks = check_results(
            "evaluation",
            _evidence(metrics, content, floor, errors_before(context.instance, context.partition_key, "evaluation")),
        )
        publish_page(deployment, context.instance, tracking, context.partition_key, "evaluation", checks)
        checks = with_page("evaluation", checks, paths, run)
        yield dg.MaterializeResult(
            metadata={
                **page_link(paths, run),
                "test": table(test_rows({task: of["test"] for task, of in content.items()})),
                "test_otherwise": table(other_rows(others_content | references_content)),
                "by_day": table(day_rows(further["test_by_day"])),
                "splits": table(split_rows(content)),
                "slices": table(slice_rows(slices)),
                "slices_found": table(found_rows(further["slices_found"])),
                **{
                    f"{name}/{task}": cell(value)
                    for task, of in metrics.items()
                    for name, value in of["test"].numbers().items()
                    if name in {"auc", "ap", "log_loss", "ne", "oe"}
                },
                **plots({name.replace("precision_recall", "pr"): image for name, image in images.items()}),
                **run_metadata(run.run_id, run.url),
                **scores,
            },
            tags=retrain_tags(deployment, context),
            check_results=checks,
        )
        # The figures of a model that is no better than the base rate are kept; nothing after them is made of it.
        forbid("evaluation", checks)

    return [calibrated_ranker, evaluation]


def calibrator_cells(calibrator: "Calibrator") -> dict[str, Any]:
    """A calibrator as the cells of a row, the same ones for every kind; with offsets, their size beside it, but no value."""
    from ctr_pipeline.calibration import OffsetCalibrator, calibrator_to_json

    if isinstance(calibrator, OffsetCalibrator):
        largest = max(map(abs, calibrator.offsets), default=0.0)
        return calibrator_cells(calibrator.curve) | {
            "offsets by": calibrator.feature,
            "k": "no offsets" if calibrator.k is None else f"{calibrator.k:.1f}",
            "values with an offset": len(calibrator.values),
            "largest offset": largest,
        }
    content = calibrator_to_json(calibrator)
    values = ", ".join(f"{name} {value:.4f}" for name, value in content.items() if isinstance(value, float))
    counts = {"rows": calibrator.rows, "positives": calibrator.positives}
    return {"kind": content.get("kind", "platt"), "values": values or "–", **counts, "reason": calibrator.reason or "–"}


def _champion(
    spec: Spec, paths: RetrainPaths, tables: "Tables", tracking: TrackingResource, run_id: str
) -> ComparedChampion:
    """The champion in service on the test rows; none where that is this very model."""
    held = tracking.champion(spec.name)
    if held is not None and held.run_id == run_id:
        return ComparedChampion(held.version, None, "This model is the champion itself.")
    logits, obstacle = champion_logits(spec, paths, tables, tracking, held)
    return ComparedChampion(None if held is None else held.version, logits, obstacle)


def draw_plots(spec: Spec, paths: RetrainPaths, metrics: Metrics) -> dict[str, bytes]:
    """PNG images by name; they are also written into the folder of plots."""
    from ctr_pipeline.datasets import PackedDataset
    from ctr_pipeline.evaluation.plots import precision_recall_plot, reliability_plot, score_histogram
    from ctr_pipeline.evaluation.ranking_plots import gain_plot, lift_plot

    files = RetrainFiles(paths)
    labels = PackedDataset.open(paths.packed).splits["test"].labels
    logits = files.calibrated("test", [task.name for task in spec.tasks])
    bins = {task: of["test"].bins for task, of in metrics.items()}
    images = {"reliability": reliability_plot(bins, title="Reliability on the test rows")}
    ranked = {task.name: (logits[:, column], labels[:, column]) for column, task in enumerate(spec.tasks)}
    images["gain"] = gain_plot(ranked, title="Gain on the test rows")
    images["lift"] = lift_plot(ranked, title="Lift on the test rows")
    for column, task in enumerate(spec.tasks):
        name, calibrated, own = task.name, logits[:, column], labels[:, column]
        title = f"Precision and recall of {name}"
        images[f"precision_recall_{name}"] = precision_recall_plot(calibrated, own, title=title)
        images[f"scores_{name}"] = score_histogram(calibrated, own, title=f"Scores of {name} by class")
    paths.plots.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        (paths.plots / f"{name}.png").write_bytes(image)
    return images


def _numbers(metrics: Metrics, split: str) -> dict[str, float]:
    return {
        f"{split}/{task}/{name}": value for task, of in metrics.items() for name, value in of[split].numbers().items()
    }


def _evidence(
    metrics: Metrics, content: Mapping[str, Mapping[str, Any]], floor: "Floor", errors: list[str]
) -> EvaluationEvidence:
    from ctr_pipeline.evaluation import base_rate_reasons

    entropy = {task: of["test"].ne for task, of in metrics.items()}
    ratios = {
        task: (of["test"].oe.value, of["test"].oe.low, of["test"].oe.high)
        for task, of in metrics.items()
        if of["test"].oe is not None
    }
    values = {task: None if ne is None else float(ne.value) for task, ne in entropy.items()}
    return EvaluationEvidence(values, base_rate_reasons(entropy), ratios, content, floor, errors)


def test_rows(content: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task and metric on the test rows, from the metrics by task."""
    rows = []
    for task, found in content.items():
        rows.append(
            {"task": task, "metric": "positives", "value": found["positives"], RANGE: f"of {found['rows']:,} rows"}
        )
        for title, name in (TITLES | ({"GAUC": "grouped_auc"} if "grouped_auc" in found else {})).items():
            metric = found[name] or {}
            low, high = metric.get("low"), metric.get("high")
            bounds = "–" if low is None or high is None else f"{low:.3f}{NO_BREAK}–{NO_BREAK}{high:.3f}"
            rows.append({"task": task, "metric": title, "value": _three(metric.get("value")), RANGE: bounds})
    return rows


def other_rows(content: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each other way to look at the test and each task, from the metrics by way and task."""
    return [
        {
            "test": how.replace("_", " "),
            "task": task,
            **{title: _three((found[name] or {}).get("value")) for title, name in TITLES.items()},
        }
        for how, of in content.items()
        for task, found in of.items()
    ]


def split_rows(content: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each task and split."""
    return [
        {
            "task": task,
            "split": split,
            **{title: _three((found[name] or {}).get("value")) for title, name in TITLES.items() if name != "ap"},
        }
        for task, splits in content.items()
        for split, found in splits.items()
    ]


def day_rows(content: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each task and day of the test; the intervals are on the page of the run, for want of room."""
    return [
        {
            "task": task,
            "day": of["day"],
            "positives": of["positives"],
            **{title: _three((of[name] or {}).get("value")) for title, name in (("NE", "ne"), ("O/E", "oe"))},
        }
        for task, days in content.items()
        for of in days
    ]


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
