"""Updates that are large against the weights."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, exceeds, grade
from ctr_pipeline.gradients.core.soft_limit import SoftLimit
from ctr_pipeline.gradients.core.step_view import StepView, Update

WARN_RATIO = 0.5

MAX_RATIO = 10.0
"""An update of ten times the weights leaves nothing of what was learnt."""

SMALLEST_WEIGHT, SMALLEST_EMBEDDING = 0.01, 0.2
"""Weights count as at least this large (root mean square): parts that begin with zeros are moved by more than they are.
Row-wise Adagrad moves a row by its whole learning rate when it meets it for the first time."""


class UpdateRatio:
    """Compares ‖update‖ with ‖weights‖ of each weight matrix, on the steps that are measured in detail.

    Of an embedding table the rows that the batch touched are compared.
    """

    name: ClassVar[str] = "update_ratio"
    question: ClassVar[str] = "Updates stayed small against the weights."
    blocking: ClassVar[bool] = False
    detailed_only: ClassVar[bool] = True
    rule: ClassVar[float] = WARN_RATIO
    stops: ClassVar[bool] = True

    def __init__(self) -> None:
        self._limit = SoftLimit(WARN_RATIO)
        self._ratio, self._tensor = 0.0, ""
        self._at: int | None = None

    def calibrate(self, limit: SoftLimit) -> None:
        """Replace the rule of thumb."""
        self._limit = limit

    def observe(self, step: StepView) -> None:
        """Measures the norms of all matrices and of their updates."""
        updates = [] if step.probe is None else [update for update in step.probe.updates if update.before.numel()]
        if not updates:
            return
        known = [update.norms for update in updates if update.norms is not None]
        if len(known) == len(updates):
            self._receive(step, updates, [size for size, _ in known], [moved for _, moved in known])
            return
        import torch

        before = [update.before for update in updates]
        changes = torch._foreach_norm(torch._foreach_sub([update.after for update in updates], before))
        half = len(updates)
        step.read(
            torch.stack([*torch._foreach_norm(before), *changes]),
            lambda values: self._receive(step, updates, values[:half], values[half:]),
        )

    def _receive(
        self, step: StepView, updates: Sequence[Update], sizes: Sequence[float], changes: Sequence[float]
    ) -> None:
        for update, weight, moved in zip(updates, sizes, changes, strict=True):
            least = SMALLEST_WEIGHT if update.rows is None else SMALLEST_EMBEDDING
            ratio = moved / max(weight, least * update.before.numel() ** 0.5)
            step.note(update.name, "weight", "norm", weight)
            step.note(update.name, "update", "ratio", ratio)
            if exceeds(ratio, self._ratio):
                self._ratio, self._tensor, self._at = ratio, update.name, step.record.step

    def finding(self) -> Finding:
        """The largest ratio and its matrix."""
        at = "one update" if self._at is None else f"the update of step {self._at}"
        return Finding(
            grade(self._ratio, self._limit.value, self._limit.error(MAX_RATIO)),
            f"{at} moved {self._tensor or 'a weight matrix'} by {self._ratio:.3g} of its own norm "
            f"(warning above {self._limit.value:.3g}{self._limit.origin}, error above {self._limit.error(MAX_RATIO):.3g}: the learning rate may be too high)",
            {"max_update_ratio": self._ratio, "max_update_tensor": self._tensor},
            step=self._at,
            tensor=self._tensor or None,
            value=self._ratio,
            limit=self._limit.value,
        )

    def state_dict(self) -> dict[str, Any]:
        """The largest ratio and its matrix."""
        return {"ratio": self._ratio, "tensor": self._tensor, "at": self._at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._ratio, self._tensor, self._at = state["ratio"], state["tensor"], state["at"]
