"""`ctr forget`: removes a user from everything that was made of the logs. Documented in docs/privacy.md."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.deployment.json_files import read_json, write_json
from ctr_pipeline.deployment.key import key_fingerprint
from ctr_pipeline.deployment.lock import exclusive
from ctr_pipeline.deployment.paths import RetrainPaths
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.build import default_tracking_uri, tracking_of
from ctr_pipeline.orchestration.instance import launched_runs
from ctr_pipeline.orchestration.prepared_training import without_password
from ctr_pipeline.privacy.erasing import erase_user, impressions_of, listed_users
from ctr_pipeline.privacy.forgotten_users import FORGOTTEN_TABLE, IMPRESSION, USER, forgotten, remember
from ctr_pipeline.privacy.scrub import Scrubbed, holders, scrub

if TYPE_CHECKING:
    from ctr_pipeline.lake import Lake

FORMAT = 2


class ForgetError(UserError):
    """Nothing may be removed just now; the message gives the reason."""


def forget_user(deployment: Deployment, hashed: str, today: date) -> dict[str, Any]:
    """Removes the user with the hash ``hashed`` from the data root, and has ingestion leave them out from now on.

    Deletion takes precedence over reproducibility: the tables lose their earlier versions, so that no earlier training can be
    reproduced. Interrupted, it is simply called again.

    Args:
        deployment: The deployment.
        hashed: Hash of the user's id.
        today: Day that is recorded as that of the forgetting.

    Returns:
        What was removed where, which models were trained on the user's rows, and which files still hold the hash.

    Raises:
        ForgetError: the Dagster page has runs at work.
        DataRootBusyError: another command is at work on the data root.
    """
    with exclusive(deployment.data_root):
        _refuse_launched_runs(deployment)
        return _forget(deployment, hashed, today)


def _forget(deployment: Deployment, hashed: str, today: date) -> dict[str, Any]:
    import polars as pl

    from ctr_pipeline.lake import Lake
    from ctr_pipeline.lake.erasure import purge_history, tables_of
    from ctr_pipeline.online.event_store import FOLDER, EventStore
    from ctr_pipeline.online.log_erasure import rename_logged_models
    from ctr_pipeline.online.snapshot_erasure import erase_from_snapshots
    from ctr_pipeline.sources.forgotten import digests, user_columns

    lake, columns = Lake(deployment.paths.lake), user_columns(deployment.spec)
    key = key_fingerprint(process_environment())
    known_before = digests([hashed])[0] in forgotten(lake, key).users
    # First, so that no row comes back wherever this is interrupted.
    remember(lake, USER, pl.DataFrame({"day": [today], "hash": [hashed]}), key)
    shown = impressions_of(lake, columns, hashed)
    remember(lake, IMPRESSION, shown.select("day", hash="impression_id").unique(), key)
    removed = erase_user(deployment.spec, lake, hashed, shown) if lake.exists("impressions") else {}
    features = [*columns, *listed_users(deployment.spec)]
    logged = _forget_requests(deployment, lake, features, hashed, shown["impression_id"].unique().to_list())
    if logged["rows"]:
        before = removed.get("serving_log", {"rows": 0, "days": 0})
        removed["serving_log"] = {"rows": before["rows"] + logged["rows"], "days": max(before["days"], logged["days"])}
    manifests = _manifests(deployment.data_root)
    stored = not shown.is_empty() or any(found["rows"] for found in removed.values())
    tables = [name for name in tables_of(lake) if name != FORGOTTEN_TABLE] if stored else []
    models = _models(deployment, shown["ts"].to_list())
    datasets, views = _drop_datasets(deployment, shown["ts"].to_list(), bool(tables))
    failed_steps = _drop_failed_steps(deployment, shown["ts"].to_list())
    # Servers copy the rewritten bundles again.
    copies = deployment.paths.serving / "bundles"
    for folder in (deployment.paths.reproduction, deployment.data_root / "spill", copies):
        shutil.rmtree(folder, ignore_errors=True)
    snapshots = erase_from_snapshots(deployment.paths.online, deployment.spec, columns, hashed)
    for folder in (deployment.paths.online / FOLDER).glob("*/"):
        EventStore(folder, deployment.spec).forget(hashed)
    aside = [deployment.paths.lake, deployment.paths.online]
    scrubbed = scrub(deployment.data_root, aside, hashed, features)
    _renew_identities(deployment, scrubbed)
    now = _manifests(deployment.data_root)
    changed = {sha: now[path] for path, sha in manifests.items() if now.get(path, sha) != sha}
    rename_logged_models(lake, deployment.paths.serving_spool, changed)
    # The impressions last: as long as one of their files names the user, another call finds out what is left to do.
    for name in sorted(tables, key=lambda table: (table == "impressions", table)):
        files = purge_history(lake, name)
        removed.setdefault(name, {"rows": 0, "days": 0})["old_files"] = files
    return {
        "format": FORMAT,
        "spec": deployment.spec.name,
        "hash": hashed,
        "known_before": known_before,
        "impressions": shown["impression_id"].n_unique(),
        "tables": {name: {"rows": 0, "days": 0, "old_files": 0, **found} for name, found in sorted(removed.items())},
        "datasets": datasets,
        "views": views,
        "failed_steps": failed_steps,
        "logged_requests": logged["requests"],
        "open_log_files": logged["open"],
        "snapshots": snapshots,
        "vocabularies": scrubbed.vocabularies,
        "bundles": scrubbed.bundles,
        "texts": scrubbed.texts,
        "databases": scrubbed.databases,
        "models": models,
        "not_searched": _not_searched(deployment),
        "remaining_files": holders(deployment.data_root, hashed),
    }


def _forget_requests(
    deployment: Deployment, lake: "Lake", features: Sequence[str], hashed: str, impressions: Sequence[str]
) -> dict[str, int]:
    """Removes the user's requests from the log: `rows` and `days` of the table, `requests` of files not fetched yet.

    `open` files are still written to by a server; they may hold further requests.
    """
    from ctr_pipeline.online.log_erasure import erase_from_log, erase_from_spool, user_rows
    from ctr_pipeline.orchestration.logged_models import logged_models

    wanted = set(_manifests(deployment.data_root).values())
    models = {
        sha: user_rows(model.bundle.layout, model.vocabulary, features, hashed)
        for sha, model in logged_models(deployment.paths, wanted).items()
    }
    requests, still_open = erase_from_spool(deployment.paths.serving_spool, impressions, models)
    return {**erase_from_log(lake, models), "requests": requests, "open": still_open}


def _manifests(root: Path) -> dict[Path, str]:
    """SHA-256 of the manifest of each bundle below the data root."""
    from ctr_pipeline.serving.bundle import MANIFEST

    found = [*root.glob(f"training/*/bundle/{MANIFEST}"), *(root / "mlflow-artifacts").rglob(MANIFEST)]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _refuse_launched_runs(deployment: Deployment) -> None:
    """Runs of the Dagster page have processes of their own, which the lock of the commands does not stop."""
    launched = launched_runs(deployment.paths)
    if launched:
        raise ForgetError(
            f"the Dagster page has {len(launched)} runs at work, the first {launched[0]}. Wait for them or "
            "cancel them: they could write what is being removed."
        )


def _bounds(paths: RetrainPaths) -> Mapping[str, Any] | None:
    """Where the splits of a dataset begin and end; None where no file holds that any more."""
    if paths.examples.is_file():
        bounds: dict[str, Any] = read_json(paths.examples)["bounds"]
        return bounds
    if paths.packed_manifest.is_file():
        described: dict[str, Any] = read_json(paths.packed_manifest)["bounds"]
        return described
    return None


def _instant(found: str | int) -> int:
    """Microseconds since 1970-01-01 UTC: views hold these, manifests ISO 8601 text."""
    if isinstance(found, int):
        return found
    return (datetime.fromisoformat(found) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _training_rows(bounds: Mapping[str, Any], times: Sequence[int]) -> int:
    """How many of the impressions at ``times`` a model with these bounds was fitted, chosen or calibrated on."""
    # Models of before tasks had parts of their own: one set of parts for all, whose last bound had another name.
    parts = bounds.get("tasks", {"all": bounds}).values()
    start = min(_instant(of["train_start"]) for of in parts)
    end = max(_instant(of["settled_end"] if "settled_end" in of else of["train_end"]) for of in parts)
    return sum(start <= ts < end for ts in times)


def _tested(bounds: Mapping[str, Any], times: Sequence[int]) -> int:
    start, end = _instant(bounds["test_start"]), _instant(bounds["test_end"])
    return sum(start <= ts < end for ts in times)


def _drop_datasets(deployment: Deployment, times: Sequence[int], purged: bool) -> tuple[list[str], list[str]]:
    """Removes the datasets that hold one of the impressions at ``times``, and views of versions that will be gone."""
    datasets: set[str] = set()
    views: set[str] = set()
    root = deployment.data_root
    for folder in sorted([*root.glob("datasets/*/"), *root.glob("replaced/datasets/*/")]):
        paths = RetrainPaths(folder, folder.parents[1] / "training" / folder.name)
        bounds = _bounds(paths)
        holds = bounds is None or _training_rows(bounds, times) + _tested(bounds, times) > 0
        if times and holds:
            shutil.rmtree(folder)
            datasets.add(folder.name)
        elif purged and paths.examples.is_file():
            paths.examples.unlink()
            views.add(folder.name)
    return sorted(datasets), sorted(views)


def _drop_failed_steps(deployment: Deployment, times: Sequence[int]) -> list[str]:
    """Removes the batches that trainings stopped at, with their copies in MLflow, where one may hold an impression at ``times``.

    Such a batch names no impression, its dataset may be gone, and the day may have been split otherwise since. A training
    reads no row of a later day than its own: those from the user's first day on are removed.
    """
    if not times:
        return []
    first, root = datetime.fromtimestamp(min(times) / 1e6, UTC).date().isoformat(), deployment.data_root
    dropped = []
    for day in sorted({folder.name for kind in ("training", "failed_trainings") for folder in root.glob(f"{kind}/*/")}):
        paths = deployment.paths.retrain(day)
        for step in paths.failed_steps if day >= first else ():
            kept = step.parent.parent == paths.failures
            run_id = step.parent.name if kept else str(read_json(paths.mlflow_run).get("run_id", ""))
            copy = deployment.paths.mlflow_artifacts / run_id / "artifacts" / "failed_step"
            for folder in (step, *((copy,) if run_id else ())):
                if folder.is_dir():
                    shutil.rmtree(folder)
                    dropped.append(folder.relative_to(root).as_posix())
    return dropped


def _models(deployment: Deployment, times: Sequence[int]) -> list[dict[str, Any]]:
    """The recorded trainings that used an impression at ``times``, with their versions in the registry."""
    artifacts = deployment.paths.mlflow_artifacts
    found: dict[str, dict[str, Any]] = {}
    for path in [*artifacts.glob("*/artifacts/provenance.json"), *deployment.paths.retrains("provenance.json")]:
        local = deployment.paths.retrain(path.parent.name).mlflow_run
        run_id = path.parents[1].name if path.is_relative_to(artifacts) else read_json(local).get("run_id")
        facts = read_json(path)
        rows = _training_rows(facts["examples"]["bounds"], times)
        if run_id and rows:
            found[run_id] = {
                "run_id": run_id,
                "day": facts["day"],
                "training_rows": rows,
                "version": None,
                "aliases": [],
            }
    for run_id, version, aliases in _registered(deployment) if found else ():
        if run_id in found:
            found[run_id] |= {"version": version, "aliases": aliases}
    return sorted(found.values(), key=lambda model: (model["day"], model["run_id"]))


def _registered(deployment: Deployment) -> list[tuple[str, str, list[str]]]:
    """Run id, version and aliases of each registered version of the model."""
    from mlflow.exceptions import MlflowException

    client, name = tracking_of(deployment, process_environment()).client(), deployment.spec.name
    try:
        aliases: dict[str, str] = client.get_registered_model(name).aliases
    except MlflowException:
        return []
    versions = client.search_model_versions(f"name = '{name}'")
    return [
        (str(v.run_id), str(v.version), sorted(alias for alias, of in aliases.items() if str(of) == str(v.version)))
        for v in versions
    ]


def _renew_identities(deployment: Deployment, scrubbed: Scrubbed) -> None:
    """Writes the new digest of a rewritten bundle where the old one is recorded, so that it is still recognised."""
    from ctr_pipeline.serving.bundle import MANIFEST

    digests: dict[str, str] = {}
    for name in scrubbed.bundles:
        bundle = deployment.data_root / name
        digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
        release = bundle.parent / "release.json"
        if release.is_file():
            write_json(release, {**read_json(release), "bundle_sha256": digest})
        digests[_run_of_bundle(deployment, bundle)] = digest
    for run_id, version, _ in _registered(deployment) if digests else ():
        if run_id in digests:
            tracking_of(deployment, process_environment()).client().set_model_version_tag(
                deployment.spec.name, version, "bundle_sha256", digests[run_id]
            )


def _run_of_bundle(deployment: Deployment, bundle: Path) -> str:
    """Id of the MLflow run whose model the bundle is: in a training's folder, a logged model's, or a run's artifacts."""
    local = read_json(bundle.parent / "run.json").get("run_id")
    if local:
        return str(local)
    if bundle.parents[1] == deployment.paths.mlflow_artifacts / "models":
        client = tracking_of(deployment, process_environment()).client()
        return str(client.get_logged_model(bundle.parent.name).source_run_id)
    return bundle.parents[1].name


def _not_searched(deployment: Deployment) -> str | None:
    """What lies outside the data root and may hold the hash."""
    uri = process_environment().tracking_uri
    if not uri or uri == default_tracking_uri(deployment.paths):
        return None
    return (
        f"the artifacts of MLflow at {without_password(uri)}: delete the models named above there, and `failed_step` of the "
        "runs of failed trainings"
    )
