"""Gradient norms that leave their usual range."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, exceeds, grade
from ctr_pipeline.gradients.core.soft_limit import SoftLimit
from ctr_pipeline.gradients.core.step_view import StepView

WARN_RATIO = 5.0
MAX_RATIO = 10.0

MEDIAN_OF = 1000
"""Norms of which the median is kept: the last ones, so that a checkpoint does not grow with the run."""

FULL_BATCH = 1024
"""Rows from which on the limits hold as they are."""


class NormRatio:
    """Compares each step's global gradient norm with the running median before it.

    The gradient of a batch is a mean over its rows, so the part of it that is noise grows with the root of one row's share:
    below :data:`FULL_BATCH` rows the limits are higher by √(1024 / rows).
    """

    name: ClassVar[str] = "norm_ratio"
    question: ClassVar[str] = "The gradient norm stayed near its running median."
    blocking: ClassVar[bool] = False
    rule: ClassVar[float] = WARN_RATIO

    def __init__(self) -> None:
        self._limit = SoftLimit(WARN_RATIO)
        self._ratio, self._norm, self._strength, self._noise = 0.0, 0.0, 0.0, 1.0
        self._at: int | None = None
        self._probed: list[float] = []

    def calibrate(self, limit: SoftLimit) -> None:
        """Replace the rule of thumb."""
        self._limit = limit

    def observe(self, step: StepView) -> None:
        """Keeps the largest values, and the last norms of the steps that are measured in detail for their median."""
        record = step.record
        if step.stopped:
            return
        if step.probe is not None and math.isfinite(record.grad_norm):
            self._probed = [*self._probed[-MEDIAN_OF + 1 :], record.grad_norm]
        if record.skipped:
            return
        if exceeds(record.grad_norm, self._norm):
            self._norm = record.grad_norm
        ratio = 0.0 if record.norm_ratio is None else record.norm_ratio
        ratio = math.nan if math.isnan(record.grad_norm) else ratio
        if exceeds(ratio, self._ratio):
            self._ratio = ratio
        noise = math.sqrt(max(1.0, FULL_BATCH / max(record.rows, 1)))
        if exceeds(ratio / noise, self._strength):
            self._strength, self._noise, self._at = ratio / noise, noise, record.step

    def finding(self) -> Finding:
        """The largest ratio, for the size of its batch."""
        ratio, warn = self._strength * self._noise, self._limit.value * self._noise
        error = self._limit.error(MAX_RATIO) * self._noise
        return Finding(
            grade(ratio, warn, error),
            f"the gradient norm rose to {ratio:.3g} times its running median "
            f"(warning above {warn:.3g}{self._limit.origin}, error above {error:.3g}"
            + (" for batches of this size)" if self._noise > 1 else ")"),
            {
                "max_norm_ratio": self._ratio,
                "median_grad_norm": median(self._probed) if self._probed else 0.0,
                "max_grad_norm": self._norm,
            },
            step=self._at,
            value=ratio,
            limit=warn,
        )

    def state_dict(self) -> dict[str, Any]:
        """The largest values and the norms."""
        return {
            "ratio": self._ratio, "norm": self._norm, "strength": self._strength, "noise": self._noise, "at": self._at,
            "probed": list(self._probed),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._ratio, self._norm, self._probed = state["ratio"], state["norm"], list(state["probed"])
        self._strength, self._noise, self._at = state["strength"], state["noise"], state["at"]
