"""`ranker`: one training, in a process of its own, as one MLflow run."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles, TrackedRun, TrainingOutcome
from ctr_pipeline.deployment.tracked_datasets import split_datasets, table_datasets
from ctr_pipeline.orchestration.assets.datasets import retrain_tags
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.definition import checks_of
from ctr_pipeline.orchestration.checks.gradient_health import TrainingEvidence
from ctr_pipeline.orchestration.metadata import DIGEST_SHOWN, cell, plots, run_metadata
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource, TrainerResource
from ctr_pipeline.orchestration.user_errors import user_errors
from ctr_pipeline.provenance import Lineage, code_version, environment_info
from ctr_pipeline.provenance.checkout import checkout_commit
from ctr_pipeline.spec import Spec, spec_hash

SHOWN = (
    "best_epoch", "best_validation_ne", "steps", "rows", "seconds", "rows_per_second", "device", "precision",
)  # fmt: skip
"""Facts of a training in the asset's metadata."""

MODEL_KIND = "multi-task ranker"
"""Type of the logged model."""

LOGGED_NUMBERS = ("best_epoch", "best_validation_ne", "steps", "rows", "seconds", "rows_per_second")


def training_assets(deployment: Deployment) -> list[dg.AssetsDefinition]:
    """The trained ranker."""

    @dg.asset(
        deps=["training_dataset"],
        partitions_def=daily_partitions(deployment),
        check_specs=check_specs("ranker"),
        pool="gpu",
        group_name="model",
        kinds={"pytorch", "mlflow"},
        description="Multi-task ranker trained in a process of its own; best epoch by validation, then fitted on later rows too.",
    )
    def ranker(
        context: dg.AssetExecutionContext, trainer: TrainerResource, tracking: TrackingResource, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        paths = deployment.paths.retrain(context.partition_key)
        with user_errors():
            view = RetrainFiles(paths).examples()
            datasets = [*split_datasets(paths.packed), *table_datasets(lake.open(), view.existing_versions)]
        run_id = _prepare(deployment, paths, context, tracking)
        with tracking.closing(run_id):
            tracking.log_datasets(run_id, datasets)
            start_model(tracking, run_id, deployment.spec, context)
            context.log.info(f"Training; metrics go to MLflow run {run_id}")
            code, _ = trainer.run(context, paths.job, {"mlflow_run_id": run_id}, deployment.data_root)
            outcome = TrainingOutcome.read(paths.result, code)
            write_json(paths.provenance, _lineage(deployment, paths, outcome).to_json())
            images = _plots(deployment.spec, paths)
            tracking.log(run_id, _numbers(outcome), _artifacts(deployment.spec, paths))
            checks = check_results("ranker", TrainingEvidence(outcome.findings)) if outcome.findings else []
            if (reason := outcome.blocking_reason(blocking_findings())) is not None:
                yield from checks
                files = {"files": dg.MetadataValue.path(str(paths.training))}
                raise dg.Failure(reason, metadata=files, allow_retries=False)
        yield dg.MaterializeResult(
            metadata={
                **run_metadata(run_id, tracking.url(run_id)),
                "files": dg.MetadataValue.path(str(paths.training)),
                **{key: cell(outcome.facts[key]) for key in SHOWN if outcome.facts.get(key) is not None},
                **{name: cell(value) for name, value in (_plan(outcome) | _refit(outcome)).items()},
                "model_sha256": str(outcome.facts["model_sha256"])[:DIGEST_SHOWN],
                "median_gradient_norm": cell(outcome.facts["health"]["median_norm"]),
                **({"warnings": "; ".join(outcome.warnings)} if outcome.warnings else {}),
                **plots(images),
            },
            tags=retrain_tags(deployment, context),
            check_results=checks,
        )

    return [ranker]


def blocking_findings() -> set[str]:
    """Names of the trainer's findings whose errors forbid the use of the model."""
    return {check.name for check in checks_of("ranker") if check.blocking}


def start_model(tracking: TrackingResource, run_id: str, spec: Spec, context: dg.AssetExecutionContext) -> None:
    """Names the model of a retrain as what its MLflow run makes."""
    day = context.partition_key
    tags = {"partition": day, "spec.hash": spec_hash(spec), "code.version": code_version(), **_source_tags(context)}
    tracking.start_model(run_id, f"{spec.name}-{day}", MODEL_KIND, _params(spec), tags)


def without_password(address: str) -> str:
    """An address of the tracking store as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", address)


def _prepare(
    deployment: Deployment, paths: RetrainPaths, context: dg.AssetExecutionContext, tracking: TrackingResource
) -> str:
    """Empties the training folder, starts the MLflow run and writes the trainer's job; the run's id."""
    from ctr_pipeline.spec.objectives import Binary
    from ctr_pipeline.training import MlflowTarget, TrainingJob

    spec = deployment.spec
    shutil.rmtree(paths.training, ignore_errors=True)
    paths.training.mkdir(parents=True)
    paths.spec.write_text(deployment.spec_text, encoding="utf-8")
    run_id = tracking.start_run(
        f"{spec.name} {paths.day}",
        {**_source_tags(context), **_dagster_tags(context), **_content_tags(spec, paths)},
        _params(spec),
    )
    uri = tracking.tracking_uri
    RetrainFiles(paths).write_mlflow_run(
        TrackedRun(run_id=run_id, tracking_uri=without_password(uri), url=tracking.url(run_id))
    )
    TrainingJob(
        dataset=paths.packed,
        output=paths.training,
        seed=spec.training_seed,
        model=spec.model,
        training=spec.training,
        task_weights={task.name: task.weight_in_loss for task in spec.tasks},
        objectives={task.name: task.objective for task in spec.tasks if task.objective != Binary()},
        mlflow=MlflowTarget(tracking_uri=uri, run_id=run_id),
    ).save(paths.job)
    return run_id


def _source_tags(context: dg.AssetExecutionContext) -> dict[str, str]:
    """What MLflow's page shows as the source of a run: the job, and the commit of a checkout; no path."""
    commit = checkout_commit()
    return {
        "mlflow.source.type": "JOB",
        "mlflow.source.name": f"ctr_pipeline {context.run.job_name}",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def _dagster_tags(context: dg.AssetExecutionContext) -> dict[str, str]:
    return {
        "dagster.run_id": context.run.run_id,
        "dagster.asset_key": "ranker",
        "dagster.partition": context.partition_key,
        "dagster.retry": str(context.retry_number),
        "dagster.job": context.run.job_name,
    }


def _content_tags(spec: Spec, paths: RetrainPaths) -> dict[str, str]:
    return {
        "spec.name": spec.name,
        "spec.hash": spec_hash(spec),
        "code.version": code_version(),
        "key.fingerprint": key_fingerprint(process_environment()),
        **{f"delta.{table}": str(version) for table, version in RetrainFiles(paths).examples().versions.items()},
    }


def _params(spec: Spec) -> dict[str, Any]:
    content = spec.model_dump(mode="json")
    return {
        "seed": content["seed"],
        **{f"{section}.{key}": value for section in ("model", "training") for key, value in content[section].items()},
        **{f"split.{key}": json.dumps(value) for key, value in content["split"].items()},
        "propensity.weighting": content["propensity"]["weighting"],
        "label_quality.weighting": (content["label_quality"] or {}).get("weighting", "none"),
        **({"impression.weight": spec.impression.weight} if spec.impression.weight is not None else {}),
        "tasks": ",".join(task["name"] for task in content["tasks"]),
        **{
            f"objective.{task['name']}": json.dumps(task["objective"])
            for task in content["tasks"]
            if "objective" in task
        },
        **({"calibration": json.dumps(content["calibration"])} if "calibration" in content else {}),
    }


def _lineage(deployment: Deployment, paths: RetrainPaths, outcome: TrainingOutcome) -> Lineage:
    facts = outcome.facts
    environment = {**environment_info(), "code": code_version(), "device": str(facts.get("device"))}
    return Lineage(
        day=paths.day,
        first_day=deployment.first_day,
        examples=RetrainFiles(paths).examples().to_json(),
        seed=deployment.spec.seed,
        spec_hash=spec_hash(deployment.spec),
        key_fingerprint=key_fingerprint(process_environment()),
        environment=environment,
        arrays=read_json(paths.packed_manifest)["sha256"],
        model_sha256=facts.get("model_sha256"),
    )


def _numbers(outcome: TrainingOutcome) -> dict[str, float]:
    facts = outcome.facts
    numbers = {key: facts[key] for key in LOGGED_NUMBERS if isinstance(facts.get(key), int | float)}
    health = {f"health/{k}": v for k, v in facts.get("health", {}).items() if isinstance(v, int | float)}
    return {**numbers, **health, **_plan(outcome), **_refit(outcome)}


def _plan(outcome: TrainingOutcome) -> dict[str, float]:
    """The settings that the training ran with, those that the spec leaves open included."""
    return {f"plan/{name}": value for name, value in outcome.facts.get("plan", {}).items()}


def _refit(outcome: TrainingOutcome) -> dict[str, float]:
    """The work of the second fit, where there was one."""
    of = outcome.facts.get("refit", {})
    return {f"refit/{name}": of[name] for name in ("epochs", "steps", "rows", "seconds") if name in of}


def _artifacts(spec: Spec, paths: RetrainPaths) -> list[tuple[str, Path]]:
    """Folder among the run's artifacts, and what goes there; files that the trainer did not write are left out."""
    own = ("steps.jsonl", "validation.jsonl", "gradients.parquet")
    refit = [paths.training / "refit" / name for name in own]
    files = [paths.training / name for name in own]
    files += [paths.result, paths.spec, paths.provenance]
    if spec.label_quality is not None:
        files.append(paths.advertiser_quality)
    return [
        ("plots", paths.plots),
        *(("", path) for path in files if path.is_file()),
        *(("refit", path) for path in refit if path.is_file()),
    ]


def _plots(spec: Spec, paths: RetrainPaths) -> Mapping[str, bytes]:
    from ctr_pipeline.evaluation.plots import gradient_norm_plot, loss_curve

    steps = _lines(paths.training / "steps.jsonl")
    validation = [{**record, "step": record.get("steps")} for record in _lines(paths.training / "validation.jsonl")]
    images = {
        "loss": loss_curve(steps, [v for v in validation if v.get("loss") is not None], title="Training loss"),
        "gradient_norm": gradient_norm_plot(steps, clip_norm=spec.training.clip_norm, title="Gradient norm"),
    }
    paths.plots.mkdir(exist_ok=True)
    for name, image in images.items():
        (paths.plots / f"{name}.png").write_bytes(image)
    return images


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
