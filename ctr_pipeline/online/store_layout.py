"""What a snapshot holds of each key, and as which bytes."""

import hashlib
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.spec import Spec
from ctr_pipeline.spec.history import (
    HistoryCount,
    HistoryFeature,
    HistoryList,
    HistoryNumber,
    HistorySequence,
    is_exact,
)

LONGEST_KEY = 400
"""Bytes of a key that are stored as they are; LMDB takes 511. A longer one is stored as its digest."""

NUMBERS, LISTS = 0, 128
"""First byte of a record's key: this plus the place of its key column."""

MOST_KEY_COLUMNS = 128

ITEMS, KINDS, INSTANTS = 0, 1, 2
"""Places of the three lists of a listing feature in its record."""


@dataclass(frozen=True)
class KeyLayout:
    """The features of one key column."""

    key: str
    """``user``, or the name of a categorical feature."""
    place: int
    """Place of the key column in the layout."""
    numbers: tuple[HistoryNumber, ...]
    """Features of one number, in the order of the record."""
    lists: tuple[HistoryList, ...]
    """Features that list ids."""

    @property
    def inputs(self) -> tuple[tuple[str, ...], ...]:
        """Names of the model's inputs that a look-up gives, as a request calls them: a group for each feature."""
        return (*((feature.name,) for feature in self.numbers), *(list_inputs(feature) for feature in self.lists))

    @cached_property
    def without_past(self) -> tuple[float, ...]:
        """The numbers of a key without a past: counts are 0, the others are missing."""
        return tuple(0.0 if isinstance(f, HistoryCount) else math.nan for f in self.numbers)

    @cached_property
    def nothing(self) -> bytes:
        """The numbers of a key without a past, as a record."""
        return array("d", self.without_past).tobytes()

    @cached_property
    def missing(self) -> bytes:
        """The numbers of a missing key, as a record."""
        return array("d", [math.nan] * len(self.numbers)).tobytes()


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """The features of the past that a snapshot holds, by key column.

    Features with ``exact`` look back from the impression and are not in it.
    """

    keys: tuple[KeyLayout, ...]

    @classmethod
    def of(cls, spec: Spec) -> Self:
        """The layout for a spec's history features."""
        stored = [f for f in spec.features.history if not is_exact(f)]
        columns = sorted({feature.key for feature in stored})
        assert len(columns) <= MOST_KEY_COLUMNS, "one byte says which key column a record is of"
        return cls(tuple(_key_layout(key, at, stored) for at, key in enumerate(columns)))


def _key_layout(key: str, place: int, features: Iterable[HistoryFeature]) -> KeyLayout:
    mine = [feature for feature in features if feature.key == key]
    numbers = tuple(f for f in mine if isinstance(f, HistoryNumber))
    return KeyLayout(key, place, numbers, tuple(f for f in mine if isinstance(f, HistoryList)))


def list_inputs(feature: HistoryList) -> tuple[str, ...]:
    """Names of the inputs that a listing feature gives, as a request calls them."""
    if not isinstance(feature, HistorySequence):
        return (feature.name,)
    if feature.events is None:
        return (*feature.items, *feature.ages)
    return (feature.name, feature.age, *(() if feature.event is None else (feature.event,)))


def record_key(kind: int, place: int, text: str) -> bytes:
    """Key of a record in LMDB.

    Args:
        kind: :data:`NUMBERS` or :data:`LISTS`.
        place: Place of the key column.
        text: The key as the history table has it.
    """
    content = text.encode()
    if len(content) > LONGEST_KEY:
        # No UTF-8 text begins with this byte.
        content = b"\xff" + hashlib.sha256(content).digest()
    return bytes((kind + place,)) + content


def wide_rows(layout: KeyLayout, rows: Any) -> tuple[list[str], NDArray[np.float64]]:
    """The numbers of one day by key: K keys in the order of their bytes, and their values [K, features].

    Args:
        layout: The key column.
        rows: Polars frame with ``feature``, ``key`` and ``value`` of one day of the history table.
    """
    import polars as pl

    names = [feature.name for feature in layout.numbers]
    of_each = [
        pl.col("value").filter(pl.col("feature") == name).first().alias(f"value:{at}") for at, name in enumerate(names)
    ]
    wide = rows.filter(pl.col("feature").is_in(names)).group_by("key").agg(of_each).sort("key")
    values = wide.select(pl.exclude("key").cast(pl.Float64).fill_null(np.nan)).to_numpy().reshape(-1, len(names))
    return wide["key"].to_list(), np.where(np.isnan(values), layout.without_past, values)
