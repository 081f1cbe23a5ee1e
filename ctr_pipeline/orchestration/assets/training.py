"""`ranker`: one training, in a process of its own, as one MLflow run."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.failed_trainings import failure_text, keep_failure
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.retrain_files import RetrainFiles, TrainingOutcome
from ctr_pipeline.deployment.tracked_datasets import split_datasets, table_datasets
from ctr_pipeline.orchestration.assets.datasets import retrain_tags
from ctr_pipeline.orchestration.checks import check_results, check_specs
from ctr_pipeline.orchestration.checks.definition import checks_of
from ctr_pipeline.orchestration.checks.gradient_health import TrainingEvidence
from ctr_pipeline.orchestration.metadata import DIGEST_SHOWN, cell, plots, run_metadata
from ctr_pipeline.orchestration.partitions import daily_partitions
from ctr_pipeline.orchestration.prepared_training import Prepared, prepare_training, restart, run_params, source_tags
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource, TrainerResource
from ctr_pipeline.orchestration.training_failure import failure_metadata, log_failed_step
from ctr_pipeline.orchestration.user_errors import user_errors
from ctr_pipeline.provenance import Lineage, code_version, environment_info, file_digests
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
        prepared = prepare_training(deployment, paths, context, tracking)
        run_id = prepared.run_id
        with tracking.closing(run_id):
            tracking.log_datasets(run_id, datasets)
            start_model(tracking, run_id, deployment.spec, context)
            context.log.info(f"Training; metrics go to MLflow run {run_id}")
            outcome = _train(deployment, paths, context, trainer, tracking, prepared)
            write_json(paths.provenance, _lineage(deployment, paths, outcome).to_json())
            images = _plots(deployment.spec, paths)
            tracking.log(run_id, _numbers(outcome), _artifacts(deployment.spec, paths))
            tracking.tag(run_id, _triage_tag(paths))
            checks = check_results("ranker", TrainingEvidence(outcome.findings)) if outcome.findings else []
            if outcome.died and context.retry_number == 0:
                context.log.warning(f"The training died and is tried once more: {outcome.cause}")
                raise dg.RetryRequested(max_retries=1)
            if (reason := outcome.blocking_reason(blocking_findings())) is not None:
                yield from checks
                failure = keep_failure(paths, deployment.spec.name, outcome, reason)
                log_failed_step(tracking, run_id, failure, context)
                raise dg.Failure(failure_text(failure), metadata=failure_metadata(failure), allow_retries=False)
        yield dg.MaterializeResult(
            metadata={
                **run_metadata(run_id, tracking.url(run_id)),
                "files": dg.MetadataValue.path(str(paths.training)),
                **{key: cell(outcome.facts[key]) for key in SHOWN if outcome.facts.get(key) is not None},
                **{name: cell(value) for name, value in (_plan(outcome) | _refit(outcome)).items()},
                "model_sha256": str(outcome.facts["model_sha256"])[:DIGEST_SHOWN],
                "median_grad_norm": cell(outcome.facts["health"]["median_grad_norm"]),
                **({"warnings": "; ".join(outcome.warnings)} if outcome.warnings else {}),
                **plots(images),
            },
            tags=retrain_tags(deployment, context),
            check_results=checks,
        )

    return [ranker]


def _train(
    deployment: Deployment,
    paths: RetrainPaths,
    context: dg.AssetExecutionContext,
    trainer: TrainerResource,
    tracking: TrackingResource,
    prepared: Prepared,
) -> TrainingOutcome:
    """Trains, from the start where a checkpoint cannot be continued."""
    extras, root = {"mlflow_run_id": prepared.run_id}, deployment.data_root
    code, _ = trainer.run(context, paths.job, extras, root, resume=prepared.resume)
    outcome = TrainingOutcome.read(paths.result, code)
    if prepared.resume and outcome.status == "failed" and (outcome.cause or "").startswith("checkpoint.pt"):
        context.log.warning(f"The training cannot be continued and starts anew: {outcome.cause}")
        restart(deployment, paths, prepared.run_id, tracking)
        code, _ = trainer.run(context, paths.job, extras, root)
        outcome = TrainingOutcome.read(paths.result, code)
    return outcome


def blocking_findings() -> set[str]:
    """Names of the trainer's findings whose errors forbid the use of the model."""
    return {check.name for check in checks_of("ranker") if check.blocking}


def start_model(tracking: TrackingResource, run_id: str, spec: Spec, context: dg.AssetExecutionContext) -> None:
    """Names the model of a retrain as what its MLflow run makes."""
    day = context.partition_key
    tags = {"partition": day, "spec.hash": spec_hash(spec), "code.version": code_version(), **source_tags(context)}
    tracking.start_model(run_id, f"{spec.name}-{day}", MODEL_KIND, run_params(spec), tags)


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
        files=file_digests(),
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


def _triage_tag(paths: RetrainPaths) -> dict[str, str]:
    """The causes that the trainer's own triage names, for the list of MLflow's runs."""
    found = read_json(paths.training / "triage.json")
    return {"triage": ", ".join(str(h["cause"]) for h in found["hypotheses"]) or "unknown"} if found else {}


def _artifacts(spec: Spec, paths: RetrainPaths) -> list[tuple[str, Path]]:
    """Folder among the run's artifacts, and what goes there; files that the trainer did not write are left out."""
    own = ("steps.jsonl", "validation.jsonl", "gradients.parquet")
    refit = [paths.training / "refit" / name for name in own]
    files = [paths.training / name for name in own]
    files += [paths.result, paths.spec, paths.provenance, paths.training / "triage.json"]
    if spec.label_quality is not None:
        files.append(paths.advertiser_quality)
    return [
        ("plots", paths.plots),
        *(("", path) for path in files if path.is_file()),
        *(("refit", path) for path in refit if path.is_file()),
    ]


def _plots(spec: Spec, paths: RetrainPaths) -> Mapping[str, bytes]:
    from ctr_pipeline.evaluation.plots import gradient_norm_plot, loss_curve
    from ctr_pipeline.gradients.triage.left_behind import read_json_lines

    steps = read_json_lines(paths.training / "steps.jsonl")
    validation = [
        {**record, "step": record.get("steps")} for record in read_json_lines(paths.training / "validation.jsonl")
    ]
    images = {
        "loss": loss_curve(steps, [v for v in validation if v.get("loss") is not None], title="Training loss"),
        "grad_norm": gradient_norm_plot(steps, clip_norm=spec.training.clip_norm, title="Gradient norm"),
    }
    paths.plots.mkdir(exist_ok=True)
    for name, image in images.items():
        (paths.plots / f"{name}.png").write_bytes(image)
    return images
