"""A training made again from what was recorded of it: `ctr reproduce`."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from ctr_pipeline.commands.report import ReportError, find_report
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.json_files import read_json
from ctr_pipeline.deployment.lock import exclusive
from ctr_pipeline.deployment.retrain_files import ExamplesView, RetrainFiles
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.build import tracking_of
from ctr_pipeline.orchestration.pipeline import execute_assets
from ctr_pipeline.orchestration.stages import RETRAIN_STEP, names
from ctr_pipeline.provenance import Lineage, code_version, environment_info
from ctr_pipeline.spec import parse_spec

FORMAT = 2

_RUN_ID = re.compile("[0-9a-f]{32}")


class ReproduceError(UserError):
    """The run cannot be reproduced; the message names what is gone."""


def reproduce_run(deployment: Deployment, run: str) -> dict[str, Any]:
    """Packs and trains again what the run was made from, in a folder of its own, and compares.

    The assets are those of the pipeline, over the tables at the recorded versions. The deployment's tables, folders,
    Dagster history and MLflow runs are only read.

    Args:
        deployment: The deployment.
        run: MLflow run id, day (YYYY-MM-DD), or ``latest``, as for ``ctr report``.

    Returns:
        ``identical``, and for arrays, model and environment what differs.

    Raises:
        ReproduceError: there is no such run, or what it was made from is gone.
        DataRootBusyError: another command is at work on the data root.
    """
    folder = deployment.paths.reproduction
    with exclusive(deployment.data_root):
        # A reproduction that was killed leaves its folder behind.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            return _reproduce(deployment, run, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _reproduce(deployment: Deployment, run: str, folder: Path) -> dict[str, Any]:
    run_id, lineage, spec_text = _recorded(deployment, run, folder)
    day, view = lineage.day, ExamplesView.from_json(lineage.examples)
    versions = view.existing_versions
    _require_versions(deployment.paths.lake, versions, lineage.first_day, date.fromisoformat(day))
    again = _temporary_deployment(deployment, spec_text, lineage, folder / "root")
    paths = again.paths.retrain(day)
    RetrainFiles(paths).write_examples(view)
    assets = names(step=RETRAIN_STEP)
    trained = assets.index("ranker")
    execute_assets(again, deployment.paths.lake, versions, assets[1:trained], day)
    made, recorded = read_json(paths.packed_manifest)["sha256"], lineage.arrays
    different = sorted(name for name in {*recorded, *made} if recorded.get(name) != made.get(name))
    result: dict[str, Any] = {}
    if not different:
        execute_assets(again, deployment.paths.lake, versions, ["ranker"], day)
        result = read_json(paths.result)
    model = {"recorded": lineage.model_sha256, "reproduced": result.get("model_sha256")}
    now = {**environment_info(), "code": code_version(), "device": result.get("device")}
    return {
        "format": FORMAT,
        "run_id": run_id,
        "day": day,
        "versions": versions,
        "identical": not different and model["recorded"] == model["reproduced"],
        "arrays": {
            "recorded": len(recorded),
            "identical": len({*recorded, *made}) - len(different),
            "different": different,
        },
        "model": model,
        "environment": [
            {"what": what, "recorded": before, "now": str(now.get(what))}
            for what, before in lineage.environment.items()
            if now.get(what) is not None and before != now[what]
        ],
    }


def _recorded(deployment: Deployment, run: str, folder: Path) -> tuple[str, Lineage, str]:
    """Id of the run, its lineage, and its spec."""
    from mlflow.exceptions import MlflowException

    if _RUN_ID.fullmatch(run):
        run_id = run
    else:
        try:
            run_id = str(find_report(run, deployment.data_root).get("mlflow", {}).get("run_id"))
        except ReportError as error:
            raise ReproduceError(str(error)) from None
    client = tracking_of(deployment, process_environment()).client()
    folder.mkdir(parents=True)
    try:
        client.get_run(run_id)
    except MlflowException:
        raise ReproduceError(f"MLflow has no run {run_id}. `ctr report latest` names the newest.") from None
    names_of_files = ("provenance.json", "spec.yaml")
    try:
        paths = [Path(client.download_artifacts(run_id, name, str(folder))) for name in names_of_files]
    except (MlflowException, OSError):
        raise ReproduceError(
            f"run {run_id} has no {' or '.join(names_of_files)} among its artifacts: it did not finish its "
            "training, or was made by a version that did not record what a reproduction needs."
        ) from None
    lineage = Lineage.from_json(read_json(paths[0]))
    if lineage.model_sha256 is None:
        raise ReproduceError(f"run {run_id} did not finish its training, so there is no model to compare with.")
    return run_id, lineage, paths[1].read_text(encoding="utf-8")


def _require_versions(lake_root: Path, versions: Mapping[str, int], first: date, last: date) -> None:
    """Refuses where a table does not have a version any more, or lost files of it.

    Raises:
        ReproduceError: names the table and the version.
    """
    from ctr_pipeline.lake import Lake, LakeError

    lake = Lake(lake_root)
    for table, version in versions.items():
        try:
            whole = all(Path(file).is_file() for file in lake.files(table, version, first, last))
        except LakeError:
            whole = False
        if not whole:
            raise ReproduceError(
                f"table {table}: version {version} is gone, or files of it are: `ctr forget` removes earlier versions "
                "with the rows of the user. The run cannot be reproduced any more."
            )


def _temporary_deployment(deployment: Deployment, spec_text: str, lineage: Lineage, root: Path) -> Deployment:
    """A deployment in a folder of its own, with the recorded spec."""
    day = date.fromisoformat(lineage.day)
    return replace(
        deployment,
        spec=parse_spec(spec_text, where="spec.yaml"),
        spec_text=spec_text,
        data_root=root,
        first_day=lineage.first_day,
        last_day=deployment.last_day and max(deployment.last_day, day),
    )
