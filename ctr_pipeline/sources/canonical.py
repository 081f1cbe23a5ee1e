"""One text for one value, in whatever format and type a log holds it; and numbers that a float has rounded."""

from collections.abc import Sequence

import polars as pl

TRUE, FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
"""Texts that are truth values."""
BLANKS = " \t\r\n\v\f"
"""What is cut off around a text."""

_EXACT = 2**53
"""From here on neighbouring whole numbers share a value in double precision."""

_WHOLE = r"^(-?(?:0|[1-9][0-9]*))\.0+$"
# What programs write for a float: a point, or a signed exponent. A code such as 123e45 has neither.
_FLOAT = r"^[+-]?[0-9]+(?:\.[0-9]+(?:[eE]\+?[0-9]+)?|[eE]\+[0-9]+)$"
# Spreadsheets write a comma where their language does.
_DECIMALS, _EXPONENT = r"^[+-]?[0-9][.,]([0-9]+)[eE]\+?[0-9]+$", r"^[+-]?[0-9][.,][0-9]+[eE]\+?([0-9]+)$"


def text_of(value: pl.Expr, kind: pl.DataType) -> pl.Expr | None:
    """The text under which a value is compared and stored, null where it is missing; None for types without one.

    Numbers are compared by value: 3, 3.0 and the decimal 3.00 are ``3``. So are texts that are whole numbers with a
    point (``3.0``), and the spellings of true and false. Other texts stay as they are: ``007``, ``1e5`` and ``1.10``
    may be codes. Blanks around a text are no part of it, and an empty text is missing.
    """
    if kind == pl.String:
        return _text_of_text(value)
    if kind.is_float():
        number = value.fill_nan(None)
        whole = (number == number.floor()) & (number.cast(pl.Float64).abs() < _EXACT)
        integer = pl.when(whole).then(number).cast(pl.Int64, strict=False).cast(pl.String)
        return pl.coalesce(integer, number.cast(pl.String))
    if kind.is_decimal():
        # The text of a decimal has all digits of its scale.
        text = value.cast(pl.String)
        short = pl.when(text.str.contains(".", literal=True)).then(
            text.str.strip_chars_end("0").str.strip_chars_end(".")
        )
        return pl.coalesce(short, text).replace("-0", "0")
    if kind == pl.Boolean or kind.is_numeric() or kind in (pl.Date, pl.Datetime, pl.Time, pl.Null):
        return value.cast(pl.String)
    return None


def _text_of_text(value: pl.Expr) -> pl.Expr:
    text = value.str.strip_chars(BLANKS)
    number = text.str.replace(_WHOLE, "${1}").replace("-0", "0")
    return (
        pl.when(text.is_in(TRUE))
        .then(pl.lit("true"))
        .when(text.is_in(FALSE))
        .then(pl.lit("false"))
        .when(text != "")
        .then(number)
    )


def declared_texts(values: Sequence[str | int | float | bool]) -> list[str]:
    """The texts of values that a spec names, for comparison with those of a log."""
    column = pl.DataFrame({"value": [str(value) for value in values]}, schema={"value": pl.String})
    return [text or "" for text in column.select(_text_of_text(pl.col("value"))).to_series()]


def exact_limit(kind: pl.DataType) -> int:
    """From which whole number on a column of type ``kind`` gives neighbours one value, where it holds floats."""
    return 2**11 if kind == pl.Float16 else 2**24 if kind == pl.Float32 else _EXACT


def is_rounded(value: pl.Expr, kind: pl.DataType) -> pl.Expr | None:
    """Whether a value is a float that may stand for several whole numbers; None for types that hold no floats."""
    if kind.is_float():
        return value.cast(pl.Float64).fill_nan(None).abs() >= exact_limit(kind)
    if kind != pl.String:
        return None
    text = value.str.strip_chars(BLANKS)
    large = text.str.contains(_FLOAT) & (text.cast(pl.Float64, strict=False).abs() >= _EXACT)
    return large | lacks_digits(value)


def lacks_digits(text: pl.Expr) -> pl.Expr:
    """Whether a text is a number whose last digits before the point were cut off, as in ``1.7721e+09``."""
    number = text.str.strip_chars(BLANKS)
    decimals = number.str.extract(_DECIMALS).str.len_chars().cast(pl.Int64)
    return (number.str.extract(_EXPONENT).cast(pl.Int64, strict=False) > decimals).fill_null(False)
