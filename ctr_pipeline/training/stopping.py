"""The two ways in which a run ends early."""

from collections.abc import Sequence

from ctr_pipeline.gradients import CAUSE_ORDER, Diagnosis, HealthReport


class Cancelled(Exception):  # noqa: N818 - a request, not an error
    """The run was asked to stop."""


class Stopped(Exception):  # noqa: N818 - the guard did its work
    """The guard stopped the run before an update with a value that is not finite.

    Attributes:
        cause: What was not finite, and where.
        health: The run up to the bad step.
    """

    def __init__(self, cause: Diagnosis, health: HealthReport) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.health = health


def first_cause(diagnoses: Sequence[Diagnosis]) -> tuple[int, Diagnosis]:
    """Of the processes' diagnoses the one earliest in the computation, with the rank that has it."""
    return min(enumerate(diagnoses), key=lambda item: (CAUSE_ORDER.index(item[1].kind), item[0]))
