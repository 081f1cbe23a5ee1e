"""The base of every error that is written for the user."""


class UserError(ValueError):
    """Something that the user can put right: the message names what was found, where, what was expected and what to do.

    Commands print the message alone, and a Dagster step fails with it, without a traceback.
    """
