"""From an id as the user's log has it to the hash that stands for it in every table."""

import re
import sys
from collections.abc import Mapping

from ctr_pipeline.deployment.raw_logs import KEY_VARIABLE, key_path, pseudonymiser
from ctr_pipeline.errors import UserError

_STDIN = "-"


class IdentityError(UserError):
    """The hash of an id cannot be found; the message never contains the id."""


def identity_hash(raw: str | None, hashed: str | None, option: str, environment: Mapping[str, str]) -> str:
    """The hash that one of two options names: ``--<option>`` with the raw id, or ``--<option>-hash``.

    The raw id is hashed and forgotten. ``-`` reads it from standard input, which leaves it out of the shell's history
    and of the list of processes.

    Args:
        raw: Value of ``--<option>``.
        hashed: Value of ``--<option>-hash``.
        option: Name of the option.
        environment: Where the key is named.

    Raises:
        IdentityError: not exactly one is given, the hash is none, or there is no key.
    """
    from ctr_pipeline.sources.pseudonyms import PSEUDONYM_LENGTH

    if (raw is None) == (hashed is None):
        raise IdentityError(f"give either --{option} with the id as the log has it, or --{option}-hash.")
    if hashed is not None:
        if not re.fullmatch(f"[0-9a-f]{{{PSEUDONYM_LENGTH}}}", hashed):
            raise IdentityError(
                f"--{option}-hash: expected {PSEUDONYM_LENGTH} digits of 0-9 and a-f, as in the tables. "
                f"For an id of the log use --{option}."
            )
        return hashed
    text = (sys.stdin.readline() if raw == _STDIN else raw or "").strip("\r\n")
    if not text:
        raise IdentityError(f"--{option}: the id is empty.")
    return pseudonym_of(text, environment)


def pseudonym_of(text: str, environment: Mapping[str, str]) -> str:
    """The hash of the id ``text`` under the deployment's key.

    Raises:
        IdentityError: there is no key; none is made here, since nothing was hashed with it.
    """
    import polars as pl

    if not environment.get(KEY_VARIABLE) and not key_path(environment).is_file():
        raise IdentityError(
            f"there is no key that ids were hashed with: {KEY_VARIABLE} is not set and {key_path(environment)} is "
            "absent. Name the key of the deployment, or give the hash itself."
        )
    frame = pl.DataFrame({"id": [text]}, schema={"id": pl.String})
    return str(frame.select(pseudonymiser(environment).expr("id")).item())
