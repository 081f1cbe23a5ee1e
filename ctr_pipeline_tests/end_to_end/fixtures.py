"""A small marketplace run once for all end-to-end tests, and the real servers on free ports."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctr_pipeline_tests.built_once import built_once
from ctr_pipeline_tests.end_to_end.copies import copy_root

CTR = Path(sys.executable).with_name("ctr")


@dataclass(frozen=True)
class Finished:
    """What a `ctr run` left behind."""

    spec: Path
    data_root: Path
    report: dict[str, Any]
    stdout: str
    stderr: str
    temporary: Path
    """The temporary directory of the run."""


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment with a configuration folder of its own, so that tests make their own key."""
    # Pandera imports Hypothesis where it is installed, which then looks for its plugins in all packages: a second a process.
    own = {"XDG_CONFIG_HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true", "HYPOTHESIS_NO_PLUGINS": "true"}
    return {**os.environ, **own, **(extra or {})}


@pytest.fixture(scope="session")
def config_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first run makes its key; one key for the whole test session, as its runs are compared."""
    return built_once(tmp_path_factory, "config", lambda _: None)


@pytest.fixture(scope="session")
def ctr(config_home: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command line as a user does."""

    def run(*arguments: object, expect: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [str(CTR), *(str(argument) for argument in arguments)],
            env=environment(config_home, {"COLUMNS": "180", **variables}),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    return run


@pytest.fixture(scope="session")
def small_spec(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """The default marketplace, smaller, with windows of days instead of weeks."""
    content = yaml.safe_load((project / "specs" / "ads.yaml").read_text(encoding="utf-8"))
    content["source"]["simulator"].update(
        days=16, sessions_per_day=1500, users=2000, queries=500, advertisers=50, ads=400, first_day="2026-01-01"
    )
    for task in content["tasks"][1:]:
        task["window"] = "2d"
    content["split"] = {"test": {"days": 2}, "calibration": {"days": 2}, "validation": {"days": 1}}
    # Enough to be surely better than the base rate in every task, which a champion has to be.
    content["training"] = {"epochs": 2, "batch_size": 512, "learning_rate": 0.003}
    text = yaml.safe_dump(content)
    folder = built_once(
        tmp_path_factory, "spec", lambda folder: (folder / "small.yaml").write_text(text, encoding="utf-8")
    )
    return folder / "small.yaml"


@pytest.fixture(scope="session")
def finished(
    small_spec: Path, ctr: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """One run of the small marketplace for the whole test session; tests that change something copy it first."""

    def run(folder: Path) -> None:
        (folder / "temporary").mkdir()
        done = ctr(
            "run", "--spec", small_spec, "--data-root", folder / "marketplace" / "data",
            "--json", folder / "report.json", TMPDIR=str(folder / "temporary"),
        )  # fmt: skip
        (folder / "stdout.txt").write_text(done.stdout, encoding="utf-8")
        (folder / "stderr.txt").write_text(done.stderr, encoding="utf-8")

    folder = built_once(tmp_path_factory, "finished", run)
    return Finished(
        spec=small_spec,
        data_root=folder / "marketplace" / "data",
        report=json.loads((folder / "report.json").read_text(encoding="utf-8")),
        stdout=(folder / "stdout.txt").read_text(encoding="utf-8"),
        stderr=(folder / "stderr.txt").read_text(encoding="utf-8"),
        temporary=folder / "temporary",
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Servers:
    """The Dagster page with its daemon, and MLflow, as `ctr ui` starts them."""

    url: str
    mlflow_url: str
    data_root: Path
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """Ends them as Ctrl-C does; nothing to do when they have ended."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Asks Dagster's GraphQL and returns the data."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            data=json.dumps({"query": text, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def launch(self, job: str, partition: str) -> str:
        """Launches a job for one partition and returns the run's id."""
        answer = self.query(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
                 ... on RunConfigValidationInvalid { errors { message } } } }""",
            p={
                "selector": {
                    "repositoryLocationName": "ctr_pipeline",
                    "repositoryName": "__repository__",
                    "jobName": job,
                },
                "runConfigData": {},
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
            },
        )["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def status(self, run_id: str) -> str:
        """The run's status."""
        answer = self.query("query($r: ID!) { runOrError(runId: $r) { ... on Run { status } } }", r=run_id)
        return str(answer["runOrError"]["status"])

    def wait(self, run_id: str, seconds: float = 180) -> str:
        """The status in which the run ends."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.status(run_id)
            if status in {"SUCCESS", "FAILURE", "CANCELED"}:
                return status
            time.sleep(0.5)
        raise AssertionError(f"run {run_id} did not end within {seconds} s: {self.status(run_id)}")


@pytest.fixture(scope="session")
def servers(
    finished: Finished, config_home: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Servers]:
    """`ctr ui` on free ports over a copy of the finished run, which tests may change."""
    data_root = copy_root(finished.data_root, tmp_path_factory.mktemp("served") / "run")
    port, mlflow_port = free_port(), free_port()
    process = subprocess.Popen(
        [str(CTR), "ui", "--spec", str(finished.spec), "--data-root", str(data_root),
         "--port", str(port), "--mlflow-port", str(mlflow_port)],
        env=environment(config_home),
    )  # fmt: skip
    servers = Servers(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{mlflow_port}", data_root, process)
    request.session.stash[STARTED] = servers
    try:
        for url in (f"{servers.url}/server_info", f"{servers.mlflow_url}/health"):
            await_url(url, process)
        yield servers
    finally:
        servers.stop()


STARTED = pytest.StashKey[Servers]()
"""In the stash of the test session: the servers that were started in this process."""


def stop_unused_servers(item: pytest.Item, following: pytest.Item | None) -> None:
    """Ends the servers after the last test that uses them: the daemon works as long as it runs."""
    uses = [isinstance(test, pytest.Function) and "servers" in test.fixturenames for test in (item, following)]
    if uses == [True, False] and STARTED in item.session.stash:
        item.session.stash[STARTED].stop()


def await_url(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, "ctr ui ended by itself"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{url} did not answer within 90 s")
