"""`ctr serve`: the processes that serve a model."""

import gc
import ipaddress
import json
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctr_pipeline.commands.fill_events import fill_events
from ctr_pipeline.commands.follow_event_logs import FollowedLogs, refuse_unread_logs
from ctr_pipeline.commands.follow_registry import ServeError, is_usable
from ctr_pipeline.commands.serve_log import log_settings, opened_log
from ctr_pipeline.commands.serve_outcomes import watched_outcomes
from ctr_pipeline.commands.serve_store import refuse_other_features, store_of
from ctr_pipeline.commands.served_models import EndedTrials, ModelLoader, first_arms, follow_state
from ctr_pipeline.commands.serving_folder import ServingFolder
from ctr_pipeline.commands.serving_processes import run_processes
from ctr_pipeline.deployment.environment import Environment, process_environment, set_variables

if TYPE_CHECKING:
    from fastapi import FastAPI

FRESH_SECONDS = 900
"""A state that was brought up to date less than this ago is served at once, as a running service would serve it; some seconds later
the registry is read. A service that is killed again and again before it comes to that starts as quickly each time."""

START_SECONDS = 120
"""Longest time until the first model is verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What is served, and what the processes of one service have in common.

    Attributes:
        data_root: Data root whose registry is followed; with a bundle, the one whose key the bundle must have; empty for none.
        bundle: Folder of a bundle that is served in place of the registry's champion; empty for none.
        folder: Folder that the processes share; empty for a temporary one.
        limits: Fields of :class:`~ctr_pipeline.serving.http.Limits` that are not the default's.
        metrics: Folder in which the processes share their counts.
        workers: Number of processes that answer.
        store: Folder of the snapshots of history features; empty where requests hold these themselves.
        log: Where and how many requests are logged, as :func:`~ctr_pipeline.commands.serve_log.log_settings` says; empty
            for none.
        device: Fields of :class:`~ctr_pipeline.serving.gpu.DeviceSettings`; empty for the thread of the request.
        event_logs: Folder of logs from which events are read; empty for none.
    """

    data_root: str = ""
    bundle: str = ""
    folder: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    metrics: str = ""
    workers: int = 1
    store: str = ""
    log: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    event_logs: str = ""


def serve_settings(data_root: Path | None, bundle: Path | None) -> ServeSettings:
    """The settings for a data root, or for a bundle.

    Raises:
        SpecError: the data root holds nothing.
    """
    from ctr_pipeline.deployment.deployment import Deployment

    root = "" if data_root is None else str(data_root.resolve())
    if bundle is not None:
        store = "" if data_root is None else store_of(data_root)
        return ServeSettings(data_root=root, bundle=str(bundle.resolve()), store=store)
    assert data_root is not None, "one of both is given"
    deployment = Deployment.load(data_root.resolve())
    log = log_settings(deployment.spec, deployment.paths)
    return ServeSettings(data_root=root, folder=str(deployment.paths.serving), store=store_of(data_root), log=log)


def worker_service() -> "FastAPI":
    """The service of one process, as CTR_SERVE_SETTINGS describes it; warm."""
    from importlib.metadata import version

    from ctr_pipeline.serving.http import Limits, ServedModels, ServiceMetrics, build_service
    from ctr_pipeline.spec.extensions import load_extensions

    load_extensions()
    environment = process_environment()
    settings = ServeSettings(**json.loads(environment.serve_settings))
    folder = ServingFolder(Path(settings.folder))
    loader = ModelLoader(folder, environment, settings.store, settings.device)
    ended = EndedTrials(folder)
    models = ServedModels(
        first_arms(loader), processes=settings.workers, ended=lambda trial, reason: ended.end(trial.id, reason)
    )
    metrics = ServiceMetrics(Path(settings.metrics))
    log = opened_log(settings.log, environment, metrics.logged)
    outcomes = watched_outcomes(models, folder, metrics, environment) if not settings.bundle else None
    logs = Path(settings.event_logs)
    events = FollowedLogs(models, logs, metrics, outcomes) if settings.event_logs else None

    def close() -> None:
        if events is not None:
            events.stop()
        if log is not None:
            log.close()

    service = build_service(
        models,
        limits=Limits(**settings.limits),  # type: ignore[arg-type]
        token=environment.serve_token or None,
        clock=time.perf_counter,
        metrics=metrics,
        version=version("ctr-pipeline"),
        request_log=log,
        outcomes=outcomes,
        closing=close,
    )
    # What is there now stays: the collector need not look through the vocabulary while requests wait.
    gc.collect()
    gc.freeze()
    follow_state(models, loader, folder, metrics, ended)
    if events is not None:
        events.start()
    return service


