"""Batches that come again."""

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from ctr_pipeline.gradients.core.findings import Finding, grade
from ctr_pipeline.gradients.core.step_view import StepView

REMEMBERED = 8
"""Batches before a step with which its own is compared."""

FEWEST_ROWS = 16
"""Batches of fewer rows may well be equal by chance."""

FEWEST = 2
"""Batches that come again, from which on their share is judged as an error."""

MAX_SHARE = 0.01


class StaleBatch:
    """Compares the hash of each batch with those of the eight before it.

    A loader that hands out a buffer before it is filled, or the same rows twice, trains on fewer rows than it says; loss
    and norms look as ever. Batches of an epoch are drawn without replacement, and in another order than those of the next.
    """

    name: ClassVar[str] = "stale_batch"
    question: ClassVar[str] = "No batch came twice in a row."
    blocking: ClassVar[bool] = False

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=REMEMBERED)
        self._steps, self._stale = 0, 0
        self._at: int | None = None

    def observe(self, step: StepView) -> None:
        """Counts the batches that came before."""
        record = step.record
        if record.batch_hash is None or record.rows < FEWEST_ROWS:
            return
        self._steps += 1
        if record.batch_hash in self._seen:
            self._stale += 1
            self._at = record.step if self._at is None else self._at
        self._seen.append(record.batch_hash)

    def finding(self) -> Finding:
        """A warning for one, an error for a share of the steps; two equal hashes by chance come once in 10⁸ steps."""
        share = self._stale / max(1, self._steps)
        severity = grade(share, 0.0, MAX_SHARE if self._stale >= FEWEST else 1.0)
        return Finding(
            severity,
            f"{self._stale} of {self._steps} batches were equal to one of the {REMEMBERED} before them (warning above 0, "
            f"error above {MAX_SHARE:.0%} of the steps)",
            {"stale_batches": self._stale},
            step=self._at,
            value=share,
            limit=MAX_SHARE,
        )

    def state_dict(self) -> dict[str, Any]:
        """The last hashes and the counts."""
        return {"seen": list(self._seen), "steps": self._steps, "stale": self._stale, "at": self._at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._seen = deque(state["seen"], maxlen=REMEMBERED)
        self._steps, self._stale, self._at = state["steps"], state["stale"], state["at"]
