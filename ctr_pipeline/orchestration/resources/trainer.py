"""Runs the trainer as a process of its own, or as several under torchrun, and leaves none behind."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import PipesFileContextInjector, PipesFileMessageReader, open_pipes_session
from dagster._core.pipes.client import PipesClientCompletedInvocation

from ctr_pipeline.deployment.environment import process_environment
from ctr_pipeline.engines.spill import spill_folder


class TrainerResource(dg.ConfigurableResource):
    """Starts ``ctr_pipeline.training.entry`` under Dagster Pipes; more than one process of it under torchrun.

    A cancelled step stops the whole tree: SIGINT, then SIGTERM, then SIGKILL, each after its grace time. The trainer
    itself dies with its parent, so that even a killed step process leaves no orphan.
    """

    processes: int = 1
    interrupt_grace_seconds: float = 5.0
    terminate_grace_seconds: float = 5.0

    def run(
        self,
        context: dg.AssetExecutionContext,
        job_file: Path,
        extras: Mapping[str, Any],
        data_root: Path,
        *,
        resume: bool = False,
    ) -> tuple[int, PipesClientCompletedInvocation]:
        """Trains; returns the exit code and what the trainer reported.

        Args:
            context: The step that trains.
            job_file: The trainer's job description.
            extras: Facts that the trainer may read through Pipes.
            data_root: Where torchrun and Pipes keep their files while they run. These are removed at the end, or by
                the next step that needs such a folder when this process is killed.
            resume: Continue from the checkpoint in the job's folder.
        """
        with spill_folder(data_root) as folder:
            return self._run(context, self._command(job_file, folder / "torchrun", resume), extras, folder)

    def _run(
        self, context: dg.AssetExecutionContext, command: list[str], extras: Mapping[str, Any], folder: Path
    ) -> tuple[int, PipesClientCompletedInvocation]:
        with open_pipes_session(
            context=context,
            context_injector=PipesFileContextInjector(str(folder / "context.json")),
            message_reader=PipesFileMessageReader(str(folder / "messages.jsonl")),
            extras=dict(extras),
        ) as session:
            process = subprocess.Popen(
                command,
                env={
                    # torch makes the folder of its compiler's cache although nothing is compiled.
                    "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiler"),
                    **process_environment().variables,
                    "GOMP_SPINCOUNT": "0",
                    **session.get_bootstrap_env_vars(),
                },
                start_new_session=True,
            )
            try:
                code = process.wait()
            except BaseException:
                # A cancelled step arrives here as an exception raised by a signal, whatever its class.
                context.log.info("The step was interrupted: stopping the trainer.")
                self._stop(process)
                raise
        return code, PipesClientCompletedInvocation(session)

    def _command(self, job_file: Path, logs: Path, resume: bool) -> list[str]:
        entry = ["-m", "ctr_pipeline.training.entry", "--job", str(job_file), *(["--resume"] if resume else [])]
        if self.processes == 1:
            # torchrun loads torch too, only to start one process and to wait for it.
            return [sys.executable, *entry]
        return [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}",
            # Without a folder for its logs torchrun makes one in the system's temporary directory, and leaves it.
            f"--log-dir={logs}", *entry,
        ]  # fmt: skip

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        import psutil

        tree = _tree(process.pid)
        for number, grace in (
            (signal.SIGINT, self.interrupt_grace_seconds),
            (signal.SIGTERM, self.terminate_grace_seconds),
            (signal.SIGKILL, 5.0),
        ):
            # New children may have appeared since the last look.
            tree |= _tree(process.pid)
            for member in tree:
                try:
                    member.send_signal(number)
                except psutil.NoSuchProcess:
                    continue
            deadline = time.monotonic() + grace
            while time.monotonic() < deadline:
                process.poll()  # reaps the child, which would otherwise stay as a zombie
                if not any(_alive(member) for member in tree):
                    return
                time.sleep(0.05)


def _tree(pid: int) -> set[Any]:
    import psutil

    try:
        parent = psutil.Process(pid)
        return {parent, *parent.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _alive(member: Any) -> bool:
    import psutil

    try:
        return bool(member.is_running() and member.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
