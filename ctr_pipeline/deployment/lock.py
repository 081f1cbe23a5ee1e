"""One command at a time works on a data root."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctr_pipeline.errors import UserError


class DataRootBusyError(UserError):
    """Another command works on the data root."""


@contextmanager
def exclusive(data_root: Path) -> Iterator[None]:
    """Keeps other commands off the data root until the end of the block.

    Raises:
        DataRootBusyError: one works there already.
    """
    data_root.mkdir(parents=True, exist_ok=True)
    with (data_root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataRootBusyError(
                f"{data_root}: another run is at work there. Wait for it, or use --data-root."
            ) from error
        yield


@contextmanager
def one_at_a_time(file: Path, seconds: float) -> Iterator[None]:
    """Waits until no other command is within such a block.

    Args:
        file: The lock; made when absent.
        seconds: How long at most.

    Raises:
        DataRootBusyError: it took longer.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with file.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DataRootBusyError(
                        f"{file}: another command has been changing releases for {seconds:g} s. Wait for it, or end it."
                    ) from None
                time.sleep(0.05)
        yield
