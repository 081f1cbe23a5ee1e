"""Turns our own errors, which are written for users, into step failures that show the message and no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg


@contextmanager
def refusals() -> Iterator[None]:
    """Within it, an error class of the project (a ``ValueError`` defined in ``ctr_pipeline``) fails the step plainly.

    Raises:
        dagster.Failure: with the error's message as description.
    """
    try:
        yield
    except ValueError as error:
        if not type(error).__module__.startswith("ctr_pipeline."):
            raise
        raise dg.Failure(str(error), allow_retries=False) from None


def require(check: dg.AssetCheckResult) -> Iterator[dg.AssetCheckResult]:
    """Hands out a blocking check that failed, and fails the step: nothing counts as made that did not pass it.

    Dagster alone would record the materialisation first, and a later run would take it for good.

    Raises:
        dagster.Failure: with the check's description.
    """
    if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
        yield check
        raise dg.Failure(f"{check.check_name}: {check.description}", allow_retries=False)
