"""Errors of the ranker."""

from ctr_pipeline.errors import UserError


class RankerError(UserError):
    """A layout, a model setting or a stored model that does not fit."""
