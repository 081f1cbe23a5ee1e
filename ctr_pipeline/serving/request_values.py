"""One raw value of a request as the training log would have it."""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from ctr_pipeline.errors import UserError
from ctr_pipeline.features.layout import EventList


class BundleError(UserError):
    """A bundle or a request that cannot be used; the message says what was found, where, and what was expected."""


_EXACT = float(2**53)
_MOST_BITS = 1023
"""Length of a whole number that surely is below the largest double; Python does not write much longer ones."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = (datetime(2200, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_BLANKS = " \t\r\n\v\f"
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
_BOOLEANS = {"true", "True", "TRUE", "false", "False", "FALSE"}


def category_text(value: Any, where: str) -> str | None:
    """The text under which the vocabulary holds a category: the scalar form of what reading a log does to a column.

    It is that of :func:`ctr_pipeline.sources.canonical.text_of`, without a data frame for each value. None, NaN and
    empty text are missing (None).

    Raises:
        BundleError: the value has no such text, as a list has not.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _text_of_text(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise BundleError(f"{where}: found a whole number of {value.bit_length()} bits; expected a shorter one")
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer() and abs(value) < _EXACT:
            return str(int(value))
    elif isinstance(value, Decimal):
        if not value.is_finite():
            return None
        digits = f"{value:f}"
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return "0" if digits == "-0" else digits
    elif not isinstance(value, date | datetime | time):
        raise BundleError(f"{where}: found {type(value).__name__}; expected text, a number, a boolean or null")
    return str(pl.Series([value]).cast(pl.String).item())


def _text_of_text(value: str) -> str | None:
    text = value.strip(_BLANKS)
    if text in _BOOLEANS:
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    number = whole[1] if whole else text
    return "0" if number == "-0" else number or None


def instant(value: Any, where: str) -> int | None:
    """A time in microseconds since 1970 UTC; None where it is missing.

    Raises:
        BundleError: the value is no time, or a local time without its zone.
    """
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return (value - _EPOCH) // timedelta(microseconds=1)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LATEST:
        raise BundleError(
            f"{where}: found {type(value).__name__}; expected a date and time with its zone, or a whole number of "
            "microseconds since 1970 UTC"
        )
    return value


def known_value(value: Any, nulls: Collection[str], where: str) -> Any:
    """``value``, None where its text is one of ``nulls``; in a list, each value.

    Raises:
        BundleError: the value has no text.
    """
    parts = value.tolist() if hasattr(value, "tolist") else value.to_list() if hasattr(value, "to_list") else value
    if isinstance(parts, list | tuple):
        return [known_value(part, nulls, where) for part in parts]
    return None if category_text(parts, where) in nulls else parts


def category_texts(value: Any, where: str) -> list[str | None] | None:
    """The texts of the values in a list, None for a missing one; None for a missing list.

    Raises:
        BundleError: the value is no list, or one of its values has no text.
    """
    if value is None:
        return None
    return [category_text(part, where) for part in parts_of(value, "categories", where)]


def finite_vector(value: Any, width: int, where: str) -> list[float]:
    """``width`` numbers, all NaN for a missing or empty vector.

    Raises:
        BundleError: the value is no list of that many finite numbers.
    """
    parts = [] if value is None else parts_of(value, "numbers", where)
    if not parts:
        return [math.nan] * width
    if len(parts) != width:
        raise BundleError(f"{where}: found {len(parts)} numbers; expected {width}, or null")
    numbers = [finite_number(part, where) for part in parts]
    if any(map(math.isnan, numbers)):
        raise BundleError(f"{where}: one of its numbers is missing; expected {width} numbers, or null")
    return numbers


def padded_numbers(value: Any, width: int, where: str) -> list[float]:
    """The first ``width`` numbers of a list, then NaN; all NaN for a missing list.

    Raises:
        BundleError: the value is no list of finite numbers.
    """
    parts = [] if value is None else parts_of(value, "numbers", where)
    numbers = [finite_number(part, where) for part in parts[:width]]
    return numbers + [math.nan] * (width - len(numbers))


def refuse_unequal_lists(lists: Iterable[EventList], given: Mapping[str, Any], where: str) -> None:
    """Refuses a row in which the items, kinds and ages of events are lists of different lengths.

    Raises:
        BundleError: names them.
    """
    for one in lists:
        names = [name for name in (one.name, one.event, one.age) if name is not None]
        lengths = {
            name: 0 if given.get(name) is None else len(parts_of(given[name], "values", f"{where}: feature {name!r}"))
            for name in names
        }
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} of {name}" for name, length in lengths.items())
            raise BundleError(f"{where}: found {found}; events have one item, kind and age each, the latest first")


def parts_of(value: Any, kind: str, where: str) -> list[Any]:
    """The values of a list, which may be an array or a series.

    Raises:
        BundleError: the value is no list; ``kind`` says of what one was expected.
    """
    # An array of numpy, or a series of polars, is a list too.
    parts = value.tolist() if hasattr(value, "tolist") else value.to_list() if hasattr(value, "to_list") else value
    if not isinstance(parts, list | tuple):
        raise BundleError(f"{where}: found {type(value).__name__}; expected a list of {kind}, or null")
    return list(parts)


def finite_number(value: Any, where: str) -> float:
    """A number; NaN for None and NaN, 1 and 0 for booleans.

    Raises:
        BundleError: the value is infinite or no number.
    """
    if value is None:
        return math.nan
    if not isinstance(value, bool | int | float):
        raise BundleError(f"{where}: found {type(value).__name__}; expected a number or null")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise BundleError(
            f"{where}: found a whole number of {value.bit_length()} bits; expected one that a double holds"
        )
    if math.isinf(value):
        raise BundleError(f"{where}: found {value}; expected a finite number or null")
    return float(value)
