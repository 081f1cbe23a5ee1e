"""Hidden units that learn nothing."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.soft_limit import SoftLimit
from ctr_pipeline.gradients.core.step_view import StepView

WARN_SHARE = 0.5

MAX_SHARE = 0.99
"""Above it a layer passes nothing on: what is before it learns nothing, whatever the batch."""


class DeadUnits:
    """Measures the share of dead units of each hidden activation, on the steps that are measured in detail.

    A unit is dead on a batch when the slope of its activation is flat for every row
    (:func:`~ctr_pipeline.gradients.core.activations.dead_share`): whatever the loss, no gradient reaches the weights
    before it. For ReLU this means an output of 0 on all rows; a GELU far below 0 or a saturated sigmoid is as dead.
    """

    name: ClassVar[str] = "dead_units"
    question: ClassVar[str] = "Hidden units stayed alive."
    blocking: ClassVar[bool] = False
    detailed_only: ClassVar[bool] = True
    rule: ClassVar[float] = WARN_SHARE

    def __init__(self) -> None:
        self._limit = SoftLimit(WARN_SHARE)
        self._shares: dict[str, float] = {}
        self._flat = False
        self._at: int | None = None

    def calibrate(self, limit: SoftLimit) -> None:
        """Replace the rule of thumb."""
        self._limit = SoftLimit(min(limit.value, MAX_SHARE), limit.runs)

    def observe(self, step: StepView) -> None:
        """Keeps the shares of the last detailed step."""
        self._flat = step.probe is not None and not step.probe.hidden
        if step.probe is None or not step.probe.activations:
            return
        import torch

        from ctr_pipeline.gradients.core.activations import dead_share

        names = [activation.name for activation in step.probe.activations]

        def receive(values: list[float]) -> None:
            self._shares, self._at = dict(zip(names, values, strict=True)), step.record.step
            for name, share in self._shares.items():
                step.note(name, "activation", "dead_share", share)

        step.read(torch.stack([dead_share(activation) for activation in step.probe.activations]), receive)

    def finding(self) -> Finding:
        """The worst layer; a warning when there was nothing to measure."""
        numbers = {"dead_unit_share": dict(self._shares)}
        if not self._shares and self._flat:
            return Finding("ok", "the model has no hidden layers", numbers)
        if not self._shares:
            message = (
                "dead units were not measured: no hidden activation was observed although the model has hidden layers"
            )
            return Finding("warn", message, numbers)
        layer, dead = max(self._shares.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])
        return Finding(
            grade(dead, self._limit.value, MAX_SHARE),
            f"{dead:.1%} of the units of {layer} let no gradient through on a whole batch "
            f"(warning above {self._limit.value:.0%}{self._limit.origin}, error above {MAX_SHARE:.0%}); layers observed: {len(self._shares)}",
            numbers,
            step=self._at,
            tensor=layer,
            value=dead,
            limit=self._limit.value,
        )

    def state_dict(self) -> dict[str, Any]:
        """The shares by layer."""
        return {"shares": dict(self._shares), "at": self._at, "flat": self._flat}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._shares = dict(state["shares"])
        self._at, self._flat = state["at"], state["flat"]
