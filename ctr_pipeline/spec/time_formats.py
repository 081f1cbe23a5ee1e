"""How a spec writes the format of a time, and what makes one unusable."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

_DIRECTIVE = re.compile(r"%([:#]?z|\.[369]?f|[369]f|.|$)", re.DOTALL)
_KNOWN = frozenset("YymbBhdejaAuwGgVHkIlMSpPfzTRDFrcsnt%+") | {
    *(":z", "#z"),
    *(".f", ".3f", ".6f", ".9f", "3f", "6f", "9f"),
}
_YEARS = frozenset("YyGgDFcs+")


def check_format(form: str) -> str:
    """``form``, if a date can be read by it.

    Raises:
        ValueError: it has a directive that is unknown or ambiguous, or none for the year.
    """
    found = [match[1] for match in _DIRECTIVE.finditer(form)]
    if "Z" in found:
        raise ValueError(
            "`%Z` stands for the name of a zone, which does not determine an offset: write `%z` for offsets such as "
            "+0100; or the name itself, such as `UTC`, and set `time_zone`"
        )
    unknown = [f"%{directive}" for directive in found if directive not in _KNOWN]
    if unknown:
        raise ValueError(
            f"`{unknown[0]}` is no directive of a time format; known are those of strftime, such as %Y, %m, %d, %b, %H, "
            "%I, %M, %S, %.f (fraction of a second), %p and %z"
        )
    if re.search(r"(?<!\.)%f", form):
        raise ValueError("`%f` stands right after a point, as in `%S.%f`; after other signs use `%3f`, `%6f` or `%9f`")
    if {"I", "l"} & set(found) and not {"p", "P"} & set(found):
        raise ValueError("`%I` is an hour of 12: add `%p` for AM or PM, or write `%H` for an hour of 24")
    if not _YEARS & set(found):
        raise ValueError("it has no year: write `%Y` (2026) or `%y` (26), as in '%d/%m/%Y %H:%M'")
    return form


def _check_formats(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        return check_format(value)
    if not isinstance(value, dict) or not value or not all(isinstance(part, str) for part in (*value, *value.values())):
        raise ValueError("a format such as '%d/%m/%Y %H:%M' is expected, or a mapping of columns to formats")
    return {column: check_format(form) for column, form in value.items()}


TimeFormats = Annotated[str | dict[str, str] | None, BeforeValidator(_check_formats)]
"""The strftime format of the texts in all time columns of a log, or in each by name."""


def require_time_columns(where: str, formats: str | Mapping[str, str] | None, columns: Collection[str | None]) -> None:
    """Raises ValueError where formats by column name one that is not among ``columns``, the times of the log ``where``."""
    unknown = sorted(formats.keys() - set(columns)) if isinstance(formats, Mapping) else []
    if unknown:
        named = sorted(column for column in columns if column is not None)
        raise ValueError(
            f"`time_format` of {where} names {unknown[0]!r}, which is no time column of it; those are {', '.join(named)}"
        )
