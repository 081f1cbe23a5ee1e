"""The error of this package, and how its messages name files and columns."""

import difflib
from collections.abc import Sequence

from ctr_pipeline.errors import UserError

_SHOWN = 20


class SourceError(UserError):
    """A log that cannot be read as declared.

    The message names the file, the column, what was found, what was expected and what to do. It never has a value
    of an id column.
    """


def near_miss(wanted: str, available: Sequence[str]) -> str:
    """`` Did you mean `x`?`` when one of ``available`` resembles ``wanted``, else an empty text."""
    by_folded = {name.casefold().strip(): name for name in available}
    found = difflib.get_close_matches(wanted.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f" Did you mean `{by_folded[found[0]]}`?" if found else ""


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
