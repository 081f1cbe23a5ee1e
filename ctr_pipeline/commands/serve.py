"""`ctr serve`: which model is served, and the processes that serve it."""

import gc
import ipaddress
import json
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.commands.serve_log import log_settings, opened_log
from ctr_pipeline.deployment.environment import Environment, process_environment, set_variables
from ctr_pipeline.deployment.key import KEY_NOTE, existing_pseudonymiser, key_fingerprint
from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ctr_pipeline.deployment.deployment import Deployment
    from ctr_pipeline.serving.http import ServedModel

SERVICE = "ctr_pipeline.commands.serve:worker_service"
"""What each process of the service makes."""

WARM_UP = 20
"""Times that the golden rows are scored before the first request."""

STOP_SECONDS = 10
"""Requests that are under way when the service is stopped have so long to be answered."""


class ServeError(UserError):
    """There is nothing to serve, or it must not be served so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What the processes of one service have in common.

    Attributes:
        bundle: Folder of the bundle.
        sha256: What it must be.
        facts: What else is known of the model: its version in the registry, the day that it is of.
        limits: Fields of :class:`~ctr_pipeline.serving.http.Limits` that are not the default's.
        metrics: Folder in which several processes share their counts; empty for one process.
        log: Where and how many requests are logged, as :func:`~ctr_pipeline.commands.serve_log.log_settings` says; empty
            for none.
    """

    bundle: str
    sha256: str
    facts: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    metrics: str = ""
    log: Mapping[str, Any] = field(default_factory=dict)


def champion_settings(deployment: "Deployment", environment: Environment) -> ServeSettings:
    """The champion of the registry.

    Raises:
        ServeError: there is none, or its ids were hashed with another key.
        BundleError: its files are gone or broken.
    """
    from ctr_pipeline.orchestration.assets.release import KEY_TAG, champion_bundle
    from ctr_pipeline.orchestration.build import tracking_of

    name, root = deployment.spec.name, deployment.data_root
    tracking = tracking_of(deployment, environment)
    held = tracking.champion(name)
    if held is None:
        raise ServeError(
            f"{root}: the model {name} has no champion. Run `ctr run` for this data root first, or name a bundle with --bundle."
        )
    bundle = champion_bundle(tracking, name, held)
    key = held.tags.get(KEY_TAG)
    if key is not None:
        _refuse_other_key(key, environment, f"version {held.version} of {name}")
    facts = {"version": held.version, "mlflow_run_id": held.run_id}
    day = {"snapshot": held.tags["partition"]} if "partition" in held.tags else {}
    log = log_settings(deployment.spec, deployment.paths)
    return ServeSettings(bundle=str(bundle.directory), sha256=bundle.sha256, facts=facts | day, log=log)


def bundle_settings(folder: Path, data_root: Path | None, environment: Environment) -> ServeSettings:
    """The bundle in ``folder``.

    Args:
        folder: Where its files lie.
        data_root: Where it was made; if given, the key must be the one of its tables.
        environment: Names the key.

    Raises:
        BundleError: there is none, or it is broken.
        ServeError: the key is another one.
    """
    from ctr_pipeline.serving import Bundle

    bundle = Bundle.open(folder.resolve())
    note = data_root / KEY_NOTE if data_root else None
    if note is not None and note.is_file():
        _refuse_other_key(note.read_text(encoding="ascii").strip(), environment, str(data_root))
    return ServeSettings(bundle=str(bundle.directory), sha256=bundle.sha256)


def served_model(settings: ServeSettings, environment: Environment) -> "ServedModel":
    """The opened model of the settings, with the key of the deployment where it has hashed features.

    Raises:
        ServeError: the folder holds another model by now.
        BundleError: it is broken.
        KeyMissingError: the model needs a key, and there is none.
    """
    from ctr_pipeline.serving import Bundle
    from ctr_pipeline.serving.http import ServedModel
    from ctr_pipeline.spec.extensions import load_extensions

    load_extensions()
    bundle = Bundle.open(Path(settings.bundle))
    if bundle.sha256 != settings.sha256:
        raise ServeError(f"{settings.bundle}: another model than the one that was asked for. Start `ctr serve` again.")
    hasher: Callable[[str], str] | None = None

    def pseudonym(text: str) -> str:
        assert hasher is not None, "looked up before the first request"
        return hasher(text)

    model = ServedModel.of(bundle, pseudonym, settings.facts)
    if model.hashed or settings.log:
        hasher = existing_pseudonymiser(environment).of_text
    return model


def worker_service() -> "FastAPI":
    """The service of one process, as CTR_SERVE_SETTINGS describes it; warm."""
    from importlib.metadata import version

    from ctr_pipeline.serving.http import Limits, ServiceMetrics, build_service

    environment = process_environment()
    settings = ServeSettings(**json.loads(environment.serve_settings))
    model = served_model(settings, environment)
    metrics = ServiceMetrics(Path(settings.metrics) if settings.metrics else None)
    for _ in range(WARM_UP):
        model.bundle.check_golden()
    service = build_service(
        model,
        limits=Limits(**settings.limits),  # type: ignore[arg-type]
        token=environment.serve_token or None,
        clock=time.perf_counter,
        metrics=metrics,
        version=version("ctr-pipeline"),
        request_log=opened_log(settings.log, environment, metrics.logged),
    )
    # What is there now stays: the collector need not look through the vocabulary while requests wait.
    gc.collect()
    gc.freeze()
    return service


def run_service(
    settings: ServeSettings, host: str, port: int, workers: int, environment: Environment, ready: Callable[[str], None]
) -> None:
    """Serves until it is told to stop.

    Args:
        settings: The model and its limits.
        host: Address to listen on.
        port: Port to listen on.
        workers: Processes.
        environment: Holds token and key.
        ready: Receives where the service will be.

    Raises:
        ServeError: the port is taken, or others could ask without a token.
        UserError: the model cannot be opened, or the key is missing.
    """
    import uvicorn

    if not environment.serve_token and not _is_own(host):
        raise ServeError(
            f"--host {host}: others could ask for scores without a token. Set CTR_SERVE_TOKEN, or listen on 127.0.0.1."
        )
    _refuse_taken(host, port)
    # Errors end the command here; in a process of the service they would end that process alone.
    name = served_model(settings, environment).bundle.name
    with tempfile.TemporaryDirectory(prefix="ctr-serve-") as folder:
        shared = {**asdict(settings), "metrics": folder if workers > 1 else ""}
        set_variables({"CTR_SERVE_SETTINGS": json.dumps(shared)})
        if workers > 1:
            set_variables({"PROMETHEUS_MULTIPROC_DIR": folder})
        ready(f"{name} ({settings.sha256[:12]}) on http://{host}:{port}")
        uvicorn.run(
            SERVICE, factory=True, host=host, port=port, workers=workers, loop="uvloop", http="httptools",
            access_log=False, log_level="warning", server_header=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
        )  # fmt: skip


def _refuse_other_key(fingerprint: str, environment: Environment, what: str) -> None:
    existing_pseudonymiser(environment)
    if key_fingerprint(environment) != fingerprint:
        raise ServeError(
            f"the ids of {what} were hashed with another key than the one at hand: every user would be unknown. Set "
            "CTR_PSEUDONYM_KEY or CTR_PSEUDONYM_KEY_FILE to the key of the training."
        )


def _is_own(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"{host}:{port} cannot be listened on ({error.strerror}). Choose another --port."
            ) from None
