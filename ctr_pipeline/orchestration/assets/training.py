"""`ranker`: one training, in a process of its own, as one MLflow run."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from ctr_pipeline import __version__
from ctr_pipeline.deployment.raw_logs import key_fingerprint
from ctr_pipeline.deployment.settings import PipelineSettings, model_spec_hash
from ctr_pipeline.orchestration.checks.gradient_health import BLOCKING, check_gradients, gradient_check_specs
from ctr_pipeline.orchestration.files import QUALITY_FILE, RUN_FILE, read_json, write_json
from ctr_pipeline.orchestration.fingerprints import TAG, retrain_fingerprint
from ctr_pipeline.orchestration.metadata import plots
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.resources import TrackingResource, TrainerResource
from ctr_pipeline.provenance.lineage import PROVENANCE_FILE, SPEC_FILE, provenance

LOGGED_FILES = ("steps.jsonl", "validation.jsonl", "gradients.parquet", "result.json", SPEC_FILE, PROVENANCE_FILE)


def training_assets(settings: PipelineSettings) -> list[dg.AssetsDefinition]:
    """The trained ranker."""

    @dg.asset(
        deps=["training_dataset"],
        partitions_def=daily_partitions(settings),
        check_specs=gradient_check_specs("ranker"),
        pool="gpu",
        group_name="model",
        kinds={"pytorch", "mlflow"},
        description="Multi-task ranker trained under torchrun; best epoch by validation.",
    )
    def ranker(
        context: dg.AssetExecutionContext, trainer: TrainerResource, tracking: TrackingResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        day = context.partition_key
        folder = settings.training_folder(day)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / SPEC_FILE).write_text(settings.spec_text, encoding="utf-8")
        run_id = tracking.start_run(f"{settings.spec.name} {day}", _tags(context, settings), _params(settings))
        write_json(
            folder / RUN_FILE,
            {"run_id": run_id, "tracking_uri": without_password(tracking.tracking_uri), "url": tracking.url(run_id)},
        )
        _write_job(settings, day, tracking.tracking_uri, run_id)
        with tracking.closing(run_id):
            context.log.info(f"Training; metrics go to MLflow run {run_id}")
            code, _ = trainer.run(context, folder / "job.json", {"mlflow_run_id": run_id}, settings.data_root)
            result = _result(folder, code)
            write_json(folder / PROVENANCE_FILE, provenance(settings, day, code_version(), result))
            images = _plots(settings, folder)
            tracking.log(run_id, _numbers(result), {"": folder / "result.json", "plots": folder / "plots"})
            for name in LOGGED_FILES:
                if (folder / name).is_file():
                    tracking.log(run_id, {}, {"": folder / name})
            if settings.spec.label_quality is not None:
                tracking.log(run_id, {}, {"": settings.dataset_folder(day) / QUALITY_FILE})
            checks = check_gradients("ranker", result["findings"]) if "findings" in result else []
            if (refusal := refusal_of(result)) is not None:
                yield from checks
                raise dg.Failure(refusal, metadata={"files": dg.MetadataValue.path(str(folder))}, allow_retries=False)
        url = tracking.url(run_id)
        yield dg.MaterializeResult(
            metadata={
                "mlflow_run_id": run_id,
                **({"mlflow_run": dg.MetadataValue.url(url)} if url else {}),
                "files": dg.MetadataValue.path(str(folder)),
                **{
                    key: result[key]
                    for key in (
                        "best_epoch", "best_validation_ne", "steps", "rows", "seconds", "rows_per_second",
                        "device", "precision", "model_sha256",
                    )
                    if result.get(key) is not None
                },
                "median_gradient_norm": result["health"]["median_norm"],
                **({"warnings": "; ".join(result["warnings"])} if result["warnings"] else {}),
                **plots(images),
            },
            tags={TAG: retrain_fingerprint(settings, context.instance, date.fromisoformat(day))},
            check_results=checks,
        )  # fmt: skip

    return [ranker]


def without_password(address: str) -> str:
    """An address of the tracking store as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", address)


