"""`ctr serve` as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr_pipeline.commands.follow_registry import ServeError
from ctr_pipeline.commands.serve import run_service, serve_settings
from ctr_pipeline.commands.served_models import served_model
from ctr_pipeline.deployment.environment import Environment
from ctr_pipeline.serving import Bundle, BundleError
from ctr_pipeline.serving.release import ServedVersion

CTR = Path(sys.executable).with_name("ctr")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, path: str, content: Any = None, token: str = "secret") -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=None if content is None else json.dumps(content).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def awaited(port: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            ask(port, "/healthz")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("it did not answer within 60 s")


def test_the_command_serves_a_bundle_until_it_is_told_to_stop(bundle: Bundle) -> None:
    port = free_port()
    process = subprocess.Popen(
        [str(CTR), "serve", "--bundle", str(bundle.directory), "--port", str(port), "--candidates", "2"],
        env={**os.environ, "CTR_SERVE_TOKEN": "secret"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        awaited(port, process)
        row = {"ad": "a1", "price": 3}
        status, answer = ask(port, "/score", {"shared": row})
        assert (status, answer["model"]) == (200, bundle.sha256)
        expected = bundle.score(*bundle.encode([row])).probabilities[0]
        np.testing.assert_allclose([answer["scores"][task][0] for task in bundle.tasks], expected, rtol=0, atol=1e-6)
        assert ask(port, "/score", {"candidates": {"price": [1, 2, 3]}})[0] == 413
        assert ask(port, "/score", {"shared": row}, token="other")[0] == 401
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert bundle.sha256[:12] in stdout
    assert (stderr, "secret" in stdout) == ("", False)


def test_what_must_not_be_served_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    environment = Environment.of({"HOME": str(tmp_path)})
    settings = serve_settings(None, bundle.directory)
    with pytest.raises(ServeError, match="CTR_SERVE_TOKEN"):
        run_service(settings, "0.0.0.0", free_port(), environment, print)
    with pytest.raises(BundleError, match="another model"):
        served_model(ServedVersion(folder=str(bundle.directory), sha256="0" * 64), environment)
    with pytest.raises(ServeError, match="no bundle here"):
        run_service(serve_settings(None, tmp_path), "127.0.0.1", free_port(), environment, print)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServeError, match="--port"):
            run_service(settings, "127.0.0.1", taken.getsockname()[1], environment, print)
