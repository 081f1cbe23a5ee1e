"""A training made again from what was recorded of it: `ctr repeat`."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.assets.datasets import EXAMPLES_FILE
from ctr_pipeline.orchestration.assets.training import code_version
from ctr_pipeline.orchestration.automation.jobs import RETRAIN
from ctr_pipeline.orchestration.files import read_json, write_json
from ctr_pipeline.orchestration.resources import LakeResource, TrackingResource
from ctr_pipeline.provenance.lineage import FORMAT, PROVENANCE_FILE, SPEC_FILE, first_day_of, surroundings

if TYPE_CHECKING:
    from ctr_pipeline.lake import Lake

REPEAT_FOLDER = "repeat"
"""Below the data root; holds one repetition while it is at work."""

_RUN_ID = re.compile("[0-9a-f]{32}")


class RepeatError(UserError):
    """The run cannot be repeated; the message says what is gone."""


class PinnedLakeResource(LakeResource):
    """Gives assets the lake as it was."""

    versions: dict[str, int]

    def open(self) -> "Lake":
        """The lake at the recorded versions; it refuses to be written."""
        from ctr_pipeline.lake.pinned import PinnedLake

        return PinnedLake(Path(self.root), self.versions)


def repeat_run(settings: PipelineSettings, run: str) -> dict[str, Any]:
    """Packs and trains again what the run was made from, in a folder of its own, and compares.

    The assets are those of the pipeline, over the tables at the recorded versions. The deployment's tables, folders,
    Dagster history and MLflow runs are only read.

    Args:
        settings: The deployment.
        run: MLflow run id, day (YYYY-MM-DD), or ``latest``, as for ``ctr report``.

    Returns:
        ``identical``, and for arrays, model and surroundings what differs.

    Raises:
        RepeatError: there is no such run, or what it was made from is gone.
        PipelineError: another command is at work on the data root.
    """
    from ctr_pipeline.commands.run import exclusive

    folder = settings.data_root / REPEAT_FOLDER
    with exclusive(settings.data_root):
        # A repetition that was killed leaves its folder behind.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            return _repeat(settings, run, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def print_repetition(report: Mapping[str, Any], console: Console) -> None:
    """Prints what a repetition found for a person."""
    model = report["model"]
    console.print(f"\nRun {report['run_id']} of {report['day']}", highlight=False)
    arrays = report["arrays"]
    console.print(f"  arrays: {arrays['identical']} of {arrays['recorded']} identical", highlight=False)
    for name in arrays["different"]:
        console.print(f"    differs: {name}", highlight=False)
    if model["repeated"] is None:
        console.print("  model: not trained again, since the arrays differ", highlight=False)
    else:
        console.print(f"  model recorded {model['recorded']}\n  model repeated {model['repeated']}", highlight=False)
    if report["surroundings"]:
        table = Table("differs", "recorded", "now")
        for found in report["surroundings"]:
            table.add_row(found["what"], found["recorded"], found["now"])
        console.print(table)
    console.print("[bold green]identical[/]" if report["identical"] else "[bold red]not identical[/]")


def _repeat(settings: PipelineSettings, run: str, folder: Path) -> dict[str, Any]:
    run_id, facts, spec_text = _recorded(settings, run, folder)
    day = facts["day"]
    versions = {name: version for name, version in facts["examples"]["versions"].items() if version is not None}
    _require_versions(settings, versions, first_day_of(facts), date.fromisoformat(day))
    again = _throwaway(settings, spec_text, facts, folder / "root")
    write_json(again.dataset_folder(day) / EXAMPLES_FILE, facts["examples"])
    trained = RETRAIN.index("ranker")
    _materialize(again, settings.lake_root, versions, RETRAIN[1:trained], day)
    made = read_json(again.packed_folder(day) / "manifest.json", "training_dataset")["sha256"]
    recorded = facts["arrays"]
    different = sorted(name for name in {*recorded, *made} if recorded.get(name) != made.get(name))
    result: dict[str, Any] = {}
    if not different:
        _materialize(again, settings.lake_root, versions, RETRAIN[trained : trained + 1], day)
        result = read_json(again.training_folder(day) / "result.json", "ranker")
    model = {"recorded": facts["model_sha256"], "repeated": result.get("model_sha256")}
    now = {**surroundings(), "code": code_version(), "device": result.get("device")}
    return {
        "format": FORMAT,
        "run_id": run_id,
        "day": day,
        "versions": versions,
        "identical": not different and model["recorded"] == model["repeated"],
        "arrays": {
            "recorded": len(recorded),
            "identical": len({*recorded, *made}) - len(different),
            "different": different,
        },
        "model": model,
        "surroundings": [
            {"what": what, "recorded": before, "now": str(now.get(what))}
            for what, before in facts["surroundings"].items()
            if now.get(what) is not None and before != now[what]
        ],
    }


def _recorded(settings: PipelineSettings, run: str, folder: Path) -> tuple[str, dict[str, Any], str]:
    """Id of the run, its provenance, and its spec."""
    from mlflow.exceptions import MlflowException

    from ctr_pipeline.commands.report import ReportError, find_report
    from ctr_pipeline.orchestration.build import tracking_of

    if _RUN_ID.fullmatch(run):
        run_id = run
    else:
        try:
            run_id = str(find_report(run, settings.data_root).get("mlflow", {}).get("run_id"))
        except ReportError as error:
            raise RepeatError(str(error)) from None
    client = tracking_of(settings).client()
    folder.mkdir(parents=True)
    try:
        client.get_run(run_id)
    except MlflowException:
        raise RepeatError(f"MLflow has no run {run_id}. `ctr report latest` names the newest.") from None
    try:
        paths = [Path(client.download_artifacts(run_id, name, str(folder))) for name in (PROVENANCE_FILE, SPEC_FILE)]
    except (MlflowException, OSError):
        raise RepeatError(
            f"run {run_id} has no {PROVENANCE_FILE} or {SPEC_FILE} among its artifacts: it did not finish its "
            "training, or was made by a version that did not record what a repetition needs."
        ) from None
    facts: dict[str, Any] = read_json(paths[0], "ranker")
    if facts.get("model_sha256") is None:
        raise RepeatError(f"run {run_id} did not finish its training, so there is no model to compare with.")
    return run_id, facts, paths[1].read_text(encoding="utf-8")


def _require_versions(settings: PipelineSettings, versions: Mapping[str, int], first: date, last: date) -> None:
    """Refuses where a table does not have a version any more, or lost files of it.

    Raises:
        RepeatError: names the table and the version.
    """
    from ctr_pipeline.lake import Lake, LakeError

    lake = Lake(settings.lake_root)
    for table, version in versions.items():
        try:
            whole = all(Path(file).is_file() for file in lake.files(table, version, first, last))
        except LakeError:
            whole = False
        if not whole:
            raise RepeatError(
                f"table {table}: version {version} is gone, or files of it are: `ctr forget` removes earlier versions "
                "with the rows of the user. The run cannot be repeated any more."
            )


def _throwaway(settings: PipelineSettings, spec_text: str, facts: dict[str, Any], root: Path) -> PipelineSettings:
    """A deployment in a folder of its own, with the recorded spec."""
    from ctr_pipeline.spec import parse_spec

    day = date.fromisoformat(facts["day"])
    return replace(
        settings,
        spec=parse_spec(spec_text, where=SPEC_FILE),
        spec_text=spec_text,
        data_root=root,
        first_day=first_day_of(facts),
        last_day=settings.last_day and max(settings.last_day, day),
    )


def _materialize(
    again: PipelineSettings, lake_root: Path, versions: dict[str, int], assets: tuple[str, ...], day: str
) -> None:
    from ctr_pipeline.commands.run import PipelineError, why
    from ctr_pipeline.orchestration.build import build_definitions

    root = again.data_root
    resources = {
        "lake": PinnedLakeResource(root=str(lake_root), versions=versions),
        "tracking": TrackingResource(
            tracking_uri=f"sqlite:///{root / 'mlflow.db'}", artifact_root=str(root / "artifacts"), experiment="repeat"
        ),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(again, resources)
            .resolve_job_def("daily_retrain")
            .execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey(asset) for asset in assets],
                partition_key=day,
                raise_on_error=False,
                run_config={"loggers": {"console": {}}},
            )
        )
    if not result.success:
        raise PipelineError(why(result))
