"""Dagster Pipes: the only module of training that knows it. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

from ctr_pipeline.training.reporting import ProgressLog

if TYPE_CHECKING:
    from ctr_pipeline.gradients import StepRecord


def started_by_dagster(environment: Mapping[str, str]) -> bool:
    """Whether a Dagster step started the process with this environment and receives its messages."""
    return DAGSTER_PIPES_CONTEXT_ENV_VAR in environment


@contextmanager
def pipes_report(epochs: int, clock: Callable[[], float]) -> Iterator[PipesReport]:
    """A callback that reports to the Dagster step; Pipes is closed at the end.

    Args:
        epochs: Epochs of the run.
        clock: Seconds from an arbitrary start.
    """
    with open_dagster_pipes() as pipes:
        yield PipesReport(pipes, epochs, clock)


class PipesReport:
    """Reports to the Dagster step that started this process: progress as log lines, epochs also for code to read.

    Args:
        pipes: The opened context.
        epochs: Epochs of the run.
        clock: Seconds from an arbitrary start.
    """

    def __init__(self, pipes: PipesContext, epochs: int, clock: Callable[[], float]) -> None:
        self._pipes = pipes
        self._progress = ProgressLog(epochs, clock, pipes.log.info)

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Log the position, the loss and the speed, when two seconds have passed."""
        self._progress.on_step(record, steps)

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Report the validation as a log line and as a message that code can read."""
        self._progress.on_epoch(metrics)
        self._pipes.report_custom_message({"kind": "epoch", **metrics})

    def on_refit(self, epochs: int) -> None:
        """Log that a second fit begins."""
        self._progress.on_refit(epochs)
