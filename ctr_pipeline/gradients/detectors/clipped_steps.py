"""Clipping that is no exception."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.soft_limit import SoftLimit
from ctr_pipeline.gradients.core.step_view import StepView

WARN_SHARE = 0.5


class ClippedSteps:
    """Counts the steps whose gradient was scaled down."""

    name: ClassVar[str] = "clipped_steps"
    question: ClassVar[str] = "Clipping stayed the exception."
    blocking: ClassVar[bool] = False
    consequence: ClassVar[bool] = True
    rule: ClassVar[float] = WARN_SHARE

    def __init__(self) -> None:
        self._limit = SoftLimit(WARN_SHARE)
        self._steps, self._clipped = 0, 0

    def calibrate(self, limit: SoftLimit) -> None:
        """Replace the rule of thumb."""
        self._limit = limit

    def observe(self, step: StepView) -> None:
        """Counts."""
        self._steps += 1
        self._clipped += step.record.clipped

    def finding(self) -> Finding:
        """A warning above the limit."""
        share = self._clipped / max(1, self._steps)
        return Finding(
            grade(share, self._limit.value),
            f"{share:.1%} of the steps were clipped (warning above {self._limit.value:.3g}{self._limit.origin}: "
            "the clip hides a gradient that is too large)",
            {"clipped_share": share},
            value=share,
            limit=self._limit.value,
        )

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"steps": self._steps, "clipped": self._clipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._steps, self._clipped = state["steps"], state["clipped"]
