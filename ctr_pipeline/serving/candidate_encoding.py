"""A request of one shared part and N candidates as model inputs, at the cost of the values that it holds."""

import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.features.layout import MISSING_ROW
from ctr_pipeline.features.request_columns import RequestColumns
from ctr_pipeline.serving.category_rows import CategoryRows
from ctr_pipeline.serving.request_encoding import LARGEST, TIME, RequestEncoder, single
from ctr_pipeline.serving.request_inputs import RequestInputs
from ctr_pipeline.serving.request_values import BundleError, finite_number, refuse_unequal_lists

_LARGEST = sys.float_info.max

_TEXTS = frozenset((str, int, float, type(None)))
"""Types of values by which a dictionary of categories may be asked as they are."""


@dataclass(frozen=True, slots=True)
class SharedRow:
    """What all candidates of a request have.

    Attributes:
        numbers: D raw numbers, NaN where missing.
        ids: F embedding rows.
        features: Names of the features that were given or made of the time.
    """

    numbers: list[float]
    ids: list[int]
    features: frozenset[str]


class CandidateEncoder:
    """Encodes requests for one model: first what all candidates share, then them.

    Args:
        encoder: Encodes single features.
        columns: What the candidates of a request share in the model.
    """

    def __init__(self, encoder: RequestEncoder, columns: RequestColumns) -> None:
        self.encoder, self._columns = encoder, columns
        self.categories = encoder.categories
        layout = encoder.layout
        self._missing_ids: list[int] = layout.lone(MISSING_ROW).tolist()
        own = set(columns.own_numbers)
        ids = set(columns.own_ids)
        self._shared = frozenset(
            [
                *(name for name, places in encoder.numbers.items() if places.start not in own),
                *(name for name, (_, places) in encoder.categories.items() if places.start not in ids),
            ]
        )
        self.declared_shared = self._shared if layout.candidate_features else frozenset()
        """Features that candidates must share; without a declaration they may have even events of their own."""
        self._numbers: dict[str, int] = {
            name: places.start
            for name, places in encoder.numbers.items()
            if places.stop == places.start + 1
            and not layout.numeric[places.start].is_element
            and not layout.null_values.get(name)
        }
        """Place of each feature that is a number, and nothing else: no vector, no text that means a missing value."""
        self.single_numbers = frozenset(self._numbers)
        self._categories: dict[str, tuple[CategoryRows, int]] = {
            name: (encoder.tables[name], places.start)
            for name, (column, places) in encoder.categories.items()
            if column.pooled is None
        }
        """Look-ups and place of each category of one value."""
        self._at_own_number = {place: at for at, place in enumerate(columns.own_numbers)}
        self._at_own_id = {place: at for at, place in enumerate(columns.own_ids)}
        features = [column.name for column in layout.id_columns]
        self.id_features = [[features[place] for place in part] for part in (columns.shared_ids, columns.own_ids)]
        """Features of the columns of ids that are shared, and of those that are not."""

    def shared(self, values: Mapping[str, Any]) -> SharedRow:
        """The values that all candidates have.

        Args:
            values: Feature to value. An absent feature is missing.

        Raises:
            BundleError: the model does not know a feature, or a value is of a wrong type.
        """
        numbers, ids = [math.nan] * len(self.encoder.layout.numeric), self._missing_ids.copy()
        given = self._fill(numbers, ids, values, "")
        return SharedRow(numbers, ids, frozenset(given))

    def request(self, row: SharedRow, candidates: Mapping[str, Sequence[Any]], count: int) -> RequestInputs:
        """The inputs of ``count`` candidates.

        Args:
            row: What all of them have.
            candidates: Feature to ``count`` values each. Features that are in ``row`` too are taken from here.
            count: Candidates N.

        Raises:
            BundleError: as for :meth:`shared`; or the model computes a feature once for all candidates.
        """
        if TIME in candidates:
            candidates = self._with_time_parts(row, candidates)
        repeated = [name for name in candidates if name in self._shared]
        if repeated and self.declared_shared:
            raise BundleError(
                f"feature {repeated[0]!r} is the same for all candidates of this model (`serving.candidate_features` of its "
                "spec): give it in `shared`, once"
            )
        if count == 1:
            numbers, ids = row.numbers.copy(), row.ids.copy()
            self._fill(numbers, ids, {name: values[0] for name, values in candidates.items()}, "row 0: ")
            return self._split(numbers, ids)
        return self._by_candidate(row, candidates, count) if repeated else self._own(row, candidates, count)

    def _own(self, row: SharedRow, candidates: Mapping[str, Sequence[Any]], count: int) -> RequestInputs:
        """Inputs of candidates whose features are none of those that are shared."""
        base = self._split(row.numbers, row.ids)
        # By columns: each is filled as a whole.
        exact = np.empty((count, len(self._columns.own_numbers)), order="F")
        exact[:] = base.numeric[0]
        ids = np.empty((count, len(self._columns.own_ids)), dtype=np.int64)
        ids[:] = base.ids[0]
        for name, values in candidates.items():
            if (place := self._numbers.get(name)) is not None:
                exact[:, self._at_own_number[place]] = self._number_column(name, values)
            elif name in self._categories:
                table, place = self._categories[name]
                ids[:, self._at_own_id[place]] = table.rows(values, f"feature {name!r}")
            elif name in self.encoder.numbers:
                start = self._at_own_number[self.encoder.numbers[name].start]
                found = self.encoder.numbers_of(name, list(values))
                exact[:, start : start + found.shape[1]] = found
            else:
                self.encoder.refuse_unknown(name, f"feature {name!r}")
                start = self._at_own_id[self.encoder.categories[name][1].start]
                rows = self.encoder.rows_of(name, list(values))
                ids[:, start : start + rows.shape[1]] = rows
        return RequestInputs(self._columns, base.shared_numeric, base.shared_ids, single(exact)[None], ids[None])

    def _by_candidate(self, row: SharedRow, candidates: Mapping[str, Sequence[Any]], count: int) -> RequestInputs:
        """Inputs of candidates with events of their own, as if each were a request."""
        numeric, ids = self.encoder.columns(candidates, count)
        numbers = np.array(row.numbers).astype(np.float32)
        for name, places in self.encoder.numbers.items():
            if name not in candidates:
                numeric[:, places] = numbers[places]
        for name, (_, places) in self.encoder.categories.items():
            if name not in candidates:
                ids[:, places] = row.ids[places]
        return RequestInputs.of_rows(numeric, ids, self._columns)

    def _number_column(self, name: str, values: Sequence[Any]) -> NDArray[np.float64]:
        # Several times as fast as numpy. An array takes numbers alone, so that neither text nor list passes for one.
        try:
            found = np.frombuffer(array("d", values))
        except (TypeError, OverflowError):
            try:
                found = np.frombuffer(array("d", [math.nan if value is None else value for value in values]))
            except (TypeError, OverflowError):
                return self.encoder.numbers_of(name, list(values))[:, 0]
        # Infinity is refused there.
        return self.encoder.numbers_of(name, list(values))[:, 0] if np.isinf(found).any() else found

    def _fill(self, numbers: list[float], ids: list[int], values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        """Puts values of one row in their places, and returns them with those that are made of the time."""
        if TIME in values:
            parts = self.encoder.with_time_parts({name: [value] for name, value in values.items()})
            values = {name: found[0] for name, found in parts.items()}
        if self.encoder.layout.event_lists:
            refuse_unequal_lists(self.encoder.layout.event_lists, values, where.rstrip(": ") or "the request")
        for name, value in values.items():
            if (place := self._numbers.get(name)) is not None:
                if value is None:
                    numbers[place] = math.nan
                elif type(value) is float and abs(value) <= _LARGEST:
                    numbers[place] = value
                else:
                    # Infinity and whole numbers that no double holds are refused there.
                    numbers[place] = finite_number(value, f"{where}feature {name!r}")
            elif (found := self._categories.get(name)) is not None:
                table, place = found
                if type(value) in _TEXTS:
                    try:
                        ids[place] = table[value]
                        continue
                    except BundleError:
                        pass
                ids[place] = int(table.rows([value], f"feature {name!r}")[0])
            elif name in self.encoder.numbers:
                places = self.encoder.numbers[name]
                numbers[places] = self.encoder.numbers_of(name, [value])[0].tolist()
            else:
                self.encoder.refuse_unknown(name, f"{where}feature {name!r}")
                places = self.encoder.categories[name][1]
                ids[places] = self.encoder.rows_of(name, [value])[0].tolist()
        return values

    def _with_time_parts(self, row: SharedRow, candidates: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
        """The candidates with what their times make, unless it is shared or given."""
        made = self.encoder.with_time_parts({name: list(values) for name, values in candidates.items()})
        found = {name: values for name, values in made.items() if name in candidates or name not in row.features}
        late = next((name for name in found if name not in candidates and name in self._shared), None)
        if late is not None and self.declared_shared:
            raise BundleError(
                f"{TIME!r} makes feature {late!r}, which is the same for all candidates of this model: give {TIME!r} in `shared`"
            )
        return found

    def _split(self, numbers: list[float], ids: list[int]) -> RequestInputs:
        """The inputs of one row."""
        # By plain lists: of one row numpy's functions would take longer than what they do.
        held = [number if abs(number) <= LARGEST else math.nan for number in numbers]
        columns = self._columns
        return RequestInputs(
            columns,
            np.array([[held[at] for at in columns.shared_numbers]], dtype=np.float32),
            np.array([[ids[at] for at in columns.shared_ids]], dtype=np.int64),
            np.array([[[held[at] for at in columns.own_numbers]]], dtype=np.float32),
            np.array([[[ids[at] for at in columns.own_ids]]], dtype=np.int64),
        )
