"""The trainer's process: ``python -m ctr_pipeline.training.job --job job.json``, alone or under torchrun.

The only place of the room that reads the environment and the clock. Exit codes: 0 finished, 1 failed, 2 wrong job
file, 3 stopped by the guard, 130 and 143 cancelled by SIGINT and SIGTERM. Whatever happens, short of SIGKILL,
result.json in the output directory says it.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

from ctr_pipeline.datasets import DatasetError, PackedDataset
from ctr_pipeline.gradients import HealthSummary, health_verdict
from ctr_pipeline.ranker import RankerError, layout_hash
from ctr_pipeline.training.distribution import Group
from ctr_pipeline.training.feeding import Shard
from ctr_pipeline.training.history import Observer
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.process import StopRequest, die_with_launcher, die_with_parent, gpu_lock
from ctr_pipeline.training.reporting import MlflowReport, PipesReport, ProgressLog
from ctr_pipeline.training.settings import TrainingError, TrainingJob
from ctr_pipeline.training.stopping import Cancelled, Stopped

FINISHED, FAILED, WRONG_JOB, STOPPED = 0, 1, 2, 3

_log = logging.getLogger("ctr_pipeline.training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the job file says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ctr_pipeline.training.job", description="Train one ranker.")
    parser.add_argument("--job", type=Path, required=True, help="the job file")
    parser.add_argument("--resume", action="store_true", help="continue from the output directory's checkpoint, if any")
    options = parser.parse_args(arguments)
    die_with_parent()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_launcher()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        job = TrainingJob.load(options.job)
    except TrainingError as error:
        _log.error("%s", error)
        return WRONG_JOB
    shard = Shard(rank=int(os.environ.get("RANK", "0")), world=int(os.environ.get("WORLD_SIZE", "1")))
    result: dict[str, Any] = {"status": "running", "warnings": [], "processes": shard.world, "seed": job.seed}

    def cancel(code: int) -> None:
        result.update(status="cancelled", cause={"message": f"cancelled by signal {code - 128}"})
        _write_result(job, shard, result)

    stop = StopRequest(cancel)
    stop.install()
    try:
        code = _train(job, shard, options.resume, stop, result)
    except Cancelled:
        code = stop.exit_code or FAILED
    except (TrainingError, DatasetError, RankerError) as error:
        _log.error("%s", error)
        result.update(status="failed", cause={"message": str(error)})
        code = FAILED
    except Exception as error:
        # A process that is told to stop takes others with it: their broken connections are no failure of their own.
        if stop.exit_code is None:
            result.update(status="failed", cause={"message": f"{type(error).__name__}: {error}"})
            _write_result(job, shard, result)
            raise
        code = stop.exit_code
    if stop.exit_code is not None and code == stop.exit_code:
        cancel(code)
        _log.info("cancelled")
        # Other processes may wait in a collective that never completes: no orderly farewell.
        logging.shutdown()
        os._exit(code)
    _write_result(job, shard, result)
    return code


def _train(job: TrainingJob, shard: Shard, resume: bool, stop: StopRequest, result: dict[str, Any]) -> int:
    with ExitStack() as stack:
        device, gpu = _device(job, int(os.environ.get("LOCAL_RANK", "0")))
        stack.enter_context(gpu_lock(gpu))
        _prepare_torch(job, device)
        stack.enter_context(_processes(shard, device))
        result |= {"device": _device_name(device), "precision": job.training.precision}
        dataset = PackedDataset.open(job.dataset)
        result["layout_sha256"] = layout_hash(dataset.layout)
        observers: list[Observer] = []
        mlflow: MlflowReport | None = None
        if shard.rank == 0:
            if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
                observers.append(PipesReport(stack.enter_context(open_dagster_pipes())))
            else:
                observers.append(ProgressLog(job.training.epochs, time.monotonic))
            if job.mlflow is not None:
                os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
                mlflow = MlflowReport(
                    job.mlflow, job.training.log_every, time.monotonic, lambda: time.time_ns() // 10**6
                )
                observers.append(mlflow)
        trainer = Trainer(job, dataset, Group(shard, device), time.monotonic, stop, observers)
        if (warning := trainer.precision.warning()) is not None:
            result["warnings"].append(warning)
        started = time.monotonic()
        try:
            done = trainer.run(resume)
        except Stopped as stopped:
            _log.error("stopped before the update: %s", stopped.cause.message)
            result.update(status="stopped", cause=stopped.cause.to_dict(), steps=stopped.health.steps)
            result |= _health(stopped.health)
            return STOPPED
        finally:
            result["wall_seconds"] = round(time.monotonic() - started, 3)
            if mlflow is not None and mlflow.warning is not None:
                result["warnings"].append(mlflow.warning)
        result.update(
            status="finished",
            best_epoch=done.best_epoch,
            best_validation_ne=done.best_validation,
            epochs=done.epochs,
            steps=done.steps,
            rows=done.rows,
            seconds=round(done.seconds, 3),
            rows_per_second=round(done.rows / done.seconds, 1) if done.seconds > 0 else None,
            model_sha256=done.model_sha256,
        )
        result |= _health(done.health)
        return FINISHED


def _health(summary: HealthSummary) -> dict[str, Any]:
    findings = [{"name": f.name, "severity": f.severity, "message": f.message} for f in health_verdict(summary)]
    return {"health": summary.to_dict(), "findings": findings}


def _device(job: TrainingJob, local_rank: int) -> tuple[torch.device, str | None]:
    """The device, and the name under which a GPU is locked."""
    if job.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError("the job asks for device cuda, but torch finds no GPU: set device to auto or cpu")
    if job.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu"), None
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"process {local_rank} has no GPU of its own: there are {torch.cuda.device_count()}; "
            "set training.processes to that number"
        )
    return torch.device("cuda", local_rank), str(torch.cuda.get_device_properties(local_rank).uuid)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _prepare_torch(job: TrainingJob, device: torch.device) -> None:
    torch.set_num_threads(job.training.threads)
    if device.type == "cuda":
        # cuBLAS repeats its sums in the same order only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(True)


@contextmanager
def _processes(shard: Shard, device: torch.device) -> Iterator[None]:
    if shard.world == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    dist.destroy_process_group()


def _write_result(job: TrainingJob, shard: Shard, result: dict[str, Any]) -> None:
    if shard.rank:
        return
    job.output.mkdir(parents=True, exist_ok=True)
    partial = job.output / "result.partial"
    partial.write_text(json.dumps(_finite(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(job.output / "result.json")


def _finite(value: Any) -> Any:
    """``value`` with numbers that JSON lacks (NaN, infinities) as text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and value - value != 0 else value


if __name__ == "__main__":
    sys.exit(main())
