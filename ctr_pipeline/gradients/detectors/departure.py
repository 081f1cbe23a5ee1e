"""A run that goes another way than the last good one."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, exceeds, grade
from ctr_pipeline.gradients.core.soft_limit import SoftLimit
from ctr_pipeline.gradients.core.step_view import StepView

WINDOW = 20
"""Steps of which medians are compared; the first ones have none."""

LOSS_FACTOR, NORM_FACTOR = 1.5, 5.0
"""Days differ: by a tenth in the loss, by a third in the gradient norm. A loss half as large again is another problem."""

WARN = 1.0


class Departure:
    """Compares loss and gradient norm with those of the last promoted run of the same settings, at the same step.

    Medians over 20 steps are compared, as the natural logarithm of their ratio; the loss both ways, since a leak makes it
    fall. 1 is a factor of 1.5 in the loss or of 5 in the norm. Healthy runs may raise that limit and never lower it: they have
    the rows of one day, and differ by chance alone.
    """

    name: ClassVar[str] = "departure"
    question: ClassVar[str] = "Loss and gradient norm went the way of the last promoted training."
    blocking: ClassVar[bool] = False
    consequence: ClassVar[bool] = True
    rule: ClassVar[float] = WARN
    smallest_share: ClassVar[float] = 1.0

    def __init__(self) -> None:
        self._limit = SoftLimit(WARN)
        self._reference: Mapping[int, tuple[float, float]] = {}
        self._window: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._expected: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._compared, self._largest, self._what = 0, 0.0, "loss"
        self._at: int | None = None
        self._medians = (0.0, 0.0)

    @classmethod
    def between(cls, own: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> Finding:
        """What it would have found in a run with the lines ``own`` of steps.jsonl after one with the lines ``before``."""
        made = cls()
        made.compare_with(before)
        for record in own:
            made._see(int(record["step"]), record.get("loss"), record.get("grad_norm"))
        return made.finding()

    def calibrate(self, limit: SoftLimit) -> None:
        """Replace the rule of thumb."""
        self._limit = limit

    def compare_with(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Give it the lines of the last good run's steps.jsonl; without them nothing is compared."""
        self._reference = {
            int(record["step"]): (float(record["loss"]), float(record["grad_norm"]))
            for record in records
            if _usable(record.get("loss"), record.get("grad_norm"))
        }

    def observe(self, step: StepView) -> None:
        """Compares the medians that end with this step."""
        if not step.stopped:
            self._see(step.record.step, step.record.loss, step.record.grad_norm)

    def _see(self, step: int, loss: Any, norm: Any) -> None:
        expected = self._reference.get(step)
        if expected is None or not _usable(loss, norm):
            return
        self._window.append((loss, norm))
        self._expected.append(expected)
        # A median a window is enough, and costs little.
        if len(self._window) == WINDOW and step % (WINDOW // 2) == 0:
            self._compare(step)

    def _compare(self, step: int) -> None:
        self._compared += 1
        for place, (what, factor) in enumerate((("loss", LOSS_FACTOR), ("grad_norm", NORM_FACTOR))):
            own, before = (median(pair[place] for pair in window) for window in (self._window, self._expected))
            if before <= 0 or own <= 0:
                continue
            change = math.log(own / before) / math.log(factor)
            change = abs(change) if what == "loss" else max(change, 0.0)
            if exceeds(change, self._largest):
                self._largest, self._what, self._at, self._medians = change, what, step, (own, before)

    def finding(self) -> Finding:
        """A warning; where there was no run to compare with, all is well."""
        if not self._compared:
            return Finding("ok", "there was no earlier run to compare with", {"departure": None})
        own, before = self._medians
        warn = self._limit.value
        return Finding(
            grade(self._largest, warn),
            f"{self._what} of {WINDOW} steps was {own:.3g}, and {before:.3g} in the last promoted training at the same steps: "
            f"{self._largest:.2g} of the allowed change (warning above {warn:.3g}{self._limit.origin})",
            {"departure": self._largest},
            step=self._at,
            tensor=self._what,
            value=self._largest,
            limit=warn,
        )

    def state_dict(self) -> dict[str, Any]:
        """The windows and the largest change."""
        return {
            "window": [list(pair) for pair in self._window], "expected": [list(pair) for pair in self._expected],
            "compared": self._compared, "largest": self._largest, "what": self._what, "at": self._at,
            "medians": list(self._medians),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._window = deque(((loss, norm) for loss, norm in state["window"]), maxlen=WINDOW)
        self._expected = deque(((loss, norm) for loss, norm in state["expected"]), maxlen=WINDOW)
        self._compared, self._largest, self._what = state["compared"], state["largest"], state["what"]
        self._at, self._medians = state["at"], (state["medians"][0], state["medians"][1])


def _usable(*values: Any) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
