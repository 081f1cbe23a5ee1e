"""One job from the opened dataset to the result: device, processes, callbacks, trainer."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from ctr_pipeline.datasets import DatasetError, PackedDataset
from ctr_pipeline.datasets.packed import REFIT
from ctr_pipeline.gradients.triage.verdict import triage_finding
from ctr_pipeline.losses import LossError
from ctr_pipeline.ranker import RankerError, layout_hash
from ctr_pipeline.training.branch_stops import branch_content, stopped_by_epoch
from ctr_pipeline.training.callbacks import Callback
from ctr_pipeline.training.dataloader import Shard
from ctr_pipeline.training.distributed import ProcessGroup
from ctr_pipeline.training.job_spec import TrainingError, TrainingJob
from ctr_pipeline.training.loop import Trainer
from ctr_pipeline.training.own_triage import FILE as TRIAGE_FILE
from ctr_pipeline.training.own_triage import own_triage
from ctr_pipeline.training.pipes import pipes_report
from ctr_pipeline.training.plan import TrainingPlan, known_outcomes, plan_training
from ctr_pipeline.training.process import gpu_lock
from ctr_pipeline.training.reporting import MlflowReport, ProgressLog
from ctr_pipeline.training.run_files import RunFiles
from ctr_pipeline.training.stopping import Cancelled, Stopped
from ctr_pipeline.training.training_result import TrainingResult, health_content, result_content, with_finding

FINISHED, FAILED, STOPPED = 0, 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessContext:
    """Rank, clocks and signals of this process, read once by the process entry.

    Attributes:
        rank: This process among all.
        local_rank: This process among those of the machine; also the number of its GPU.
        world: Number of processes.
        under_pipes: Whether a Dagster step receives messages through Pipes.
        clock: Seconds from an arbitrary start.
        milliseconds: Milliseconds since 1970-01-01 UTC.
        cancelled: Whether the process was asked to stop.
    """

    rank: int
    local_rank: int
    world: int
    under_pipes: bool
    clock: Callable[[], float]
    milliseconds: Callable[[], int]
    cancelled: Callable[[], bool]


def execute(job: TrainingJob, resume: bool, process: ProcessContext, result: dict[str, Any]) -> int:
    """Train, and fill ``result`` with the content of result.json; returns the exit code.

    Raises:
        TrainingError: The job, its dataset or its checkpoint cannot be used.
    """
    try:
        with ExitStack() as stack:
            return _execute(job, resume, process, result, stack)
    except (DatasetError, LossError, RankerError) as error:
        raise TrainingError(str(error)) from error
    except Cancelled:
        return FAILED


def _execute(job: TrainingJob, resume: bool, process: ProcessContext, result: dict[str, Any], stack: ExitStack) -> int:
    device, gpu = _device(job, process.local_rank)
    stack.enter_context(gpu_lock(gpu))
    torch.set_num_threads(job.training.threads)
    torch.use_deterministic_algorithms(True)
    stack.enter_context(_processes(process.world, device))
    result |= {"device": _device_name(device), "precision": job.training.precision}
    dataset = PackedDataset.open(job.dataset).of_tasks(job.tasks)
    result["layout_sha256"] = layout_hash(dataset.layout)
    train = dataset.splits["train"]
    plan = plan_training(job.training, job.model, len(train), known_outcomes(train.labels))
    result["plan"] = asdict(plan)
    callbacks, mlflow = _callbacks(job, plan.epochs, process, stack)
    group = ProcessGroup(Shard(rank=process.rank, world=process.world), device)
    started = process.clock()
    try:
        fits = _fit(job, dataset, plan, group, process, callbacks, resume, result["warnings"])
    except Stopped as stopped:
        result.update(status="stopped", cause=stopped.cause.to_dict(), steps=stopped.health.steps)
        if stopped.bundle is not None:
            result["failed_step"] = str(stopped.bundle.relative_to(job.output))
        result |= health_content(stopped.health)
        # All processes stop together. One that ends takes the others with it, so all wait for the first one's triage.
        if group.is_first:
            found, problem = own_triage(job, dataset.layout, stopped.health, stopped.cause)
            result["warnings"] += [problem] if problem else []
            result |= with_finding(result, triage_finding(found, problem))
        group.barrier()
        return STOPPED
    finally:
        result["wall_seconds"] = round(process.clock() - started, 3)
        if mlflow is not None:
            mlflow.close()
            if mlflow.warning is not None:
                result["warnings"].append(mlflow.warning)
    result |= {"status": "finished", **result_content(*fits)}
    if job.model.branches:
        names = [branch.name for branch in job.model.branches]
        chosen = RunFiles.of(job.output).validation, names, dataset.layout.tasks, fits[0].best_epoch
        result["branches"] = branch_content(*chosen)
    if group.is_first:
        # Of several processes the others wait for this one: what is built once more would keep them waiting.
        found, problem = own_triage(job, dataset.layout, fits[0].health, build=group.is_single)
        result |= with_finding(result, triage_finding(found, problem))
    return FINISHED


def _fit(
    job: TrainingJob,
    dataset: PackedDataset,
    plan: TrainingPlan,
    group: ProcessGroup,
    process: ProcessContext,
    callbacks: list[Callback],
    resume: bool,
    warnings: list[str],
) -> tuple[TrainingResult, TrainingResult | None]:
    """The fit that chooses the epochs; and where the dataset has a part for it, one on the later rows too.

    Raises:
        Stopped: One of them met a value that is not finite.
    """
    again = REFIT in dataset.splits
    first, second = RunFiles.of(job.output), RunFiles.of_refit(job.output)
    if again:
        first = RunFiles.before_refit(job.output)
    if group.is_first and not (resume and first.checkpoint.is_file()):
        second.remove_earlier_run()
        for name in ("result.json", TRIAGE_FILE):
            (job.output / name).unlink(missing_ok=True)
    trainer = Trainer(job, dataset, plan, group, process.clock, process.cancelled, callbacks, first)
    if (warning := trainer.precision.warning()) is not None:
        warnings.append(warning)
    chosen = trainer.run(resume)
    if not again:
        return chosen, None
    # With the learning rate of the first fit up to its best epoch: to lower it to 0 by then is to learn more by heart.
    epochs = chosen.best_epoch + 1
    for callback in callbacks:
        callback.on_refit(epochs)
    stops = stopped_by_epoch(first.validation)
    trainer = Trainer(
        job, dataset, plan, group, process.clock, process.cancelled, callbacks, second, REFIT, epochs, stops
    )
    return chosen, trainer.run(resume)


def _callbacks(
    job: TrainingJob, epochs: int, process: ProcessContext, stack: ExitStack
) -> tuple[list[Callback], MlflowReport | None]:
    if process.rank:
        return [], None
    callbacks: list[Callback] = []
    if process.under_pipes:
        callbacks.append(stack.enter_context(pipes_report(epochs, process.clock)))
    else:
        callbacks.append(ProgressLog(epochs, process.clock))
    if job.mlflow is None:
        return callbacks, None
    mlflow = MlflowReport(job.mlflow, job.training.log_every, process.clock, process.milliseconds)
    return [*callbacks, mlflow], mlflow


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
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device, str(torch.cuda.get_device_properties(device).uuid)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def _processes(world: int, device: torch.device) -> Iterator[None]:
    if world == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    dist.destroy_process_group()
