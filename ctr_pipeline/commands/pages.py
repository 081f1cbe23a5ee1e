"""The Dagster page with its daemon, and the MLflow page, as child processes on 127.0.0.1."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from ctr_pipeline.commands.run import PipelineError, dagster_environment
from ctr_pipeline.deployment.settings import PipelineSettings
from ctr_pipeline.orchestration.build import (
    DAGSTER_PAGE_VARIABLE,
    TRACKING_PAGE_VARIABLE,
    default_tracking_uri,
)
from ctr_pipeline.orchestration.resources import TrackingResource

HOST = "127.0.0.1"
WORKSPACE = Path(__file__).resolve().parents[2] / "workspace.yaml"


def page_commands(settings: PipelineSettings, port: int, mlflow_port: int) -> dict[str, list[str]]:
    """The command line of each server, by name."""
    workspace = ["-w", str(WORKSPACE)] if WORKSPACE.is_file() else ["-m", "ctr_pipeline.definitions"]
    tracking = default_tracking_uri(settings.data_root)
    return {
        "webserver": [sys.executable, "-m", "dagster_webserver", "-h", HOST, "-p", str(port), *workspace],
        "daemon": [sys.executable, "-m", "dagster._daemon", "run", *workspace],
        "mlflow": [
            sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
            "--backend-store-uri", tracking, "--artifacts-destination", str(settings.data_root / "mlflow-artifacts"),
        ],
    }  # fmt: skip


def start_pages(
    settings: PipelineSettings, port: int, mlflow_port: int, logs: Path
) -> dict[str, "subprocess.Popen[bytes]"]:
    """Starts the servers; each writes into its own file below ``logs``.

    Raises:
        PipelineError: a port is taken.
    """
    for number in (port, mlflow_port):
        if not _is_free(number):
            raise PipelineError(f"port {number} of {HOST} is taken. Choose another: make ui PORT=… MLFLOW_PORT=…")
    # One process makes MLflow's database before several open it.
    TrackingResource(
        tracking_uri=default_tracking_uri(settings.data_root), artifact_root="", experiment=""
    ).client().search_experiments(max_results=1)
    environment = {
        **dagster_environment(settings),
        TRACKING_PAGE_VARIABLE: f"http://{HOST}:{mlflow_port}",
        DAGSTER_PAGE_VARIABLE: f"http://{HOST}:{port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its job runners, which serve features that are not used here, take half a core even when idle.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    logs.mkdir(parents=True, exist_ok=True)
    processes = {}
    for name, command in page_commands(settings, port, mlflow_port).items():
        with (logs / f"{name}.log").open("ab") as log:
            processes[name] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
    return processes


def stop_pages(processes: dict[str, "subprocess.Popen[bytes]"]) -> None:
    """Stops the servers and their children."""
    import psutil

    tree = []
    for process in processes.values():
        try:
            parent = psutil.Process(process.pid)
            tree += [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for member in tree:
            try:
                member.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        for process in processes.values():
            process.poll()
        _, alive = psutil.wait_procs(tree, timeout=5)
        if not alive:
            return
        tree = alive


def serve_pages(settings: PipelineSettings, port: int, mlflow_port: int, console: Console) -> None:
    """Starts the servers, says where they are, and stops them at Ctrl-C.

    Raises:
        PipelineError: a port is taken, or a server ended by itself.
    """
    logs = settings.data_root / "logs"
    processes = start_pages(settings, port, mlflow_port, logs)
    try:
        console.print(f"Dagster  http://{HOST}:{port}", highlight=False)
        console.print(f"MLflow   http://{HOST}:{mlflow_port}", highlight=False)
        console.print(f"Data     {settings.data_root}; server logs in {logs}. Ctrl-C stops both.", highlight=False)
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise PipelineError(f"the {name} ended with code {process.returncode}: see {logs / f'{name}.log'}")
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("Stopping.")
    finally:
        stop_pages(processes)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
