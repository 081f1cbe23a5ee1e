"""What the trainer does as a process: it dies with its parent, owns its GPU, and stops when asked."""

import ctypes
import fcntl
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from ctr_pipeline.training.job_spec import TrainingError

PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 3.0
"""After a stop request, a process that still waits for another one ends this much later."""


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends, so that no orphan keeps a GPU. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_with_launcher(every: float = 1.0) -> None:
    """Kill this process when its parent loses its own parent.

    torchrun survives the death of whoever started it; its workers notice here, and torchrun ends with them.
    """
    parent = os.getppid()
    launcher = _parent_of(parent)
    if launcher is None:
        return

    def watch() -> None:
        waiting = threading.Event()
        while not waiting.wait(every):
            if _parent_of(parent) != launcher:
                os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()


def _parent_of(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:")), None)


@contextmanager
def gpu_lock(name: str | None) -> Iterator[None]:
    """Hold the lock file of the GPU called ``name``; the kernel frees it when the process ends, however it ends.

    Raises:
        TrainingError: Another process on this machine trains on it.
    """
    if name is None:
        yield
        return
    # The one file that trainings of all data roots must agree on.
    path = Path(tempfile.gettempdir()) / f"ctr-pipeline-gpu-{name}.lock"
    with _locked(path, name):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, name: str) -> TextIO:
    """The lock file, opened and locked."""
    while True:
        stream = path.open("a", encoding="ascii")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise TrainingError(
                f"GPU {name} is taken by another training on this machine (lock file {path.name}): wait for it to end"
            ) from error
        # Its last holder may have removed it after it was opened here: then another process locks a new file.
        if path.is_file() and os.path.samestat(path.stat(), os.fstat(stream.fileno())):
            return stream
        stream.close()


class StopRequest:
    """Remembers the first SIGINT or SIGTERM.

    Args:
        before_forced_end: Called with the exit code before a process that hangs is ended by force.
    """

    def __init__(self, before_forced_end: Callable[[int], None]) -> None:
        self._before_forced_end = before_forced_end
        self.exit_code: int | None = None

    def install(self) -> None:
        """Take over both signals."""
        signal.signal(signal.SIGINT, self._receive)
        signal.signal(signal.SIGTERM, self._receive)

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.exit_code is not None

    def interrupt(self) -> None:
        """A SIGINT that a library took over and turned into KeyboardInterrupt, as Polars does while it works."""
        self._receive(signal.SIGINT, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.exit_code is not None:
            return
        self.exit_code = 128 + number
        timer = threading.Timer(GRACE_SECONDS, self._force)
        timer.daemon = True
        timer.start()

    def _force(self) -> None:
        code = self.exit_code or 1
        try:
            self._before_forced_end(code)
        finally:
            os._exit(code)
