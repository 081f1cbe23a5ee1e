"""Callbacks of the training loop, and the files that grow during a run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from ctr_pipeline.gradients import StepRecord


class Callback(Protocol):
    """Receives a run's progress."""

    def on_step(self, record: StepRecord, steps: int) -> None:
        """A step was taken; ``steps`` is the number of steps of the whole run."""

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """An epoch was validated."""

    def on_refit(self, epochs: int) -> None:
        """A second fit begins, of that many epochs and without validation; its steps are counted from 0."""


WAITING_STEPS, WAITING_SECONDS = 16, 0.5
"""Steps whose lines may wait, and for how long: a line that is written with others takes a third of the time."""


class JsonLines:
    """A file with one JSON object a line, flushed line by line, so that a reader or a crash finds all of them.

    Args:
        path: The file.
        kept: Number of lines to keep of a file that exists, those before a resumed position.
    """

    def __init__(self, path: Path, kept: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:kept] if kept and path.is_file() else []
        path.write_text("".join(lines), encoding="utf-8")
        self._stream: TextIO = path.open("a", encoding="utf-8")

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line."""
        self.write_text(json.dumps(values))

    def write_text(self, line: str) -> None:
        """Append a line that is JSON already."""
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class StepLines:
    """The file with a line for each step. Lines of fast steps are written some at a time, and all before a checkpoint.

    Args:
        path: The file.
        kept: Number of lines to keep of a file that exists, those before a resumed position.
        clock: Seconds from an arbitrary start.
    """

    def __init__(self, path: Path, kept: int, clock: Callable[[], float]) -> None:
        self._lines, self._clock = JsonLines(path, kept), clock
        self._waiting: list[StepRecord] = []
        self._written = clock()

    def add(self, record: StepRecord) -> None:
        """Append the line of a step, at once or with those of the next ones."""
        self._waiting.append(record)
        if len(self._waiting) >= WAITING_STEPS or self._clock() - self._written >= WAITING_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._lines.write_text("\n".join(record.to_json() for record in waiting))
        self._written = self._clock()

    def close(self) -> None:
        """Write the lines that wait, and close the file."""
        self.flush()
        self._lines.close()
