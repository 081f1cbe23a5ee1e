"""Progress of a run in the log and in MLflow. Needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ctr_pipeline.training.job_spec import MlflowTarget

if TYPE_CHECKING:
    from ctr_pipeline.gradients import StepRecord

LOG_SECONDS = 2.0
MLFLOW_SECONDS = 5.0
MLFLOW_BATCH = 1000
"""Most metrics that one MLflow request may carry."""

_log = logging.getLogger("ctr_pipeline.training")


def describe_epoch(metrics: Mapping[str, Any]) -> str:
    """An epoch's validation in a line; of branches the mean over the tasks alone."""
    shown = {name: value for name, value in metrics.items() if not name.startswith("branch_") or name.endswith("_ne")}
    parts = [f"{name} {value:.5f}" for name, value in shown.items() if isinstance(value, float)]
    return f"epoch {metrics['epoch'] + 1} validated: {', '.join(parts) or 'nothing to validate on'}"


class ProgressLog:
    """A progress line every two seconds at most, and one an epoch.

    Args:
        epochs: Epochs of the run.
        clock: Seconds from an arbitrary start.
        write: Receives each line.
    """

    def __init__(self, epochs: int, clock: Callable[[], float], write: Callable[[str], None] = _log.info) -> None:
        self._epochs, self._clock, self._write = epochs, clock, write
        self._last, self._rows, self._fit = clock(), 0, ""

    def on_step(self, record: StepRecord, steps: int) -> None:
        """Log the position, the loss and the speed, when two seconds have passed."""
        self._rows += record.rows
        now = self._clock()
        if now - self._last < LOG_SECONDS:
            return
        speed = self._rows / (now - self._last)
        self._write(
            f"{self._fit}epoch {record.epoch + 1}/{self._epochs}, step {record.step + 1}/{steps}: loss {record.loss:.4f}, "
            f"gradient norm {record.grad_norm:.3g}, {speed:,.0f} rows/s"
        )
        self._last, self._rows = now, 0

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Log the validation metrics."""
        self._write(describe_epoch(metrics))

    def on_refit(self, epochs: int) -> None:
        """Log that a second fit begins."""
        self._epochs, self._fit = epochs, "refit, "
        self._write(f"refit on the validation too, for {epochs} epochs")


class MlflowReport:
    """Sends metrics in batches: a request costs tens of milliseconds.

    A tracking server that fails must not end a training: the first failure is kept as a warning, and no more is sent.

    Args:
        target: Where to.
        every: Steps between step metrics.
        clock: Seconds from an arbitrary start.
        now: Milliseconds since 1970-01-01 UTC, for the metrics' time stamps.
    """

    def __init__(self, target: MlflowTarget, every: int, clock: Callable[[], float], now: Callable[[], int]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._client = MlflowClient(tracking_uri=target.tracking_uri)
        self._metric = Metric
        self._target, self._every, self._clock, self._now = target, every, clock, now
        self._waiting: list[Any] = []
        self._last = clock()
        self._fit = ""
        self.warning: str | None = None

    def on_step(self, record: StepRecord, steps: int) -> None:  # noqa: ARG002
        """Queue the step's metrics; send them when five seconds have passed."""
        if record.step % self._every == 0:
            losses = {f"loss_{task}": value for task, value in record.task_losses.items()}
            layers = {f"grad_norm/{layer}": norm for layer, norm in record.layer_norms.items()}
            weights = {f"weight_{task}": value for task, value in record.task_weights.items()}
            values = {
                "loss": record.loss,
                **losses,
                **weights,
                "grad_norm": record.grad_norm,
                "lr": record.learning_rate,
                **layers,
            }
            self._queue(values, record.step)
        if self._clock() - self._last >= MLFLOW_SECONDS:
            self._send()

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Send what waits and the validation, at the step that ends the epoch."""
        values = {f"validation_{name}": value for name, value in metrics.items() if isinstance(value, float)}
        self._queue(values, int(metrics["steps"]))
        self._send()

    def on_refit(self, epochs: int) -> None:  # noqa: ARG002
        """Send what waits; names of the second fit's metrics begin with ``refit_``."""
        self._send()
        self._fit = "refit_"

    def close(self) -> None:
        """Send what waits."""
        self._send()

    def _queue(self, values: Mapping[str, float], step: int) -> None:
        now = self._now()
        self._waiting += [self._metric(f"{self._fit}{name}", value, now, step) for name, value in values.items()]

    def _send(self) -> None:
        from mlflow.exceptions import MlflowException

        self._last = self._clock()
        waiting, self._waiting = self._waiting, []
        if self.warning is not None:
            return
        try:
            for start in range(0, len(waiting), MLFLOW_BATCH):
                self._client.log_batch(self._target.run_id, metrics=waiting[start : start + MLFLOW_BATCH])
        except (MlflowException, OSError) as error:
            self.warning = f"MLflow took no more metrics after a failure: {type(error).__name__}: {error}"
            _log.warning("%s", self.warning)
