"""The trainer as its callers see it: a process with a job file, exit codes and result.json."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dagster_pipes
import psutil
import pytest

from ctr_pipeline.training.job_spec import TrainingError, TrainingJob
from ctr_pipeline.training.process import gpu_lock

ENTRY = ["-m", "ctr_pipeline.training.entry", "--job"]


def save(job: TrainingJob, **training: Any) -> Path:
    job = job.model_copy(update={"training": job.training.model_copy(update=training)})
    path = job.output / "job.json"
    job.save(path)
    return path


def start(command: list[str], **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **environment}, stderr=subprocess.PIPE, start_new_session=True
    )


def torchrun(job: TrainingJob, processes: int) -> list[str]:
    logs = job.output.parent / "torchrun"
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", f"--log-dir={logs}"]


def result_of(job: TrainingJob) -> dict[str, Any]:
    return json.loads((job.output / "result.json").read_text())


def losses_of(job: TrainingJob) -> list[float]:
    return [json.loads(line)["loss"] for line in (job.output / "steps.jsonl").read_text().splitlines()]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_runs_and_reports_through_pipes(job, tmp_path: Path) -> None:
    context = {"asset_keys": ["ranker"], "run_id": "r", "retry_number": 0, "extras": {}, "job_name": None}
    context |= dict.fromkeys(("code_version_by_asset_key", "provenance_by_asset_key", "partition_key"))
    context |= dict.fromkeys(("partition_key_range", "partition_time_window"))
    (tmp_path / "context.json").write_text(json.dumps(context))
    messages = tmp_path / "messages"
    messages.touch()
    child = start(
        [*ENTRY, str(save(job))],
        DAGSTER_PIPES_CONTEXT=dagster_pipes.encode_param({"path": str(tmp_path / "context.json")}),
        DAGSTER_PIPES_MESSAGES=dagster_pipes.encode_param({"path": str(messages)}),
    )
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 0, stderr
    result = result_of(job)
    assert result["status"] == "finished"
    assert (result["device"], result["precision"], result["processes"], result["steps"]) == ("cpu", "fp32", 1, 20)
    assert result["rows_per_second"] > 0
    assert {finding["name"] for finding in result["findings"]} >= {"nonfinite", "norm_ratio"}
    sent = [json.loads(line) for line in messages.read_text().splitlines()]
    epochs = [m["params"]["payload"]["epoch"] for m in sent if m["method"] == "report_custom_message"]
    assert epochs == [0, 1]
    assert sent[-1]["method"] == "closed"


def test_two_processes_take_the_steps_of_one(job, make_trainer) -> None:
    model = job.model.model_copy(update={"dropout": 0.0, "embedding_dropout": 0.0})
    both = job.model_copy(update={"model": model})
    # 17 batches of 58 or 59 rows: the shares of the two processes differ by a row.
    single = both.model_copy(
        update={
            "output": job.output.parent / "single",
            "training": job.training.model_copy(update={"batch_size": 61, "embedding_l2": 1e-3}),
        }
    )
    make_trainer(single).run(False)
    path = save(both, batch_size=61, embedding_l2=1e-3)
    child = start([*torchrun(both, 2), *ENTRY, str(path)])
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    assert result_of(both)["processes"] == 2
    assert losses_of(both) == pytest.approx(losses_of(single), abs=1e-6)
    found, expected = ((run.output / "validation.jsonl").read_text().splitlines()[-1] for run in (both, single))
    assert json.loads(found)["ne"] == pytest.approx(json.loads(expected)["ne"], abs=1e-6)


def test_of_two_processes_that_are_stopped_the_first_writes_the_triage(job) -> None:
    path = save(job, learning_rate=100.0, embedding_learning_rate=100.0, clip_norm=1e30)
    child = start([*torchrun(job, 2), *ENTRY, str(path)])
    _, stderr = child.communicate(timeout=120)
    assert child.returncode != 0
    result = result_of(job)
    assert (result["status"], result["processes"]) == ("stopped", 2), stderr
    triage = json.loads((job.output / "triage.json").read_text())
    assert triage["hypotheses"][0]["cause"] == "huge_lr"
    assert next(found for found in result["findings"] if found["name"] == "triage")["severity"] in ("warn", "error")
    assert not any("no triage" in warning for warning in result["warnings"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(job, number: signal.Signals) -> None:
    child = start([*ENTRY, str(save(job, epochs=100_000))])
    steps = job.output / "steps.jsonl"
    wait_for(lambda: steps.is_file() and steps.stat().st_size > 0)
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    asked = time.monotonic()
    child.send_signal(number)
    _, stderr = child.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    assert child.returncode == 128 + number, stderr
    assert result_of(job)["status"] == "cancelled"
    assert not any(process.is_running() for process in family)
    assert not (job.output / "result.partial").exists()


def test_an_interrupt_that_a_library_took_over_ends_it_cleanly(job) -> None:
    script = (
        "import sys; from ctr_pipeline.training import entry, execution\n"
        "def interrupted(*_): raise KeyboardInterrupt\n"
        "execution.execute = interrupted; sys.exit(entry.main(sys.argv[1:]))"
    )
    child = start(["-c", script, "--job", str(save(job))])
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == 128 + signal.SIGINT, stderr
    assert result_of(job)["status"] == "cancelled"
    assert b"Traceback" not in stderr


@pytest.mark.parametrize("launched", [False, True])
def test_dies_with_a_parent_that_was_killed(job, launched: bool) -> None:
    command = [*(torchrun(job, 1) if launched else []), *ENTRY, str(save(job, epochs=100_000))]
    script = f"import subprocess, sys; subprocess.run([sys.executable, *{command!r}])"
    parent = start(["-c", script])
    steps = job.output / "steps.jsonl"
    wait_for(lambda: steps.is_file() and steps.stat().st_size > 0)
    family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) == launched + 1
    parent.kill()
    parent.communicate(timeout=30)
    wait_for(lambda: not any(alive(process) for process in family), 10)


def test_wrong_jobs_have_their_own_exit_codes(job, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"dataset": "d", "output": "o", "seed": -1, "colour": "red"}')
    child = start([*ENTRY, str(wrong)])
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 2
    assert b"seed" in stderr
    assert b"colour" in stderr
    assert b"Traceback" not in stderr
    nowhere = job.model_copy(update={"dataset": tmp_path / "nowhere"})
    child = start([*ENTRY, str(save(nowhere))])
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 1
    assert b"Traceback" not in stderr
    assert result_of(nowhere)["status"] == "failed"


def test_a_bad_value_has_its_own_exit_code(job, make_packed) -> None:
    import numpy as np

    dataset = make_packed("bad", 1000)
    weights = np.load(dataset / "train" / "weights.npy")
    weights[3, 0] = np.nan
    np.save(dataset / "train" / "weights.npy", weights)
    bad = job.model_copy(update={"dataset": dataset})
    child = start([*ENTRY, str(save(bad))])
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 3, stderr
    result = result_of(bad)
    assert result["status"] == "stopped"
    assert (result["cause"]["tensor"], result["cause"]["row"]) == ("weights", 3)
    assert result["health"]["nonfinite"] == 1
    assert next(f for f in result["findings"] if f["name"] == "nonfinite")["severity"] == "error"
    assert (bad.output / "failed_step" / "step.pt").is_file()
    assert not (bad.output / "scores").exists()


def test_job_files_come_back(job, tmp_path: Path) -> None:
    job.save(tmp_path / "folder" / "job.json")
    assert TrainingJob.load(tmp_path / "folder" / "job.json") == job
    (tmp_path / "relative.json").write_text('{"dataset": "data", "output": "out", "seed": 1}')
    assert TrainingJob.load(tmp_path / "relative.json").output == tmp_path / "out"
    with pytest.raises(TrainingError, match=r"absent\.json"):
        TrainingJob.load(tmp_path / "absent.json")


def test_one_training_a_gpu() -> None:
    name = f"test-{os.getpid()}"
    with gpu_lock(name), pytest.raises(TrainingError, match="taken"), gpu_lock(name):
        pass
    with gpu_lock(name), gpu_lock(None):
        pass


def test_the_lock_of_a_gpu_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with gpu_lock("x"):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_file_that_its_holder_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    locked = fcntl.flock
    removed = []

    def remove_first(stream, operation: int) -> None:
        locked(stream, operation)
        if not removed:
            removed.append(Path(stream.name))
            removed[0].unlink()

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with gpu_lock("x"), pytest.raises(TrainingError, match="taken"), gpu_lock("x"):
        pass


def test_the_job_description_needs_no_torch() -> None:
    script = "import sys, ctr_pipeline.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
