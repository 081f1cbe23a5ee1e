"""The two ways in which a run ends early, and what is kept of a bad step."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctr_pipeline.gradients import CAUSE_ORDER, BatchView, Explanation, HealthSummary, write_bundle


class Cancelled(Exception):  # noqa: N818 - a request, not an error
    """The run was asked to stop."""


class Stopped(Exception):  # noqa: N818 - the guard did its work
    """The guard stopped the run before an update with a value that is not finite.

    Attributes:
        cause: What was not finite, and where.
        health: The run up to the bad step.
    """

    def __init__(self, cause: Explanation, health: HealthSummary) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.health = health


def first_cause(explanations: Sequence[Explanation]) -> tuple[int, Explanation]:
    """Of the processes' explanations the one earliest in the computation, with the rank that has it."""
    return min(enumerate(explanations), key=lambda item: (CAUSE_ORDER.index(item[1].kind), item[0]))


def keep_bad_step(
    directory: Path,
    cause: Explanation,
    batch: BatchView,
    random_before: Mapping[str, Any],
    weights: Mapping[str, Any],
    records: Iterable[Mapping[str, Any]],
) -> None:
    """Write the bundle of a stopped step: with these weights, this batch and this random state the step repeats."""
    tensors = {
        "numeric": batch.numeric, "ids": batch.ids, "labels": batch.labels, "weights": batch.weights, "rows": batch.rows,
    }  # fmt: skip
    write_bundle(directory, cause, {"batch": tensors, "random": dict(random_before), **weights}, records)
