"""A loss whose gradient is not the one that its formula gives."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.step_view import StepStart, StepView

MAX_ERROR = 1e-3


class LossGradient:
    """Compares the gradient that reached the logits with the loss's own formula, on steps measured in detail.

    See :func:`~ctr_pipeline.gradients.core.loss_gradient_check.logit_gradient_ratio`: the ratio r of the two is 1.
    """

    name: ClassVar[str] = "loss_gradient"
    question: ClassVar[str] = "The gradient of the loss is the one that its formula gives."
    blocking: ClassVar[bool] = True

    def __init__(self) -> None:
        self._error, self._compared, self._without = 0.0, 0, False

    def begin(self, start: StepStart) -> None:
        """Nothing to prepare."""

    def observe(self, step: StepView) -> None:
        """Measures the largest |r − 1| over the labels that are known."""
        if step.probe is None or step.probe.loss is None:
            return
        import torch

        from ctr_pipeline.gradients.core.loss_gradient_check import logit_gradient_ratio

        ratio = logit_gradient_ratio(step.probe.loss)
        self._without = ratio is None
        if ratio is not None and len(ratio):
            step.read(torch.stack([(ratio - 1).abs().max(), ratio.new_tensor(len(ratio))]), self._receive)

    def _receive(self, values: list[float]) -> None:
        error, compared = values
        # A formula that gives no number is wrong too; max() would pass over NaN.
        self._error = max(self._error, math.inf if math.isnan(error) else error)
        self._compared += int(compared)

    def finding(self) -> Finding:
        """Error when the gradients differ; where nothing was compared, why."""
        numbers = {"loss_gradient_error": self._error}
        if self._without:
            return Finding("ok", "not checked: the loss gives no analytic gradient", numbers)
        if not self._compared:
            message = "not checked: no recorded step had a known label with a weight and a gradient above 0.001"
            return Finding("warn", message, numbers)
        return Finding(
            grade(self._error, MAX_ERROR, MAX_ERROR),
            f"the gradient at the logits differed from the loss's formula by {self._error:.2g} of it at most "
            f"(error above {MAX_ERROR:g}: the loss, its sum or its weights do not follow the formula)",
            numbers,
        )

    def state_dict(self) -> dict[str, Any]:
        """The largest error and what was compared."""
        return {"error": self._error, "compared": self._compared, "without": self._without}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._error, self._compared, self._without = state["error"], state["compared"], state["without"]
