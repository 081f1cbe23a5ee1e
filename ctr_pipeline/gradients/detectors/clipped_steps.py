"""Clipping that is no exception."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.step_view import StepView

WARN_SHARE = 0.5


class ClippedSteps:
    """Counts the steps whose gradient was scaled down."""

    name: ClassVar[str] = "clipped_steps"
    question: ClassVar[str] = "Clipping stayed the exception."
    blocking: ClassVar[bool] = False
    consequence: ClassVar[bool] = True

    def __init__(self) -> None:
        self._steps, self._clipped = 0, 0

    def observe(self, step: StepView) -> None:
        """Counts."""
        self._steps += 1
        self._clipped += step.record.clipped

    def finding(self) -> Finding:
        """A rule of thumb from healthy runs."""
        share = self._clipped / max(1, self._steps)
        return Finding(
            grade(share, WARN_SHARE),
            f"{share:.1%} of the steps were clipped (warning above {WARN_SHARE:.0%}: "
            "the clip hides a gradient that is too large)",
            {"clipped_share": share},
            value=share,
            limit=WARN_SHARE,
        )

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {"steps": self._steps, "clipped": self._clipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._steps, self._clipped = state["steps"], state["clipped"]
