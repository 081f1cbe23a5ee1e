"""Turns errors that are written for users into step failures that show the message and no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ctr_pipeline.errors import UserError
from ctr_pipeline.orchestration.checks.definition import refused


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


def require(asset: str, checks: list[dg.AssetCheckResult]) -> Iterator[dg.AssetCheckResult]:
    """Yields the checks and fails the step where a blocking one failed: nothing counts as made that did not pass it.

    Dagster alone would record the materialisation first, and a later run would take it as valid.

    Raises:
        dagster.Failure: with the descriptions of the checks that failed.
    """
    if refused(asset, checks):
        yield from checks
    forbid(asset, checks)


def forbid(asset: str, checks: list[dg.AssetCheckResult]) -> None:
    """Fails the step where a blocking check failed; what it has yielded so far stays.

    Raises:
        dagster.Failure: with the descriptions of the checks that failed.
    """
    if broken := refused(asset, checks):
        raise dg.Failure(" ".join(f"{check.check_name}: {check.description}" for check in broken), allow_retries=False)
