"""`ctr forget`: removes a user from everything that was made of the logs. Documented in docs/privacy.md."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from ctr_pipeline.commands.reproduce import REPEAT_FOLDER
from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.assets.datasets import EXAMPLES_FILE
from ctr_pipeline.orchestration.assets.training import without_password
from ctr_pipeline.orchestration.build import TRACKING_VARIABLE, default_tracking_uri, tracking_of
from ctr_pipeline.orchestration.files import RELEASE_FILE, RUN_FILE, write_json
from ctr_pipeline.privacy.erasing import erase_user, impressions_of, listed_users
from ctr_pipeline.privacy.forgotten_users import FORGOTTEN_TABLE, IMPRESSION, USER, forgotten, remember
from ctr_pipeline.privacy.scrub import Scrubbed, holders, scrub
from ctr_pipeline.provenance.lineage import PROVENANCE_FILE

FORMAT = 1


class ForgetError(UserError):
    """Nothing may be removed just now; the message says why."""


def forget_user(settings: PipelineSettings, hashed: str, today: date) -> dict[str, Any]:
    """Removes the user with the hash ``hashed`` from the data root, and sees to it that ingest leaves them out.

    Deletion wins over repeatability: the tables lose their earlier versions, so that no earlier training can be
    repeated. Interrupted, it is simply called again.

    Args:
        settings: The deployment.
        hashed: Hash of the user's id.
        today: Day that is noted as that of the forgetting.

    Returns:
        What was removed where, which models have learnt from the user, and which files still hold the hash.

    Raises:
        ForgetError: the Dagster page has runs at work.
        PipelineError: another command is at work on the data root.
    """
    from ctr_pipeline.commands.run import exclusive

    with exclusive(settings.data_root):
        _refuse_launched_runs(settings)
        return _forget(settings, hashed, today)


def print_forgotten(report: Mapping[str, Any], console: Console) -> None:
    """Prints what was removed for a person."""
    known = "was forgotten before" if report["known_before"] else "is left out by every later reading of the log"
    console.print(f"\nUser {report['hash']} {known}.", highlight=False)
    table = Table("table", "rows removed", "days", "old files removed")
    for name, removed in report["tables"].items():
        table.add_row(name, f"{removed['rows']:,}", str(removed["days"]), f"{removed['old_files']:,}")
    if report["tables"]:
        console.print(table)
    for what, label in (
        ("datasets", "packed datasets removed"),
        ("views", "views of table versions removed"),
        ("vocabularies", "vocabularies rewritten"),
        ("bundles", "bundles with a new manifest"),
        ("texts", "texts blanked"),
        ("databases", "databases blanked"),
    ):
        if report[what]:
            console.print(f"  {label}: {', '.join(report[what])}", highlight=False, soft_wrap=True)
    for model in report["models"]:
        console.print(
            f"  [yellow]learnt from {model['learnt_rows']} of the rows[/]: MLflow run {model['run_id']} of {model['day']}"
            + (f", version {model['version']}" if model["version"] else "")
            + (f" ({', '.join(model['aliases'])})" if model["aliases"] else ""),
            highlight=False,
            soft_wrap=True,
        )
    if not any(report[what] for what in ("tables", "datasets", "vocabularies", "texts", "databases")):
        console.print("  Nothing was stored of them.", highlight=False)
    if any(report[what] for what in ("tables", "datasets", "vocabularies")):
        console.print("Run `ctr run` to train the newest model again without the user.")
    if report["elsewhere"]:
        console.print(f"  [yellow]not searched[/]: {report['elsewhere']}", highlight=False, soft_wrap=True)
    for path in report["left"]:
        console.print(f"  [red]still holds the hash[/]: {path}", highlight=False, soft_wrap=True)


def _forget(settings: PipelineSettings, hashed: str, today: date) -> dict[str, Any]:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.lake.erasure import purge_history, tables_of
    from ctr_pipeline.sources.forgotten import digests, user_columns

    lake, columns = Lake(settings.lake_root), user_columns(settings.spec)
    known_before = digests([hashed])[0] in forgotten(lake).users
    # First of all, so that nothing comes back however this ends.
    remember(lake, USER, pl.DataFrame({"day": [today], "hash": [hashed]}))
    shown = impressions_of(lake, columns, hashed)
    remember(lake, IMPRESSION, shown.select("day", hash="impression_id").unique())
    removed = erase_user(settings.spec, lake, hashed, shown) if lake.exists("impressions") else {}
    stored = not shown.is_empty() or any(found["rows"] for found in removed.values())
    tables = [name for name in tables_of(lake) if name != FORGOTTEN_TABLE] if stored else []
    models = _models(settings, shown["ts"].to_list())
    datasets, views = _drop_datasets(settings, shown["ts"].to_list(), bool(tables))
    for folder in (settings.data_root / REPEAT_FOLDER, settings.data_root / "spill"):
        shutil.rmtree(folder, ignore_errors=True)
    scrubbed = scrub(settings.data_root, [settings.lake_root], hashed, [*columns, *listed_users(settings.spec)])
    _renew_identities(settings, scrubbed)
    # The impressions last: as long as one of their files names the user, another call finds out what is left to do.
    for name in sorted(tables, key=lambda table: (table == "impressions", table)):
        files = purge_history(lake, name)
        removed.setdefault(name, {"rows": 0, "days": 0})["old_files"] = files
    return {
        "format": FORMAT,
        "spec": settings.spec.name,
        "hash": hashed,
        "known_before": known_before,
        "impressions": shown["impression_id"].n_unique(),
        "tables": {name: {"rows": 0, "days": 0, "old_files": 0, **found} for name, found in sorted(removed.items())},
        "datasets": datasets,
        "views": views,
        "vocabularies": scrubbed.vocabularies,
        "bundles": scrubbed.bundles,
        "texts": scrubbed.texts,
        "databases": scrubbed.databases,
        "models": models,
        "elsewhere": _elsewhere(settings),
        "left": holders(settings.data_root, hashed),
    }


def _refuse_launched_runs(settings: PipelineSettings) -> None:
    """Runs of the Dagster page have processes of their own, which the lock of the commands does not stop."""
    from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

    from ctr_pipeline.commands.run import prepare_instance_home

    with dg.DagsterInstance.from_config(str(prepare_instance_home(settings))) as instance:
        running = instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))
        launched = [run for run in running if run.remote_job_origin is not None]
    if launched:
        raise ForgetError(
            f"the Dagster page has {len(launched)} runs at work, the first {launched[0].run_id}. Wait for them or "
            "cancel them: they could write what is being removed."
        )


def _bounds(dataset: Path) -> dict[str, int] | None:
    """Where the splits of a dataset begin and end; None where nothing says so any more."""
    view, manifest = dataset / EXAMPLES_FILE, dataset / "packed" / "manifest.json"
    if view.is_file():
        bounds: dict[str, int] = json.loads(view.read_text(encoding="utf-8"))["bounds"]
        return bounds
    if manifest.is_file():
        texts = json.loads(manifest.read_text(encoding="utf-8"))["bounds"]
        return {name: _microseconds(text) for name, text in texts.items()}
    return None


def _microseconds(text: str) -> int:
    since = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)


def _learnt(bounds: Mapping[str, int], times: Sequence[int]) -> int:
    """How many of the impressions at ``times`` a model with these bounds was fitted, chosen or calibrated on."""
    return sum(bounds["train_start"] <= ts < bounds["train_end"] for ts in times)


def _tested(bounds: Mapping[str, int], times: Sequence[int]) -> int:
    return sum(bounds["test_start"] <= ts < bounds["test_end"] for ts in times)


def _drop_datasets(settings: PipelineSettings, times: Sequence[int], purged: bool) -> tuple[list[str], list[str]]:
    """Removes the datasets that hold one of the impressions at ``times``, and views of versions that will be gone."""
    datasets, views = [], []
    for folder in sorted((settings.data_root / "datasets").glob("*/")):
        bounds = _bounds(folder)
        holds = bounds is None or _learnt(bounds, times) + _tested(bounds, times) > 0
        if times and holds:
            shutil.rmtree(folder)
            # Rows of the batch that a training stopped at; the folder was once called bad_step.
            for name in ("failed_step", "bad_step"):
                shutil.rmtree(settings.training_folder(folder.name) / name, ignore_errors=True)
            datasets.append(folder.name)
        elif purged and (folder / EXAMPLES_FILE).is_file():
            (folder / EXAMPLES_FILE).unlink()
            views.append(folder.name)
    return datasets, views


def _models(settings: PipelineSettings, times: Sequence[int]) -> list[dict[str, Any]]:
    """The recorded trainings that learnt from an impression at ``times``, with their versions in the registry."""
    artifacts = settings.data_root / "mlflow-artifacts"
    found: dict[str, dict[str, Any]] = {}
    for path in [
        *artifacts.glob(f"*/artifacts/{PROVENANCE_FILE}"),
        *settings.data_root.glob(f"training/*/{PROVENANCE_FILE}"),
    ]:
        run_id = path.parents[1].name if path.is_relative_to(artifacts) else _read(path.parent / RUN_FILE).get("run_id")
        facts = _read(path)
        rows = _learnt(facts["examples"]["bounds"], times)
        if run_id and rows:
            found[run_id] = {"run_id": run_id, "day": facts["day"], "learnt_rows": rows, "version": None, "aliases": []}
    for run_id, version, aliases in _registered(settings) if found else ():
        if run_id in found:
            found[run_id] |= {"version": version, "aliases": aliases}
    return sorted(found.values(), key=lambda model: (model["day"], model["run_id"]))


def _registered(settings: PipelineSettings) -> list[tuple[str, str, list[str]]]:
    """Run id, version and aliases of each registered version of the model."""
    from mlflow.exceptions import MlflowException

    client, name = tracking_of(settings).client(), settings.spec.name
    try:
        aliases: dict[str, str] = client.get_registered_model(name).aliases
    except MlflowException:
        return []
    versions = client.search_model_versions(f"name = '{name}'")
    return [
        (str(v.run_id), str(v.version), sorted(alias for alias, of in aliases.items() if str(of) == str(v.version)))
        for v in versions
    ]


def _renew_identities(settings: PipelineSettings, scrubbed: Scrubbed) -> None:
    """Writes the new digest of a rewritten bundle where the old one is noted, so that it is still known for what it is."""
    from ctr_pipeline.serving.bundle import MANIFEST

    digests: dict[str, str] = {}
    for name in scrubbed.bundles:
        bundle = settings.data_root / name
        digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
        release = bundle.parent / RELEASE_FILE
        if release.is_file():
            write_json(release, {**_read(release), "bundle_sha256": digest})
        local = _read(bundle.parent / RUN_FILE).get("run_id")
        digests[local or bundle.parents[1].name] = digest
    for run_id, version, _ in _registered(settings) if digests else ():
        if run_id in digests:
            tracking_of(settings).client().set_model_version_tag(
                settings.spec.name, version, "bundle_sha256", digests[run_id]
            )


def _elsewhere(settings: PipelineSettings) -> str | None:
    """What lies outside the data root and may hold the hash."""
    uri = os.environ.get(TRACKING_VARIABLE)
    if not uri or uri == default_tracking_uri(settings.data_root):
        return None
    return f"the artifacts of MLflow at {without_password(uri)}: delete the models named above there"


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