def run_service(
    settings: ServeSettings, host: str, port: int, environment: Environment, ready: Callable[[str], None]
) -> None:
    """Serves until it is told to stop.

    Args:
        settings: What is served, its limits and processes.
        host: Address to listen on.
        port: Port to listen on.
        environment: Holds token and key.
        ready: Receives where the service will be.

    Raises:
        ServeError: nothing can be served, the port is taken, others could ask without a token, or no model is made of the
            events of the logs.
        StoreError: the snapshots of history features are of others than the model's.
    """
    if not environment.serve_token and not _is_own(host):
        raise ServeError(
            f"--host {host}: others could ask for scores without a token. Set CTR_SERVE_TOKEN, or listen on 127.0.0.1."
        )
    _refuse_taken(host, port)
    if settings.device.get("device") == "cuda":
        # Here it ends the command; in a process of the service it would end that process alone.
        from ctr_pipeline.serving.gpu import refuse_absent_device

        refuse_absent_device()
    with tempfile.TemporaryDirectory(prefix="ctr-serve-") as temporary:
        own = settings.folder or temporary
        metrics = _emptied(Path(own) / f"metrics-{port}")
        settings = replace(settings, folder=own, metrics=str(metrics))
        set_variables({"CTR_SERVE_SETTINGS": json.dumps(asdict(settings)), "PROMETHEUS_MULTIPROC_DIR": str(metrics)})
        with _following(settings, environment) as follower:
            state = ServingFolder(Path(own)).state()
            assert state is not None, "it is written by now"
            # Here it ends the command; in a process of the service it would end that process alone.
            refuse_other_features(settings.store, Path(state.champion.folder))
            refuse_unread_logs(settings.event_logs, settings.store, Path(state.champion.folder))
            fill_events(settings.store, settings.data_root, Path(state.champion.folder))
            version = f"version {state.champion.facts['version']}, " if "version" in state.champion.facts else ""
            ready(f"{version}{state.champion.sha256[:12]} on http://{host}:{port}")
            run_processes(host, port, settings.workers, follower.keep_alive if follower else None)
        shutil.rmtree(metrics)


def _emptied(folder: Path) -> Path:
    """An empty folder; what a service that was killed has left there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


class _Follower:
    """The process that follows the registry; started again when it ends."""

    def __init__(self, settings: ServeSettings) -> None:
        content = {name: getattr(settings, name) for name in ("folder", "data_root", "bundle")}
        self._command = [sys.executable, "-m", "ctr_pipeline.commands.follow_registry", json.dumps(content)]
        self._process = self._started()
        self._again_at = 0.0

    def _started(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def first_line(self) -> str:
        """What it writes once the first state is there, or cannot be."""
        assert self._process.stdout is not None, "it is a pipe"
        if not select.select([self._process.stdout], [], [], START_SECONDS)[0]:
            raise ServeError(f"no model was verified within {START_SECONDS} s. Is the registry at hand?")
        return self._process.stdout.readline()

    def keep_alive(self) -> None:
        """Starts it again where it has ended, at most every few seconds."""
        if self._process.poll() is not None and time.monotonic() > self._again_at:
            self._again_at = time.monotonic() + 10
            self._process = self._started()

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def _following(settings: ServeSettings, environment: Environment) -> Iterator[_Follower | None]:
    """Within it, the state is there, and is kept up to date where a registry is followed."""
    folder = ServingFolder(Path(settings.folder))
    fresh = not settings.bundle and folder.read_seconds_ago() < FRESH_SECONDS and is_usable(folder, environment)
    follower = _Follower(settings)
    try:
        if not fresh:
            line = follower.first_line()
            content: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if "error" in content:
                raise ServeError(content["error"])
            if not content:
                raise ServeError("the process that follows the registry ended; its messages are above.")
        yield None if settings.bundle else follower
    finally:
        follower.stop()


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
