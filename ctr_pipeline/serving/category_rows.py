"""From the values of a categorical column to embedding rows, at the cost of a look-up each."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctr_pipeline.features.layout import MISSING_ROW, PADDING, UNKNOWN_ROW
from ctr_pipeline.serving.request_values import BundleError, category_text

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")
"""Texts of whole numbers that a float holds too: 5 and 5.0 have the same text, and are the same key of a dictionary."""

_FLAGS = frozenset((bool, np.bool_))

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class CategoryRows(dict[Any, int]):
    """Embedding row of each value of a categorical feature, as reading a log and looking it up in the vocabulary gives it.

    Keys are the texts of the vocabulary and, where they are those of numbers, the numbers. A text that is a key is its own canonical form, so
    that most look-ups are one. Any other value goes the long way, through
    :func:`~ctr_pipeline.serving.request_values.category_text`.

    Args:
        vocabulary: Canonical text to embedding row.
        nulls: Texts that mean a missing value.
    """

    def __init__(self, vocabulary: Mapping[str, int], nulls: Collection[str] = ()) -> None:
        super().__init__(vocabulary)
        self.update(dict.fromkeys(nulls, MISSING_ROW))
        texts = [text for text in self if _NUMBER.fullmatch(text)]
        whole = {int(text): self[text] for text in texts if _WHOLE.fullmatch(text)}
        self.update(whole)
        broken = pl.Series([text for text in texts if "." in text], dtype=pl.String)
        for text, number, again in zip(
            broken, numbers := broken.cast(pl.Float64), numbers.cast(pl.String), strict=True
        ):
            if text == again:
                self[number] = self[text]
        self[None] = self[""] = MISSING_ROW
        # To a dictionary, true is 1; its text is another.
        self._has_flags = 0 in whole or 1 in whole

    def __missing__(self, value: Any) -> int:
        text = category_text(value, "")
        return MISSING_ROW if text is None else self.get(text, UNKNOWN_ROW)

    def rows(self, values: Sequence[Any], where: str) -> NDArray[np.int64]:
        """[N] embedding rows of N values.

        Args:
            values: Texts, numbers, booleans or None.
            where: What the column is called in a message.

        Raises:
            BundleError: a value has no text, as a list has not; names its row.
        """
        read = self._read(values)
        try:
            return np.fromiter(map(read, values), dtype=np.int64, count=len(values))
        except (BundleError, TypeError):
            for at, value in enumerate(values):
                category_text(value, f"row {at}: {where}")
            raise

    def lists(
        self, values: Sequence[Sequence[Any] | None], length: int, *, last: bool, empty: bool
    ) -> NDArray[np.int64]:
        """[N, length] embedding rows of N lists, filled up with :data:`PADDING`.

        Args:
            values: Lists of values that have a text; None for a missing list.
            length: Places.
            last: Whether the last values of a longer list are kept, and not the first.
            empty: Whether a missing list is an empty one, and not a list of one missing value.
        """
        given: list[Sequence[Any]] = [(() if empty else (None,)) if value is None else value for value in values]
        flat = list(chain.from_iterable(given))
        lengths = np.fromiter(map(len, given), dtype=np.int64, count=len(given))
        rows = np.fromiter(map(self._read(flat), flat), dtype=np.int64, count=len(flat))
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        place = np.arange(len(flat)) - starts
        if last:
            place = place - np.repeat(np.maximum(lengths - length, 0), lengths)
        kept = (place >= 0) & (place < length)
        found = np.full((len(given), length), PADDING, dtype=np.int64)
        found[np.repeat(np.arange(len(given)), lengths)[kept], place[kept]] = rows[kept]
        return found

    def _read(self, values: Iterable[Any]) -> Any:
        """The function that looks a value up: the dictionary's own, unless a boolean may be taken for a number."""
        return self._slow if self._has_flags and _FLAGS & set(map(type, values)) else self.__getitem__

    def _slow(self, value: Any) -> int:
        return self.__missing__(value)


class Vocabulary(dict[str, Mapping[str, int]]):
    """By feature, canonical text to embedding row; its look-ups are made once, for features that share embeddings too."""

    def __init__(self, features: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__(features)
        self._made: dict[tuple[str, tuple[str, ...]], CategoryRows] = {}

    def rows(self, feature: str, nulls: Sequence[str]) -> CategoryRows:
        """The look-ups of the values of ``feature``, of which the texts ``nulls`` mean a missing one."""
        key = feature, tuple(nulls)
        if key not in self._made:
            self._made[key] = CategoryRows(self[feature], nulls)
        return self._made[key]
