"""What a step writes to its standard output, kept in a file for Dagster's page and shown in the terminal all the same."""

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._utils import ensure_file, touch_file

if TYPE_CHECKING:
    from dagster._serdes import ConfigurableClassData

_EVERY_SECONDS = 0.1
_AT_ONCE = 1 << 16


class StepOutputManager(LocalComputeLogManager):
    """As the manager that it extends, file by file, but the file is shown by a thread.

    Dagster starts two processes for each stream of each run, one of them Python's, and may end them before the last
    lines are shown.
    """

    @classmethod
    def from_config_value(cls, inst_data: "ConfigurableClassData | None", config_value: Any) -> "StepOutputManager":
        """The manager that a `dagster.yaml` describes."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Sends what this process and those that it starts write to files, and on to where it was to go."""
        paths = [
            Path(self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]))
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        ]
        with _shown_from(paths[0], sys.stdout), _shown_from(paths[1], sys.stderr):
            yield CapturedLogContext(log_key)
        touch_file(self.complete_artifact_path(log_key))  # type: ignore[no-untyped-call]


@contextmanager
def _shown_from(path: Path, stream: TextIO) -> Iterator[None]:
    """What is written to ``stream`` goes to the file at ``path``, and from there to where it would have gone."""
    ensure_file(str(path))
    try:
        shown = os.dup(stream.fileno())
    except (AttributeError, OSError):
        # No file of the system, as in a notebook: nothing can be sent elsewhere.
        yield
        return
    ended = threading.Event()
    # The file grows from its end: a run that is tried again has one of before.
    thread = threading.Thread(target=_show, args=(path, path.stat().st_size, shown, ended), daemon=True)
    thread.start()
    try:
        with redirect_to_file(stream, str(path)):
            yield
    finally:
        ended.set()
        thread.join()
        os.close(shown)


def _show(path: Path, start: int, shown: int, ended: threading.Event) -> None:
    with path.open("rb") as file:
        file.seek(start)
        last = False
        while not last:
            last = ended.wait(_EVERY_SECONDS)
            while content := file.read(_AT_ONCE):
                # A terminal that is gone is no reason to stop.
                with suppress(OSError):
                    rest = memoryview(content)
                    while rest:
                        rest = rest[os.write(shown, rest) :]
