"""A run that goes another way than the last good one."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, exceeds, grade
from ctr_pipeline.gradients.core.step_view import StepRecord, StepView

WINDOW = 20
"""Steps of which medians are compared; the first ones have none."""

LOSS_FACTOR, NORM_FACTOR = 1.5, 5.0
"""Days differ: by a tenth in the loss, by a third in the gradient norm. A loss half as large again is another problem."""

WARN = 1.0


class Departure:
    """Compares loss and gradient norm with those of the last promoted run of the same settings, at the same step.

    Medians over 20 steps are compared, as the natural logarithm of their ratio; the loss both ways, since a leak makes it
    fall. 1 is a factor of 1.5 in the loss or of 5 in the norm.
    """

    name: ClassVar[str] = "departure"
    question: ClassVar[str] = "Loss and gradient norm went the way of the last promoted training."
    blocking: ClassVar[bool] = False
    consequence: ClassVar[bool] = True

    def __init__(self) -> None:
        self._reference: Mapping[int, tuple[float, float]] = {}
        self._window: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._expected: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._compared, self._largest, self._what = 0, 0.0, "loss"
        self._at: int | None = None
        self._medians = (0.0, 0.0)

    def compare_with(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Give it the lines of the last good run's steps.jsonl; without them nothing is compared."""
        self._reference = {
            int(record["step"]): (float(record["loss"]), float(record["grad_norm"]))
            for record in records
            if _usable(record.get("loss"), record.get("grad_norm"))
        }

    def observe(self, step: StepView) -> None:
        """Compares the medians that end with this step."""
        record = step.record
        expected = self._reference.get(record.step)
        if step.stopped or expected is None or not _usable(record.loss, record.grad_norm):
            return
        self._window.append((record.loss, record.grad_norm))
        self._expected.append(expected)
        # A median a window is enough, and costs little.
        if len(self._window) == WINDOW and record.step % (WINDOW // 2) == 0:
            self._compare(record)

    def _compare(self, record: StepRecord) -> None:
        self._compared += 1
        for place, (what, factor) in enumerate((("loss", LOSS_FACTOR), ("grad_norm", NORM_FACTOR))):
            own, before = (median(pair[place] for pair in window) for window in (self._window, self._expected))
            if before <= 0 or own <= 0:
                continue
            change = math.log(own / before) / math.log(factor)
            change = abs(change) if what == "loss" else max(change, 0.0)
            if exceeds(change, self._largest):
                self._largest, self._what, self._at, self._medians = change, what, record.step, (own, before)

    def finding(self) -> Finding:
        """A warning; where there was no run to compare with, all is well."""
        if not self._compared:
            return Finding("ok", "there was no earlier run to compare with", {"departure": None})
        own, before = self._medians
        return Finding(
            grade(self._largest, WARN),
            f"{self._what} of {WINDOW} steps was {own:.3g}, and {before:.3g} in the last promoted training at the same steps: "
            f"{self._largest:.2g} of the allowed change (warning above {WARN:g})",
            {"departure": self._largest},
            step=self._at,
            tensor=self._what,
            value=self._largest,
            limit=WARN,
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
