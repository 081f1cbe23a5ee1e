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
