"""Gradient norms that leave their usual range."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.step_view import StepStart, StepView

WARN_RATIO = 5.0
MAX_RATIO = 10.0


class NormRatio:
    """Compares each step's global gradient norm with the running median before it."""

    name: ClassVar[str] = "norm_ratio"
    question: ClassVar[str] = "The gradient norm stayed near its running median."
    blocking: ClassVar[bool] = False

    def __init__(self) -> None:
        self._ratio, self._norm = 0.0, 0.0
        self._probed: list[float] = []

    def begin(self, start: StepStart) -> None:
        """Nothing to prepare."""

    def observe(self, step: StepView) -> None:
        """Keeps the largest values, and the norms of the steps that are measured in detail for their median."""
        record = step.record
        if step.stopped:
            return
        if step.probe is not None and math.isfinite(record.grad_norm):
            self._probed.append(record.grad_norm)
        if not record.skipped:
            self._norm = max(self._norm, record.grad_norm)
            self._ratio = max(self._ratio, record.norm_ratio or 0.0)

    def finding(self) -> Finding:
        """Rules of thumb from healthy runs."""
        return Finding(
            grade(self._ratio, WARN_RATIO, MAX_RATIO),
            f"the gradient norm rose to {self._ratio:.3g} times its running median "
            f"(warning above {WARN_RATIO:g}, error above {MAX_RATIO:g})",
            {
                "max_norm_ratio": self._ratio,
                "median_norm": median(self._probed) if self._probed else 0.0,
                "max_norm": self._norm,
            },
        )

    def state_dict(self) -> dict[str, Any]:
        """The largest values and the norms."""
        return {"ratio": self._ratio, "norm": self._norm, "probed": list(self._probed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._ratio, self._norm, self._probed = state["ratio"], state["norm"], list(state["probed"])
