"""A data root whose registry holds bundles of the shop, and a service of it under load."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ctr_pipeline.commands.release import Releases
from ctr_pipeline.deployment.deployment import Deployment
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.orchestration.assets.release import KEY_TAG
from ctr_pipeline.spec import parse_spec
from ctr_pipeline_tests.end_to_end.fixtures import free_port
from ctr_pipeline_tests.serving.shop import SPEC

CTR = Path(sys.executable).with_name("ctr")
KEY = "a key of the tests only"
DAY = date(2026, 1, 1)
NOW = datetime(2026, 2, 1, tzinfo=UTC)
BODY = json.dumps({"shared": {"device": "phone"}, "candidates": {"ad": ["a1", "a2"], "price": [1, 2.5]}}).encode()


def on_this_machine(seconds: float) -> float:
    """A time on an idle machine, as others leave it at this moment."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@dataclass(frozen=True)
class Registered:
    root: Path
    releases: Releases

    @classmethod
    def make(cls, root: Path, database: Path, spec: str = SPEC) -> "Registered":
        root.mkdir()
        shutil.copy(database, root / "mlflow.db")
        deployment = Deployment(
            spec=parse_spec(spec, "test"), spec_text=spec, spec_folder=root, data_root=root, event_inputs={},
            first_day=DAY, log_first_day=DAY,
        )  # fmt: skip
        deployment.save()
        environment = Environment.of({"HOME": str(root), "CTR_PSEUDONYM_KEY": KEY})
        return cls(root, Releases.of(deployment, environment))

    def register(self, bundle: Path, *aliases: str, **tags: str) -> str:
        """Registers a copy of a bundle as the next version."""
        from ctr_pipeline.deployment.key import key_fingerprint
        from ctr_pipeline.serving import Bundle

        registry = self.releases.registry
        run = registry.tracking.start_run("training", {"dagster.run_id": "d"}, {})
        folder = self.root / "training" / run
        shutil.copytree(bundle, folder / "bundle")
        own = {
            "bundle_sha256": Bundle.open(bundle).sha256,
            "partition": DAY.isoformat(),
            "folder": str(folder),
            KEY_TAG: key_fingerprint(self.releases.environment),
        }
        version = registry.tracking.register(registry.name, run, "bundle", own | tags)
        for alias in aliases:
            registry.tracking.client().set_registered_model_alias(registry.name, alias, version)
        return version

    def bundle_of(self, version: str) -> Path:
        return Path(self.releases.registry.version(version).tags["folder"]) / "bundle"

    def promote(self, version: str) -> None:
        self.releases.promote(self.releases.compare(version), None, NOW)

    @contextmanager
    def served(self, *options: str, port: int | None = None) -> Iterator["Service"]:
        port = port or free_port()
        log = self.root / f"serve-{port}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(CTR), "serve", "--data-root", str(self.root), "--port", str(port), *options],
                env={**os.environ, "CTR_PSEUDONYM_KEY": KEY, "HYPOTHESIS_NO_PLUGINS": "true"},
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        service = Service(port, process, log)
        try:
            service.await_answer()
            yield service
        finally:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Service:
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def await_answer(self) -> float:
        """Seconds until it answers."""
        started, seconds = time.monotonic(), on_this_machine(60)
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.get("/healthz", timeout=1)
                return time.monotonic() - started
            except OSError:
                assert time.monotonic() - started < seconds, self.log.read_text()
                time.sleep(0.02)

    def get(self, path: str, timeout: float = 10) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
            return answer.read().decode()

    def post(self, path: str, content: Any, timeout: float = 10) -> Any:
        url, headers = f"http://127.0.0.1:{self.port}{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(content).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)

    def model(self) -> dict[str, Any]:
        return json.loads(self.get("/model"))

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def workers(self) -> list[int]:
        """Processes that answer."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                # Not those that follow the registry, or fill the store of events.
                if "ctr_pipeline.commands." not in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def processor_seconds(self) -> float:
        """What listening and answering have taken so far; processes for other work are left out."""
        family = [self.process.pid, *self.workers()]
        return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in family)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@dataclass
class Load:
    """Requests of a few senders, each with a connection that it keeps."""

    port: int
    senders: int = 3
    bodies: tuple[bytes, ...] = (BODY,)
    answers: Counter[str] = field(default_factory=Counter)
    """Answers by the model's SHA-256."""
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._send, args=(at,)) for at in range(self.senders)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def await_model(self, sha256: str, seconds: float = 60) -> None:
        """Waits until every sender gets answers of this model alone."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.answers.clear()
            time.sleep(0.5)
            if set(self.answers) == {sha256}:
                return
        raise AssertionError(f"{sha256} does not answer; {self.answers}, {self.failures[:3]}")

    def percentile(self, percent: float) -> float:
        """Of the seconds of the answers."""
        return float(np.percentile(self.seconds, percent))

    def _send(self, at: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self._stop.wait(0.01):
            at += 1
            started = time.monotonic()
            try:
                body = self.bodies[at % len(self.bodies)]
                connection.request("POST", "/score", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            self.seconds.append(time.monotonic() - started)
            if answer.status != 200:
                self.failures.append(f"{answer.status} {content}")
            else:
                self.answers[content["model"]] += 1
