"""Values that a spec declares to mean a missing one, in whatever format and type a log holds them."""

from collections.abc import Sequence
from functools import cache

import polars as pl

from ctr_pipeline.sources.canonical import BLANKS, declared_texts, text_of

_TRUTH = ("true", "false")


def null_texts(values: Sequence[str | int | float | bool]) -> tuple[str, ...]:
    """The texts of declared values. Empty text is not among them: it is missing in every log."""
    return _distinct_texts(tuple(str(value) for value in values))


@cache
def _distinct_texts(values: tuple[str, ...]) -> tuple[str, ...]:
    # Asked for each column of each file, of which there may be many thousands.
    return tuple(dict.fromkeys(text for text in declared_texts(values) if text))


def without_nulls(value: pl.Expr, kind: pl.DataType, texts: Sequence[str]) -> pl.Expr:
    """``value``, null where it is one of ``texts``; in lists, each value.

    Values are compared by their text, as everywhere: -1, -1.0 and "-1" are one value.
    """
    if isinstance(kind, pl.List):
        inner = kind.inner if isinstance(kind.inner, pl.DataType) else kind.inner()
        element = without_nulls(pl.element(), inner, texts)
        return value.list.eval(element) if texts else value
    if kind != pl.String:
        # Words are no values of other types; to look for them would keep conditions from Parquet's statistics.
        texts = [text for text in texts if text in _TRUTH or text[-1:].isdigit() or text.endswith("inf")]
    if not texts:
        return value
    text = _text(value, kind, texts)
    return value if text is None else pl.when(~text.is_in(texts).fill_null(False)).then(value)


def _text(value: pl.Expr, kind: pl.DataType, texts: Sequence[str]) -> pl.Expr | None:
    if kind == pl.String and not any(text in _TRUTH or text[-1].isdigit() for text in texts):
        # These have one spelling: no text but themselves is read as one of them.
        return value.str.strip_chars(BLANKS)
    if kind == pl.Datetime:
        # As a day where it is the beginning of one, which a log in text has as a day.
        return value.dt.to_string("%Y-%m-%d %H:%M:%S%.f").str.strip_suffix(" 00:00:00")
    return text_of(value, kind)
