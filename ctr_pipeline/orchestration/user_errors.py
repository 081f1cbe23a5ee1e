"""Turns our own errors, which are written for users, into step failures that show the message and no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ctr_pipeline.errors import UserError


@contextmanager
def user_errors() -> Iterator[None]:
    """Within it, a :class:`~ctr_pipeline.errors.UserError` fails the step with its message.

    Raises:
        dagster.Failure: with the error's message as description.
    """
    try:
        yield
    except UserError as error:
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