def refusal_of(result: Mapping[str, Any]) -> str | None:
    """Why the model of a training must not be used; None when it may."""
    if result["status"] != "finished":
        return f"Training {result['status']}: {result.get('cause', {}).get('message', 'no cause was given')}"
    for finding in result["findings"]:
        if finding["name"] in BLOCKING and finding["severity"] == "error":
            return f"Training finished, but {finding['message']}"
    return None


def code_version() -> str:
    """Version of the package, and a hash of its source files: also an edited checkout is told apart."""
    package = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def _tags(context: dg.AssetExecutionContext, settings: PipelineSettings) -> dict[str, str]:
    examples = read_json(settings.dataset_folder(context.partition_key) / "examples.json", "examples")
    return {
        "dagster.run_id": context.run.run_id,
        "dagster.asset_key": "ranker",
        "dagster.partition": context.partition_key,
        "dagster.retry": str(context.retry_number),
        "dagster.job": context.run.job_name,
        "spec.name": settings.spec.name,
        "spec.hash": model_spec_hash(settings),
        "code.version": code_version(),
        "key.fingerprint": key_fingerprint(os.environ),
        **{f"delta.{table}": str(version) for table, version in examples["versions"].items()},
    }


def _params(settings: PipelineSettings) -> dict[str, Any]:
    spec = settings.spec.model_dump(mode="json")
    return {
        "seed": spec["seed"],
        **{f"{section}.{key}": value for section in ("model", "training") for key, value in spec[section].items()},
        **{f"split.{key}": json.dumps(value) for key, value in spec["split"].items()},
        "propensity.weighting": spec["propensity"]["weighting"],
        "label_quality.weighting": (spec["label_quality"] or {}).get("weighting", "none"),
        "tasks": ",".join(task["name"] for task in spec["tasks"]),
    }


def _write_job(settings: PipelineSettings, day: str, tracking_uri: str, run_id: str) -> None:
    from ctr_pipeline.spec.objectives import Binary
    from ctr_pipeline.training import MlflowTarget, TrainingJob

    spec = settings.spec
    TrainingJob(
        dataset=settings.packed_folder(day),
        output=settings.training_folder(day),
        seed=spec.seed,
        model=spec.model,
        training=spec.training,
        task_weights={task.name: task.loss_weight for task in spec.tasks},
        objectives={task.name: task.objective for task in spec.tasks if task.objective != Binary()},
        mlflow=MlflowTarget(tracking_uri=tracking_uri, run_id=run_id),
    ).save(settings.training_folder(day) / "job.json")


def _result(folder: Path, code: int) -> dict[str, Any]:
    """What the trainer wrote; a trainer that died without a word is a failure too."""
    path = folder / "result.json"
    if not path.is_file():
        return {
            "status": "failed",
            "warnings": [],
            "cause": {"message": f"the trainer ended with code {code} and wrote no result (out of memory?)"},
        }
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if code != 0 and result["status"] == "finished":
        result |= {"status": "failed", "cause": {"message": f"the trainer ended with code {code}"}}
    return result


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    chosen = ("best_epoch", "best_validation_ne", "steps", "rows", "seconds", "rows_per_second")
    numbers = {key: result[key] for key in chosen if isinstance(result.get(key), int | float)}
    health = {f"health/{k}": v for k, v in result.get("health", {}).items() if isinstance(v, int | float)}
    return {**numbers, **health}


def _plots(settings: PipelineSettings, folder: Path) -> dict[str, bytes]:
    from ctr_pipeline.evaluation.plots import gradient_norm_plot, loss_curve

    steps = _lines(folder / "steps.jsonl")
    validation = [{**record, "step": record.get("steps")} for record in _lines(folder / "validation.jsonl")]
    images = {
        "loss": loss_curve(steps, [v for v in validation if v.get("loss") is not None], title="Training loss"),
        "gradient_norm": gradient_norm_plot(steps, clip_norm=settings.spec.training.clip_norm, title="Gradient norm"),
    }
    (folder / "plots").mkdir(exist_ok=True)
    for name, image in images.items():
        (folder / "plots" / f"{name}.png").write_bytes(image)
    return images


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
