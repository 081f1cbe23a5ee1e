"""A model that predicts worse than a constant."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.step_view import StepView

WARN_LOSS = 1.0
"""The loss of the constant that fits the validation best."""

MAX_LOSS = 2.0
"""Few labels or another base rate bring a sound model above 1; twice the constant's loss is a model that diverged."""


class Divergence:
    """Compares the best validation loss so far with that of the best constant.

    The loss is the mean over the tasks of the normalised entropy, or of what their objectives have in its place.
    """

    name: ClassVar[str] = "divergence"
    question: ClassVar[str] = "The validation loss is below that of a constant."
    blocking: ClassVar[bool] = True
    consequence: ClassVar[bool] = True
    detailed_only: ClassVar[bool] = True

    def __init__(self) -> None:
        self._best: float | None = None
        self._task, self._at = "", 0

    def observe(self, step: StepView) -> None:
        """Steps say nothing of it."""

    def validated(self, step: int, relative: Mapping[str, float | None]) -> None:
        """Keeps the smallest mean, with its worst task; a loss that is no number counts as infinite."""
        known = {task: math.inf if math.isnan(loss) else loss for task, loss in relative.items() if loss is not None}
        if not known:
            return
        mean = sum(known.values()) / len(known)
        if self._best is None or mean < self._best:
            self._best, self._task, self._at = mean, max(known, key=lambda task: known[task]), step

    def finding(self) -> Finding:
        """Error above twice the loss of a constant; where nothing was validated, all is well."""
        if self._best is None:
            return Finding("ok", "no validation could tell", {"best_relative_loss": None})
        return Finding(
            grade(self._best, WARN_LOSS, MAX_LOSS),
            f"the best validation loss was {self._best:.3g} times that of the best constant, worst for {self._task} "
            f"(warning above {WARN_LOSS:g}, error above {MAX_LOSS:g}: the training diverged)",
            {"best_relative_loss": self._best},
            step=self._at,
            tensor=self._task,
            value=self._best,
            limit=WARN_LOSS,
        )

    def state_dict(self) -> dict[str, Any]:
        """The smallest loss, and where."""
        return {"best": self._best, "task": self._task, "at": self._at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._best, self._task, self._at = state["best"], state["task"], state["at"]
