"""A loss whose gradient is not the one that its formula gives."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, exceeds, grade
from ctr_pipeline.gradients.core.step_view import LossView, StepView

MAX_ERROR = 1e-3


class LossGradient:
    """Compares the gradient that reached the logits with the loss's own formula, on steps measured in detail.

    See :func:`~ctr_pipeline.gradients.core.loss_gradient_check.compare_loss_gradient`: the ratio r of the two is 1, and
    unknown labels have no gradient. What a wrong ratio means is named by
    :func:`~ctr_pipeline.gradients.core.loss_faults.name_loss_fault`.
    """

    name: ClassVar[str] = "loss_gradient"
    question: ClassVar[str] = "The gradient of the loss is the one that its formula gives."
    blocking: ClassVar[bool] = True
    detailed_only: ClassVar[bool] = True
    stops: ClassVar[bool] = True

    def __init__(self) -> None:
        self._error, self._compared, self._without = 0.0, 0, False
        self._fault, self._meaning = "", ""
        self._at: int | None = None

    def observe(self, step: StepView) -> None:
        """Measures the largest |r − 1| over the labels that are known, and the gradient of those that are not."""
        if step.probe is None or step.probe.loss is None:
            return
        from ctr_pipeline.gradients.core.loss_gradient_check import loss_gradient_error

        loss, at = step.probe.loss, step.record.step
        errors = loss_gradient_error(loss)
        self._without = errors is None
        if errors is not None:
            step.read(errors, lambda values: self._receive(values, loss, at))

    def _receive(self, values: list[float], loss: LossView, step: int) -> None:
        known, unknown, compared = values
        if not compared:
            return
        self._compared += int(compared)
        # `max` would pass over NaN, which is as wrong as a number can be.
        error = unknown if exceeds(unknown, known) else known
        if not exceeds(error, self._error):
            return
        self._error, self._at = error, step
        if exceeds(known, MAX_ERROR):
            self._name_fault(loss)
        elif exceeds(unknown, MAX_ERROR):
            self._fault, self._meaning = "unknown_labels", "labels that are not known have a gradient: mask them"

    def _name_fault(self, loss: LossView) -> None:
        from ctr_pipeline.gradients.core.loss_faults import name_loss_fault
        from ctr_pipeline.gradients.core.loss_gradient_check import compare_loss_gradient

        compared = compare_loss_gradient(loss)
        assert compared is not None, "its error was measured"
        counts, weights = loss.counts.tolist(), loss.loss_weights.tolist()
        fault = name_loss_fault(compared, counts, weights, loss.logits.shape[0])
        self._fault, self._meaning = fault.name, fault.message

    def finding(self) -> Finding:
        """Error when the gradients differ, with the fault of that shape; where nothing was compared, why."""
        # JSON has no NaN, and a formula that gives no number is wrong without bound.
        error = math.inf if math.isnan(self._error) else self._error
        numbers: dict[str, Any] = {"loss_gradient_error": error}
        if self._without:
            return Finding("ok", "not checked: the loss gives no analytic gradient", numbers)
        if not self._compared:
            message = "not checked: no recorded step had a known label with a weight and a gradient above 0.001"
            return Finding("warn", message, numbers)
        severity = grade(self._error, MAX_ERROR, MAX_ERROR)
        message = (
            f"the gradient at the logits differed from the loss's formula by {error:.2g} of it at most "
            f"(error above {MAX_ERROR:g})"
        )
        if severity == "error":
            message += f" at step {self._at}: {self._meaning}"
            numbers["loss_fault"] = self._fault
        return Finding(severity, message, numbers, step=self._at, value=error, limit=MAX_ERROR)

    def state_dict(self) -> dict[str, Any]:
        """The largest error and what was compared."""
        return {
            "error": self._error, "compared": self._compared, "without": self._without, "fault": self._fault,
            "meaning": self._meaning, "at": self._at,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._error, self._compared, self._without = state["error"], state["compared"], state["without"]
        self._fault, self._meaning, self._at = state["fault"], state["meaning"], state["at"]
