"""The two ways in which a run ends early."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ctr_pipeline.gradients import CAUSE_ORDER, Diagnosis, HealthReport


class Cancelled(Exception):  # noqa: N818 - a request, not an error
    """The run was asked to stop."""


class Stopped(Exception):  # noqa: N818 - the guard did its work
    """The run was stopped: a value was not finite, a check or a detector that stops found an error, or it diverged.

    Attributes:
        cause: Why, and where.
        health: The run up to the bad step.
        bundle: Folder of the step, from which it can be repeated; None where no step was stopped, and in other processes
            than the first.
    """

    def __init__(self, cause: Diagnosis, health: HealthReport, bundle: Path | None = None) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.bundle = bundle
        self.health = health


def elsewhere(step: int) -> Diagnosis:
    """What a process reports that stops because another one found the cause."""
    return Diagnosis(kind="health", tensor="", feature=None, row=None, step=step, message="stopped by another process")


def first_cause(diagnoses: Sequence[Diagnosis]) -> tuple[int, Diagnosis]:
    """Of the processes' diagnoses the one earliest in the computation, with the rank that has it.

    A process that only follows others has one without a tensor.
    """
    return min(enumerate(diagnoses), key=lambda item: (not item[1].tensor, CAUSE_ORDER.index(item[1].kind), item[0]))


def with_leading_finding(cause: Diagnosis, health: HealthReport) -> Diagnosis:
    """The cause with the strongest error before it: a value that is not finite is mostly where a fault ends."""
    errors = (found for found in health.strongest if not found.consequence and found.finding.severity == "error")
    # What is measured in the stopped step itself is broken by the same value.
    leading = next((found for found in errors if found.finding.step is None or found.finding.step < cause.step), None)
    if leading is None or cause.kind in ("input", "contract", "health"):
        return cause
    message = f"{cause.message}. Before it, {leading.name}: {leading.finding.message}"
    return replace(cause, message=message, leading=leading.name)
