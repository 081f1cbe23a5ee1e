"""Batches that differ in their outcomes by more than chance."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding
from ctr_pipeline.gradients.core.step_view import StepView

WARN_DISPERSION, MAX_DISPERSION = 2.0, 4.0
"""χ² of homogeneity over its degrees of freedom: 1 for random samples, and less where rows are drawn without replacement."""

ERRORS = 10.0
"""Standard errors of χ² by which it is above what random samples have, so that few or rare outcomes are no alarm."""

FEWEST_BATCHES = 3


class BatchComposition:
    """Compares the positives of batches with each other, by task, on the steps that are measured in detail.

    Rows that are read in the order of their outcome, of their campaign or of their day make batches that are no random
    samples: the gradient follows the order and not the rows. χ² = (Σ kᵢ² / nᵢ − K² / N) / (p (1 − p)) for kᵢ positives of nᵢ known
    labels (Pearson 1900); its variance is that of binomial counts, 2 (m − 1) + Σ 1 / (nᵢ p (1 − p)) (Haldane, Biometrika 31, 1940,
    without its smaller terms).
    """

    name: ClassVar[str] = "batch_composition"
    question: ClassVar[str] = (
        "Batches are random samples of the rows: their shares of positives differ by chance alone."
    )
    blocking: ClassVar[bool] = True
    detailed_only: ClassVar[bool] = True

    def __init__(self) -> None:
        self._tasks: list[list[float]] = []
        self._names: list[str] = []
        self._at: int | None = None

    def observe(self, step: StepView) -> None:
        """Counts the known labels and the positives of each task."""
        loss = None if step.probe is None else step.probe.loss
        if loss is None:
            return
        import torch

        known = (loss.labels >= 0).sum(dim=0)
        positives = (loss.labels == 1).sum(dim=0)
        self._names = list(step.record.task_losses)
        half = known.numel()
        step.read(
            torch.cat([known, positives]).double(),
            lambda values: self._receive(step.record.step, values[:half], values[half:]),
        )

    def _receive(self, step: int, known: list[float], positives: list[float]) -> None:
        self._tasks = self._tasks or [[0.0] * 5 for _ in known]
        for sums, n, k in zip(self._tasks, known, positives, strict=True):
            if n > 0:
                for at, value in enumerate((1.0, n, k, k * k / n, 1 / n)):
                    sums[at] += value
        if self._at is None and any(self._severity(sums) == "error" for sums in self._tasks):
            self._at = step

    @staticmethod
    def _dispersion(sums: list[float]) -> tuple[float, float]:
        """χ² / (m − 1), and by how many standard errors χ² is above m − 1."""
        batches, known, positives, squares, inverse = sums
        rate = positives / known if known else 0.0
        if batches < FEWEST_BATCHES or not 0 < rate < 1:
            return 0.0, 0.0
        spread = rate * (1 - rate)
        chi = (squares - positives**2 / known) / spread
        free = batches - 1
        return chi / free, (chi - free) / math.sqrt(2 * free + inverse / spread)

    def _severity(self, sums: list[float]) -> str:
        dispersion, errors = self._dispersion(sums)
        if errors <= ERRORS or dispersion <= WARN_DISPERSION:
            return "ok"
        return "error" if dispersion > MAX_DISPERSION else "warn"

    def finding(self) -> Finding:
        """The task whose batches differ most."""
        found = [(self._severity(sums), *self._dispersion(sums)) for sums in self._tasks]
        order = ("ok", "warn", "error")
        at = max(range(len(found)), key=lambda n: (order.index(found[n][0]), found[n][1]), default=None)
        if at is None:
            return Finding("ok", "no step was measured in detail", {"batch_dispersion": 0.0})
        severity, dispersion, errors = found[at]
        task = self._names[at] if at < len(self._names) else ""
        return Finding(
            severity,  # type: ignore[arg-type]
            f"the shares of positives of {self._tasks[at][0]:.0f} batches differ {dispersion:.3g} times as much as by chance for task "
            f"{task}, {errors:.1f} standard errors more (warning above {WARN_DISPERSION:g}, error above {MAX_DISPERSION:g}, both "
            f"from {ERRORS:g} standard errors on: rows are not shuffled)",
            {"batch_dispersion": dispersion},
            step=self._at,
            tensor=task or None,
            value=dispersion,
            limit=WARN_DISPERSION,
        )

    def state_dict(self) -> dict[str, Any]:
        """The sums of each task."""
        return {"tasks": [list(sums) for sums in self._tasks], "names": list(self._names), "at": self._at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._tasks, self._names, self._at = [list(s) for s in state["tasks"]], list(state["names"]), state["at"]
