"""Updates whose learning rate is not that of the schedule."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.step_view import AppliedRate, StepView

SAME = 1e-3
"""Relative difference that counts as none: both are the same number in double precision."""

FEWEST = 3
"""Updates from which it is an error: one alone may be a hook's that acts once."""


class LearningRate:
    """Compares the learning rate of each optimizer after its update with the one that the schedule gave it before.

    A hook, a scheduler of one's own or a callback that writes into the groups of an optimizer shows here, where the loss only
    stands still: a rate of 0 leaves every weight, and a model that looks converged.
    """

    name: ClassVar[str] = "learning_rate"
    question: ClassVar[str] = "Each update had the learning rate of its schedule."
    blocking: ClassVar[bool] = True
    detailed_only: ClassVar[bool] = True
    stops: ClassVar[bool] = True

    def __init__(self) -> None:
        self._updates, self._wrong = 0, 0
        self._at: int | None = None
        self._kind, self._factor = "", 1.0

    def applied(self, step: int, rates: Sequence[AppliedRate]) -> None:
        """Counts an update, and whether it had other rates than planned; ``rates`` are of optimizers that seem to have had."""
        self._updates += 1
        for rate in rates:
            for value in (rate.lowest, rate.highest):
                if abs(value - rate.planned) > SAME * abs(rate.planned):
                    self._note(step, rate, value)
                    return

    def _note(self, step: int, rate: AppliedRate, value: float) -> None:
        self._wrong += 1
        if self._at is None:
            self._at, self._kind = step, rate.optimizer
            self._factor = value / rate.planned if rate.planned else float("inf")

    def observe(self, step: StepView) -> None:
        """Rates are given by themselves."""

    def finding(self) -> Finding:
        """How many updates had another rate, from which step on, and by which factor."""
        found = "" if self._at is None else f", from step {self._at} on: {self._kind} {self._factor:.3g} times it"
        return Finding(
            grade(self._wrong, 0.0, FEWEST - 1),
            f"{self._wrong} of {self._updates} updates had another learning rate than their schedule gives{found} (warning above "
            f"0, error from {FEWEST} on: something writes into the groups of the optimizer)",
            {"wrong_rates": self._wrong},
            step=self._at,
            value=self._factor if self._wrong else 0.0,
            limit=SAME,
        )

    def state_dict(self) -> dict[str, Any]:
        """Counts, and the first update with another rate."""
        return {
            "updates": self._updates, "wrong": self._wrong, "at": self._at, "kind": self._kind, "factor": self._factor,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._updates, self._wrong, self._at = state["updates"], state["wrong"], state["at"]
        self._kind, self._factor = state["kind"], state["factor"]
