"""Steps that a value that is not finite stopped."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding
from ctr_pipeline.gradients.core.step_view import StepView, TensorRow


class Nonfinite:
    """Counts steps with a non-finite value; those that the fp16 loss scaler skipped are counted apart.

    A statistic of the record that is no finite number is one too, though the step itself was finite: a norm that overflows,
    a share of nothing.
    """

    name: ClassVar[str] = "nonfinite"
    question: ClassVar[str] = "Loss, gradients and parameters stayed finite."
    blocking: ClassVar[bool] = True
    consequence: ClassVar[bool] = True

    def __init__(self) -> None:
        self._steps, self._nonfinite, self._skips = 0, 0, 0
        self._at: int | None = None
        self._wrong = ""

    def observe(self, step: StepView) -> None:
        """Counts."""
        self._steps += 1
        self._nonfinite += step.stopped
        if step.stopped and self._at is None:
            self._at = step.record.step
        self._skips += step.record.skipped

    def wrong_statistic(self, row: TensorRow) -> None:
        """Keeps the first."""
        step, tensor, kind, statistic, value = row
        if not self._wrong:
            self._wrong = f"; {statistic} of {kind} {tensor} was {value} at step {step}"
            self._at = step if self._at is None else self._at

    def finding(self) -> Finding:
        """Error when there was any."""
        return Finding(
            "error" if self._nonfinite or self._wrong else "ok",
            f"{self._nonfinite} of {self._steps} steps had a loss, gradient or update that was not finite{self._wrong}",
            {"nonfinite": self._nonfinite, "scaler_skips": self._skips},
            step=self._at,
            value=float(self._nonfinite),
            limit=0.0,
        )

    def state_dict(self) -> dict[str, Any]:
        """The counts."""
        return {
            "steps": self._steps, "nonfinite": self._nonfinite, "skips": self._skips, "at": self._at, "wrong": self._wrong,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._steps, self._nonfinite, self._skips = state["steps"], state["nonfinite"], state["skips"]
        self._at, self._wrong = state["at"], state["wrong"]
