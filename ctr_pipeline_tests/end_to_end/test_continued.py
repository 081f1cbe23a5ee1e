"""A training that was killed continues from its checkpoint and ends with the same bytes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ctr_pipeline_tests.end_to_end.fixtures import CTR, environment
from ctr_pipeline_tests.end_to_end.test_refused_models import SPEC, log

Ctr = Callable[..., "subprocess.CompletedProcess[str]"]
DAY = "2026-03-10"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A log, and a spec of which the training lasts some seconds with a checkpoint an epoch."""
    log().write_parquet(tmp_path / "log.parquet")
    training = {"epochs": 16, "patience": 16, "batch_size": 32, "learning_rate": 0.002}
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump({**SPEC, "training": training}), encoding="utf-8")
    return tmp_path


def command(shop: Path) -> list[str]:
    return ["run", "--spec", str(shop / "shop.yaml"), "--data-root", str(shop / "data"), "--json", str(shop / "r.json")]


def wait_for_checkpoint(shop: Path, process: "subprocess.Popen[bytes]") -> None:
    """Returns in the middle of the training, with a checkpoint behind it."""
    validation = shop / "data" / "training" / DAY / "validation.jsonl"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        if validation.is_file() and len(validation.read_bytes().splitlines()) >= 3:
            return
        time.sleep(0.01)
    raise AssertionError("no epoch ended within 180 s")


def kill_in_training(shop: Path, config_home: Path) -> None:
    """Starts `ctr run` and kills it, and only it, after some epochs; the trainer dies with it."""
    process = subprocess.Popen(
        [str(CTR), *command(shop)], env=environment(config_home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_checkpoint(shop, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 30
    while any(
        "ctr_pipeline.training.entry" in " ".join(found) and str(shop) in " ".join(found) for found in commands()
    ):
        assert time.monotonic() < deadline, "the trainer survived its parent"
        time.sleep(0.05)


def commands() -> list[list[str]]:
    return [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]


def uninterrupted(shop: Path) -> str:
    """SHA-256 of the model that the trainer makes of the same job in one go."""
    return trained_anew(shop / "data" / "training" / DAY, shop / "again")


def trained_anew(training: Path, again: Path) -> str:
    """SHA-256 of the model that the trainer makes in the new folder ``again`` of the job in ``training``."""
    job = json.loads((training / "job.json").read_text(encoding="utf-8")) | {"output": str(again), "mlflow": None}
    again.mkdir()
    (again / "job.json").write_text(json.dumps(job), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "ctr_pipeline.training.entry", "--job", str(again / "job.json")],
        check=True, capture_output=True, env={**os.environ, "GOMP_SPINCOUNT": "0"},
    )  # fmt: skip
    return str(result(again)["model_sha256"])


def result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return content


def test_a_killed_run_continues_its_training_to_the_same_bytes(shop: Path, ctr: Ctr, config_home: Path) -> None:
    kill_in_training(shop, config_home)
    training = shop / "data" / "training" / DAY
    before = len((training / "validation.jsonl").read_bytes().splitlines())

    done = ctr(*command(shop))

    assert "An earlier training of the same job was killed: continuing it" in done.stderr
    found = result(training)
    # What this process start has trained is less than the whole.
    assert 0 < found["rows"] < found["epochs"] * 3500
    assert len((training / "validation.jsonl").read_bytes().splitlines()) == found["epochs"] > before
    assert found["model_sha256"] == uninterrupted(shop)
    with sqlite3.connect(shop / "data" / "mlflow.db") as database:
        assert list(database.execute("select status from runs")) == [("FINISHED",)]
        tags = dict(database.execute("select key, value from tags"))
    assert tags["resumed"] == "true"


@pytest.mark.nightly
def test_a_killed_run_of_another_job_starts_anew(shop: Path, ctr: Ctr, config_home: Path) -> None:
    kill_in_training(shop, config_home)
    spec = yaml.safe_load((shop / "shop.yaml").read_text(encoding="utf-8"))
    spec["training"] |= {"epochs": 3, "weight_decay": 0.01}
    (shop / "shop.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = ctr(*command(shop))
    assert "continuing" not in done.stderr
    assert result(shop / "data" / "training" / DAY)["epochs"] == 3


@pytest.mark.nightly
def test_a_damaged_checkpoint_is_said_and_the_training_starts_anew(shop: Path, ctr: Ctr, config_home: Path) -> None:
    kill_in_training(shop, config_home)
    with (shop / "data" / "training" / DAY / "checkpoint.pt").open("ab") as file:
        file.write(b"x")
    done = ctr(*command(shop))
    assert "cannot be continued and starts anew: checkpoint.pt is damaged" in done.stderr
    assert result(shop / "data" / "training" / DAY)["model_sha256"] == uninterrupted(shop)


@pytest.mark.nightly
def test_a_trainer_that_dies_is_tried_once_more_and_continues(shop: Path, config_home: Path) -> None:
    process = subprocess.Popen(
        [str(CTR), *command(shop)], env=environment(config_home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait_for_checkpoint(shop, process)
    [trainer] = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "ctr_pipeline.training.entry" in child.cmdline()
    ]
    trainer.kill()
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said.decode()
    assert b"The training died and is tried once more" in said
    assert b"was killed: continuing it" in said
    assert result(shop / "data" / "training" / DAY)["model_sha256"] == uninterrupted(shop)
