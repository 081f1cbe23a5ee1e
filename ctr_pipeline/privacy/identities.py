"""From an id as the user's log has it to the hash that stands for it in every table."""

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ctr_pipeline.errors import UserError

if TYPE_CHECKING:
    from ctr_pipeline.sources import Pseudonymiser

_STDIN = "-"


class IdentityError(UserError):
    """The hash of an id cannot be found; the message never contains the id."""


def identity_hash(raw: str | None, hashed: str | None, option: str, key: "Callable[[], Pseudonymiser]") -> str:
    """The hash that one of two options names: ``--<option>`` with the raw id, or ``--<option>-hash``.

    The raw id is hashed and forgotten. ``-`` reads it from standard input, which leaves it out of the shell's history
    and of the list of processes.

    Args:
        raw: Value of ``--<option>``.
        hashed: Value of ``--<option>-hash``.
        option: Name of the option.
        key: Gives what hashes a raw id with the deployment's key; called only where there is one to hash.

    Raises:
        IdentityError: not exactly one is given, or the hash is none.
    """
    from ctr_pipeline.sources.canonical import BLANKS
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
    text = (sys.stdin.readline() if raw == _STDIN else raw or "").strip(BLANKS)
    if not text:
        raise IdentityError(f"--{option}: the id is empty.")
    return pseudonym_of(text, key())


def pseudonym_of(text: str, pseudonymiser: "Pseudonymiser") -> str:
    """The hash of the id ``text``, which may be any spelling of it that a log may have."""
    import polars as pl

    from ctr_pipeline.sources.canonical import declared_texts

    frame = pl.DataFrame({"id": declared_texts([text])}, schema={"id": pl.String})
    return str(frame.select(pseudonymiser.expr("id")).item())
