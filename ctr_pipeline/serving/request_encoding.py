"""Raw feature values as model inputs, column by column: a request has one user and many candidates."""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import MISSING_ROW, IdColumn, Layout
from ctr_pipeline.features.local_time import time_part_of
from ctr_pipeline.serving.category_rows import CategoryRows, Vocabulary
from ctr_pipeline.serving.request_values import (
    BundleError,
    category_texts,
    finite_number,
    finite_vector,
    instant,
    known_value,
    padded_numbers,
    parts_of,
    refuse_unequal_lists,
)

TIME = "ts"
"""In a request: the time of the impression, of which some features are made. No feature is called so."""

_PLAIN_NUMBERS = frozenset((float, int, bool, type(None)))

LARGEST = float(np.finfo(np.float32).max)
"""Largest number in single precision."""


@dataclass(frozen=True, slots=True)
class RequestEncoder:
    """Encodes requests for one model.

    Attributes:
        layout: Order and meaning of the model's inputs.
        tables: By categorical feature the embedding rows of its values.
        numbers: By numeric feature its columns of the numeric array.
        categories: By categorical feature its column and its places in the id array.
    """

    layout: Layout
    tables: Mapping[str, CategoryRows]
    numbers: Mapping[str, slice]
    categories: Mapping[str, tuple[IdColumn, slice]]

    @classmethod
    def of(cls, layout: Layout, vocabulary: Vocabulary) -> Self:
        """The encoder of a layout and its vocabulary."""
        tables = {
            column.name: vocabulary.rows(column.vocabulary, layout.null_values.get(column.name, ()))
            for column in layout.ids
        }
        categories = {column.name: (column, at) for column, at in zip(layout.ids, layout.id_places, strict=True)}
        return cls(layout, tables, layout.number_places, categories)

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """As :meth:`columns`, of a mapping of feature to value for each row."""
        given = [
            {name: values[0] for name, values in self.with_time_parts({n: [v] for n, v in row.items()}, at).items()}
            if TIME in row
            else row
            for at, row in enumerate(rows)
        ]
        names: dict[str, None] = {}
        for at, row in enumerate(given):
            for name in row:
                if name not in names:
                    self.refuse_unknown(name, f"row {at}: feature {name!r}")
                    names[name] = None
        return self.columns({name: [row.get(name) for row in given] for name in names}, len(rows))

    def columns(
        self, given: Mapping[str, Sequence[Any] | NDArray[Any]], rows: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Numeric [N, D] and ids [N, F] of N rows, from a column of N values for each feature; see :meth:`Bundle.encode`.

        Args:
            given: Feature to its N values. An absent feature is missing in all rows.
            rows: N.

        Raises:
            BundleError: the model does not know a feature, a column has another length, or a value is of a wrong type.
        """
        columns = {name: _listed(values, name, rows) for name, values in given.items()}
        if TIME in columns:
            columns = self.with_time_parts(columns)
        if self.layout.event_lists:
            for at in range(rows):
                row = {name: values[at] for name, values in columns.items()}
                refuse_unequal_lists(self.layout.event_lists, row, f"row {at}")
        exact = np.full((rows, len(self.layout.numeric)), np.nan)
        ids = np.tile(self.layout.lone(MISSING_ROW), (rows, 1))
        for name, values in columns.items():
            if name in self.numbers:
                exact[:, self.numbers[name]] = self.numbers_of(name, values)
            else:
                self.refuse_unknown(name, f"feature {name!r}")
                ids[:, self.categories[name][1]] = self.rows_of(name, values)
        return single(exact), ids

    def refuse_unknown(self, name: str, where: str) -> None:
        """Raises BundleError where the model has no feature ``name``, called ``where``."""
        if name in self.numbers or name in self.categories:
            return
        known = [*self.numbers, *self.categories]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}."
        raise BundleError(f"{where}: the model has no such feature; {hint}")

    def with_time_parts(self, columns: Mapping[str, list[Any]], first: int = 0) -> dict[str, list[Any]]:
        """The columns without the time, but with the features that are made of it, unless they are there.

        Args:
            columns: They have the time.
            first: Number of the first row, for messages.
        """
        made = {column.name: column.from_time for column in self.layout.ids if column.from_time is not None}
        if not made:
            return dict(columns)
        times = [instant(value, f"row {at}: {TIME!r}") for at, value in enumerate(columns[TIME], first)]
        parts: dict[str, list[Any]] = {
            name: [None if time is None else time_part_of(time, form.part, form.zone) for time in times]
            for name, form in made.items()
        }
        return parts | {name: values for name, values in columns.items() if name != TIME}

    def numbers_of(self, name: str, values: list[Any]) -> NDArray[np.float64]:
        """[N, width] of a numeric feature.

        Raises:
            BundleError: a value is none of the feature.
        """
        nulls, places = self.layout.null_values.get(name, ()), self.numbers[name]
        width = places.stop - places.start
        if any(one.age == name for one in self.layout.event_lists):
            return self._each(name, values, nulls, width, padded_numbers)
        if self.layout.numeric[places.start].is_element:
            return self._each(name, values, nulls, width, finite_vector)
        if not nulls and set(map(type, values)) <= _PLAIN_NUMBERS:
            try:
                found = np.array(values, dtype=np.float64)
            except OverflowError:
                found = np.array([math.inf])
            if not np.isinf(found).any():
                return found[:, None]
        return self._each(name, values, nulls, 1, lambda value, _, where: [finite_number(value, where)])

    @staticmethod
    def _each(name: str, values: list[Any], nulls: Collection[str], width: int, read: Any) -> NDArray[np.float64]:
        """[N, width] by ``read`` of each value, its width and what to call it."""
        found = np.empty((len(values), width))
        for at, value in enumerate(values):
            where = f"row {at}: feature {name!r}"
            found[at] = read(known_value(value, nulls, where) if nulls else value, width, where)
        return found

    def rows_of(self, name: str, values: list[Any]) -> NDArray[np.int64]:
        """[N, places] embedding rows of a categorical feature.

        Raises:
            BundleError: a value is none of the feature.
        """
        column, _ = self.categories[name]
        table, where = self.tables[column.name], f"feature {column.name!r}"
        pooled = column.pooled
        if pooled is None:
            return table.rows(values, where)[:, None]
        lists = [
            None if value is None else parts_of(value, "categories", f"row {at}: {where}")
            for at, value in enumerate(values)
        ]
        try:
            return table.lists(lists, pooled.length, last=pooled.keep == "last", empty=column.empty_when_missing)
        except (BundleError, TypeError):
            for at, value in enumerate(lists):
                category_texts(value, f"row {at}: {where}")
            raise


def single(exact: NDArray[np.float64]) -> NDArray[np.float32]:
    """Numbers in single precision. As in packing, what it cannot hold is missing."""
    return np.where(np.abs(exact) <= LARGEST, exact, np.nan).astype(np.float32)


def _listed(values: Sequence[Any] | NDArray[Any], name: str, rows: int) -> list[Any]:
    """A column as a plain list of ``rows`` values."""
    plain = values.tolist() if hasattr(values, "tolist") else values.to_list() if hasattr(values, "to_list") else values
    if isinstance(plain, str | bytes | Mapping) or not isinstance(plain, Sequence):
        raise BundleError(f"feature {name!r}: found {type(values).__name__}; expected a list of {rows} values")
    if len(plain) != rows:
        raise BundleError(f"feature {name!r}: found {len(plain)} values; expected {rows}, one for each row")
    return plain if isinstance(plain, list) else list(plain)
