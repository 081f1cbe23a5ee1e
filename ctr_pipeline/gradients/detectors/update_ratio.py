"""Updates that are large against the weights."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.step_view import StepStart, StepView

WARN_RATIO = 0.5


class UpdateRatio:
    """Compares ‖update‖ with ‖weights‖ of each dense matrix, on the steps that are measured in detail."""

    name: ClassVar[str] = "update_ratio"
    question: ClassVar[str] = "Updates stayed small against the weights."
    blocking: ClassVar[bool] = False

    def __init__(self) -> None:
        self._ratio, self._tensor = 0.0, ""

    def begin(self, start: StepStart) -> None:
        """Nothing to prepare."""

    def observe(self, step: StepView) -> None:
        """Measures the norms of all matrices and of their updates."""
        if step.probe is None or not step.probe.updates:
            return
        import torch

        before = [update.before for update in step.probe.updates]
        moved = torch._foreach_norm(torch._foreach_sub([update.after for update in step.probe.updates], before))
        names = [update.name for update in step.probe.updates]

        def receive(values: list[float]) -> None:
            for name, update, weight in zip(names, values[: len(names)], values[len(names) :], strict=True):
                ratio = update / weight if weight > 0 else 0.0
                step.note(name, "weight", "norm", weight)
                step.note(name, "update", "ratio", ratio)
                if ratio > self._ratio:
                    self._ratio, self._tensor = ratio, name

        step.read(torch.stack([*moved, *torch._foreach_norm(before)]), receive)

    def finding(self) -> Finding:
        """A rule of thumb from healthy runs."""
        return Finding(
            grade(self._ratio, WARN_RATIO),
            f"one update moved {self._tensor or 'a weight matrix'} by {self._ratio:.3g} of its own norm "
            f"(warning above {WARN_RATIO:g}: the learning rate may be too high)",
            {"max_update_ratio": self._ratio, "max_update_tensor": self._tensor},
        )

    def state_dict(self) -> dict[str, Any]:
        """The largest ratio and its matrix."""
        return {"ratio": self._ratio, "tensor": self._tensor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._ratio, self._tensor = state["ratio"], state["tensor"]
