"""The alarms that most training loops have: an error, a value that is not finite, a jump of norm or loss."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from ctr_pipeline.gradients import StepRecord
from ctr_pipeline.training.drilling.drilled_run import Drill

NORM_FACTOR, LOSS_FACTOR = 10.0, 3.0
WINDOW, FEWEST = 64, 20
"""Steps of the running medians, and how many there must be before a step is compared with them."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that was noticed.

    Attributes:
        name: What noticed it.
        step: Steps taken before it.
    """

    name: str
    step: int


class GenericAlarms:
    """Raises an alarm where a norm is above 10 times, or a loss above 3 times, its running median, or not finite."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def watch(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Records of steps are all that it needs."""

    def on_step(self, record: StepRecord, steps: int) -> None:  # noqa: ARG002
        """Compares the step with those before it."""
        for name, value, earlier, factor in (
            ("norm", record.grad_norm, self._norms, NORM_FACTOR),
            ("loss", record.loss, self._losses, LOSS_FACTOR),
        ):
            if not math.isfinite(value):
                self.alarms.append(Alarm("not_finite", record.step))
                continue
            if len(earlier) >= FEWEST and abs(value) > factor * abs(median(earlier)):
                self.alarms.append(Alarm(name, record.step))
            earlier.append(value)

    def on_epoch(self, metrics: Mapping[str, Any]) -> None:
        """Validations raise none."""

    def on_refit(self, epochs: int) -> None:
        """Drills fit once."""

    def finish(self, drill: Drill) -> None:
        """Adds the alarm of a run that did not reach its end by itself."""
        if drill.crash:
            self.alarms.append(Alarm("exception", drill.steps))
        elif ended_by_a_value(drill):
            self.alarms.append(Alarm("not_finite", drill.steps))


def ended_by_a_value(drill: Drill) -> bool:
    """Whether the run was stopped by what any loop would have stumbled over: a value that is not finite, an index outside.

    That the model learnt nothing, or a negative weight, would have gone unnoticed.
    """
    cause = drill.cause
    unnoticed = ("contract", "health", "divergence")
    return cause is not None and cause.kind not in unnoticed and (cause.kind, cause.tensor) != ("input", "weights")
