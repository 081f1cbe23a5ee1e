"""The Dagster page with its daemon, and the MLflow page, as child processes on 127.0.0.1."""

import signal
import socket
import subprocess
import sys
import time

from rich.console import Console

from ctr_pipeline.deployment.bundled import bundled_file
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.paths import DataRoot
from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.build import default_tracking_uri
from ctr_pipeline.orchestration.instance import dagster_variables
from ctr_pipeline.orchestration.resources import TrackingResource

HOST = "127.0.0.1"


class PagesError(UserError):
    """The pages cannot be served."""


def page_commands(paths: DataRoot, port: int, mlflow_port: int) -> dict[str, list[str]]:
    """The command line of each server, by name."""
    workspace = ["-w", str(bundled_file("workspace.yaml"))]
    tracking = default_tracking_uri(paths)
    return {
        "webserver": [sys.executable, "-m", "dagster_webserver", "-h", HOST, "-p", str(port), *workspace],
        "daemon": [sys.executable, "-m", "dagster._daemon", "run", *workspace],
        "mlflow": [
            sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
            "--backend-store-uri", tracking, "--artifacts-destination", str(paths.mlflow_artifacts),
        ],
    }  # fmt: skip


def start_pages(paths: DataRoot, port: int, mlflow_port: int) -> dict[str, "subprocess.Popen[bytes]"]:
    """Starts the servers; each writes into its own log file in the data root.

    Raises:
        PagesError: a port is taken.
    """
    for number in (port, mlflow_port):
        if not _is_free(number):
            raise PagesError(f"port {number} of {HOST} is taken. Choose others with --port and --mlflow-port.")
    # One process makes MLflow's database before several open it.
    TrackingResource(
        tracking_uri=default_tracking_uri(paths), artifact_root="", experiment=""
    ).client().search_experiments(max_results=1)
    environment = {
        **dagster_variables(paths),
        "CTR_MLFLOW_URL": f"http://{HOST}:{mlflow_port}",
        "CTR_DAGSTER_URL": f"http://{HOST}:{port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its job runners, which serve features that are not used here, take half a core even when idle.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    logs = paths.server_logs
    logs.mkdir(parents=True, exist_ok=True)
    processes = {}
    for name, command in page_commands(paths, port, mlflow_port).items():
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


def serve_pages(deployment: Deployment, port: int, mlflow_port: int, console: Console) -> None:
    """Starts the servers, prints where they are, and stops them at Ctrl-C.

    Raises:
        PagesError: a port is taken, or a server ended by itself.
    """
    logs = deployment.paths.server_logs
    processes = start_pages(deployment.paths, port, mlflow_port)
    try:
        console.print(f"Dagster  http://{HOST}:{port}", highlight=False)
        console.print(f"MLflow   http://{HOST}:{mlflow_port}", highlight=False)
        console.print(f"Data     {deployment.data_root}; server logs in {logs}. Ctrl-C stops both.", highlight=False)
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    raise PagesError(f"the {name} ended with code {process.returncode}: see {logs / f'{name}.log'}")
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
