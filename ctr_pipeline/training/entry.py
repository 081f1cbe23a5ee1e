"""The trainer's process: ``python -m ctr_pipeline.training.entry --job job.json``, alone or under torchrun.

The only module of the package that reads the environment and the clock. Exit codes: 0 finished, 1 failed, 2 wrong job
file, 3 stopped by the guard, 130 and 143 cancelled by SIGINT and SIGTERM (alone under torchrun, 0 for 1 and 3). Whatever happens, short of SIGKILL,
result.json in the output directory has the outcome.

torch is imported after the signals are set up: a process that is cancelled in its first seconds ends as properly.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctr_pipeline.spec.extensions import ExtensionError, load_extensions
from ctr_pipeline.training.job_spec import TrainingError, TrainingJob
from ctr_pipeline.training.pipes import started_by_dagster
from ctr_pipeline.training.process import StopRequest, die_with_launcher, die_with_parent

FAILED, WRONG_JOB, STOPPED = 1, 2, 3

LIBRARY_SETTINGS = {
    # Idle OpenMP threads would spin and take the cores from others.
    "GOMP_SPINCOUNT": "0",
    # cuBLAS repeats its sums in the same order only with a fixed workspace.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Environment that libraries read when they load; the user's own values win."""

_log = logging.getLogger("ctr_pipeline.training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the job file describes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ctr_pipeline.training.entry", description="Train one ranker.")
    parser.add_argument("--job", type=Path, required=True, help="the job file")
    parser.add_argument("--resume", action="store_true", help="continue from the output directory's checkpoint, if any")
    options = parser.parse_args(arguments)
    die_with_parent()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_launcher()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        load_extensions()
        job = TrainingJob.load(options.job)
    except (ExtensionError, TrainingError) as error:
        _log.error("%s", error)
        return WRONG_JOB
    rank, local_rank, world = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))
    )
    result: dict[str, Any] = {"status": "running", "warnings": [], "processes": world, "seed": job.seed}

    def write_result() -> None:
        if rank == 0:
            _write_result(job.output, result)

    def cancelled(code: int) -> None:
        result.update(status="cancelled", cause={"message": f"cancelled by signal {code - 128}"})
        write_result()

    stop = StopRequest(cancelled)
    stop.install()
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from ctr_pipeline.training.execution import ProcessContext, execute

        process = ProcessContext(
            rank=rank,
            local_rank=local_rank,
            world=world,
            under_pipes=started_by_dagster(os.environ),
            clock=time.monotonic,
            milliseconds=lambda: time.time_ns() // 1_000_000,
            cancelled=stop,
        )
        code = execute(job, options.resume, process, result)
        if result["status"] == "stopped":
            _log.error("stopped: %s", result["cause"]["message"])
    except TrainingError as error:
        _log.error("%s", error)
        result.update(status="failed", cause={"message": str(error)})
        code = FAILED
    except KeyboardInterrupt:
        stop.interrupt()
        code = FAILED
    except Exception as error:
        # A process that is told to stop takes others with it: their broken connections are no failure of their own.
        if not stop():
            result.update(status="failed", cause={"message": f"{type(error).__name__}: {error}"})
            write_result()
            raise
        code = FAILED
    if stop.exit_code is not None and result["status"] not in ("finished", "stopped"):
        cancelled(stop.exit_code)
        _log.info("cancelled")
        # Other processes may wait for this one in an operation that never completes: no orderly shutdown.
        logging.shutdown()
        os._exit(stop.exit_code)
    write_result()
    return code


def _write_result(directory: Path, result: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / "result.partial"
    partial.write_text(json.dumps(_finite(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(directory / "result.json")


def _finite(value: Any) -> Any:
    """``value`` with numbers that JSON lacks (NaN, infinities) as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value


def _exit_code(code: int) -> int:
    """The process's exit code. Alone under torchrun, a refusal that result.json explains is no crash: torchrun would
    put a page of its own on top of it. Of several processes, one that ends must take the others with it.
    """
    alone = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") == "1"
    return 0 if alone and code in (FAILED, STOPPED) else code


if __name__ == "__main__":
    sys.exit(_exit_code(main()))
