"""Before a training: its MLflow run and job file, and whether it continues one that was killed."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.failed_trainings import keep_earlier
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.deployment.replaced_retrains import set_aside_training
from ctr_pipeline.deployment.retrain_files import RetrainFiles, TrackedRun
from ctr_pipeline.orchestration.resources import TrackingResource
from ctr_pipeline.provenance import code_version
from ctr_pipeline.provenance.checkout import checkout_commit
from ctr_pipeline.spec import Spec, spec_hash

if TYPE_CHECKING:
    from ctr_pipeline.training import TrainingJob
    from ctr_pipeline.training.job_spec import HealthLimits

UNFINISHED = {None, "running", "cancelled"}
"""Status of a training that may be continued: none was written where the process was killed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A training that may begin."""

    run_id: str
    """Its MLflow run."""
    resume: bool
    """Whether it continues from the checkpoint that lies in its folder."""


def prepare_training(
    deployment: Deployment, paths: RetrainPaths, context: dg.AssetExecutionContext, tracking: TrackingResource
) -> Prepared:
    """Starts or continues the MLflow run and writes the trainer's job.

    A training that was killed or interrupted is continued where the same job, arrays and code would train now. Else the
    folder is emptied; a failed step in it is kept elsewhere first.
    """
    identity = _identity(deployment, paths)
    if _may_continue(paths, identity):
        earlier = RetrainFiles(paths).mlflow_run()
        if tracking.continue_run(earlier.run_id, {**_dagster_tags(context), "resumed": "true"}):
            context.log.info(
                f"An earlier training of the same job was killed: continuing it, MLflow run {earlier.run_id}"
            )
            _job(deployment, paths, tracking.tracking_uri, earlier.run_id).save(paths.job)
            return Prepared(earlier.run_id, resume=True)
        run_id = _start_run(deployment, paths, context, tracking, {"resumed.from": earlier.run_id})
        context.log.info(f"Continuing the training of MLflow run {earlier.run_id}, which is gone, in run {run_id}")
        return Prepared(run_id, resume=True)
    start_anew(deployment, paths)
    write_json(paths.identity, identity)
    return Prepared(_start_run(deployment, paths, context, tracking, {}), resume=False)


def start_anew(deployment: Deployment, paths: RetrainPaths) -> None:
    """Empties the folder of the training; a finished one that is to be compared with is kept elsewhere."""
    keep_earlier(paths, deployment.spec.name)
    set_aside_training(deployment.paths, paths.day)
    shutil.rmtree(paths.training, ignore_errors=True)
    paths.training.mkdir(parents=True)
    paths.spec.write_text(deployment.spec_text, encoding="utf-8")


def restart(deployment: Deployment, paths: RetrainPaths, run_id: str, tracking: TrackingResource) -> None:
    """Empties the folder of a training that could not be continued, for the same MLflow run."""
    run = RetrainFiles(paths).mlflow_run()
    identity = _identity(deployment, paths)
    start_anew(deployment, paths)
    write_json(paths.identity, identity)
    RetrainFiles(paths).write_mlflow_run(run)
    _job(deployment, paths, tracking.tracking_uri, run_id).save(paths.job)


def without_password(address: str) -> str:
    """An address of the tracking store as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", address)


def _may_continue(paths: RetrainPaths, identity: dict[str, Any]) -> bool:
    if not (paths.checkpoint.is_file() and paths.mlflow_run.is_file() and read_json(paths.identity) == identity):
        return False
    stopped = any(step.is_dir() for step in paths.own_failed_steps)
    return read_json(paths.result).get("status") in UNFINISHED and not stopped


def _identity(deployment: Deployment, paths: RetrainPaths) -> dict[str, Any]:
    """What decides a training to the bit: its job but for where it is tracked, the packed arrays, and the code."""
    job = _job(deployment, paths, "", "").model_dump(mode="json", exclude={"mlflow"})
    arrays = json.dumps(read_json(paths.packed_manifest).get("sha256", {}), sort_keys=True)
    return {"job": job, "arrays": hashlib.sha256(arrays.encode()).hexdigest(), "code": code_version()}


def _start_run(
    deployment: Deployment,
    paths: RetrainPaths,
    context: dg.AssetExecutionContext,
    tracking: TrackingResource,
    tags: dict[str, str],
) -> str:
    spec = deployment.spec
    run_id = tracking.start_run(
        f"{spec.name} {paths.day}",
        {**source_tags(context), **_dagster_tags(context), **_content_tags(spec, paths), **tags},
        run_params(spec),
    )
    uri = tracking.tracking_uri
    RetrainFiles(paths).write_mlflow_run(
        TrackedRun(run_id=run_id, tracking_uri=without_password(uri), url=tracking.url(run_id))
    )
    _job(deployment, paths, uri, run_id).save(paths.job)
    return run_id


def _job(deployment: Deployment, paths: RetrainPaths, uri: str, run_id: str) -> "TrainingJob":
    from ctr_pipeline.spec.objectives import Binary
    from ctr_pipeline.training import MlflowTarget, TrainingJob

    spec = deployment.spec
    job = TrainingJob(
        dataset=paths.packed,
        output=paths.training,
        seed=spec.training_seed,
        model=spec.model,
        training=spec.training,
        task_weights={task.name: task.weight_in_loss for task in spec.tasks},
        objectives={task.name: task.objective for task in spec.tasks if task.objective != Binary()},
        mlflow=MlflowTarget(tracking_uri=uri, run_id=run_id),
    )
    known = {
        "health_limits": _health_limits(deployment, job),
        "last_good_steps": _last_good_steps(deployment, paths, job),
    }
    return job.model_copy(update=known)


def _health_limits(deployment: Deployment, job: "TrainingJob") -> "HealthLimits | None":
    """Limits from healthy runs of the same settings; None where there are none."""
    from ctr_pipeline.training.job_spec import HealthLimits

    content = read_json(deployment.paths.health_limits)
    if content.pop("settings", None) != job.settings_hash:
        return None
    content.pop("day", None)
    return HealthLimits.model_validate(content)


def _last_good_steps(deployment: Deployment, paths: RetrainPaths, job: "TrainingJob") -> Path | None:
    """The steps of the newest earlier training of the same settings whose model was promoted; None where there is none."""
    from ctr_pipeline.training import TrainingError, TrainingJob

    for release in reversed(deployment.paths.retrains("release.json")):
        earlier = deployment.paths.retrain(release.parent.name)
        if earlier.day >= paths.day or not read_json(release).get("promoted") or not earlier.steps.is_file():
            continue
        try:
            same = TrainingJob.load(earlier.job).settings_hash == job.settings_hash
        except TrainingError:
            # Of a version whose job file had other fields.
            continue
        if same:
            return earlier.steps
    return None


def source_tags(context: dg.AssetExecutionContext) -> dict[str, str]:
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


def run_params(spec: Spec) -> dict[str, Any]:
    """Parameters of the MLflow run and of its model."""
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
