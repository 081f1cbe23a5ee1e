"""What an architecture of the heads can count on when it is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctr_pipeline.spec.model import Model

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What an architecture can count on when it is built.

    Attributes:
        width: Width H of the hidden units that all tasks read.
        tasks: Names of the T tasks.
        parents: Index of each task's parent, -1 for none; a parent stands before its children.
        stopped: [T] whether the task's loss must not reach what other tasks read.
        model: The spec's model section, for the normalisation and dropout of hidden layers.
    """

    width: int
    tasks: tuple[str, ...]
    parents: tuple[int, ...]
    stopped: tuple[bool, ...]
    model: Model

    def as_read_by(self, task: int, values: Tensor) -> Tensor:
        """``values``, which other tasks read too, without a way back where the task's gradient is stopped."""
        return values.detach() if self.stopped[task] else values
