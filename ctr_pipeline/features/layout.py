"""The model's inputs and outputs in order: what packing, ranker, export and serving agree on."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctr_pipeline.errors import UserError
from ctr_pipeline.features.input_columns import (
    FIRST_VOCABULARY_ROW,
    MISSING_ROW,
    PADDING,
    UNKNOWN_ROW,
    Encoding,
    EventList,
    Frequency,
    FromTime,
    Group,
    IdColumn,
    NumericColumn,
    ParentMean,
    Pooled,
)

__all__ = [
    "FIRST_VOCABULARY_ROW",
    "MISSING_ROW",
    "PADDING",
    "UNKNOWN_ROW",
    "Encoding",
    "EventList",
    "Frequency",
    "FromTime",
    "Group",
    "IdColumn",
    "Layout",
    "LayoutError",
    "NumericColumn",
    "ParentMean",
    "Pooled",
]


class LayoutError(UserError):
    """A layout that contradicts itself; the message says where."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Inputs and outputs of a ranker, in the order of the packed arrays.

    Numbers: dense, contextual, history. Ids: categorical, contextual, history. Tasks: as in the spec, parents first.
    The columns of event lists stand behind all others.
    """

    numeric: tuple[NumericColumn, ...]
    """Columns of the numeric array."""
    ids: tuple[IdColumn, ...]
    """Columns of the id array; a list takes as many as it has places."""
    tasks: tuple[str, ...]
    """Columns of the label array."""
    parents: tuple[int, ...]
    """Index of each task's parent in ``tasks``; -1 = none."""
    null_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By feature, texts of the values that mean a missing one, in logs and in requests."""
    positions: tuple[float, ...] = ()
    """Share of each position, from 1 on, among the training rows that have one; empty where the model has no use of it.
    The last counts those below it too."""
    event_lists: tuple[EventList, ...] = ()
    """Inputs that modules of ``model.sequences`` read and nothing else."""
    candidate_features: tuple[str, ...] = ()
    """Features in which the candidates of a request differ, of a model that is served; all may where none is named."""

    def __post_init__(self) -> None:
        names = [*(column.name for column in self.numeric), *(column.name for column in self.ids)]
        if len(set(names)) < len(names):
            raise LayoutError(f"layout: features need different names, found {names}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise LayoutError(f"layout: at least one task, all with different names, expected; found {self.tasks}")
        if len(self.parents) != len(self.tasks) or any(not -1 <= p < i for i, p in enumerate(self.parents)):
            raise LayoutError(f"layout: each task's parent must be an earlier task or -1, found {self.parents}")
        if self.positions and (min(self.positions) < 0 or abs(sum(self.positions) - 1) > 1e-6):
            raise LayoutError(f"layout: the shares of the positions must add up to 1, found {self.positions}")
        for column in self.numeric:
            numbers = (column.fill, column.mean, column.std)
            if not all(map(math.isfinite, numbers)) or column.std <= 0:
                raise LayoutError(
                    f"layout: {column.name}: fill, mean and a positive std must be finite, found {numbers}"
                )
            if column.encoding is not None:
                _check_encoding(column.name, column.encoding)
        for id_column in self.ids:
            if id_column.rows < FIRST_VOCABULARY_ROW or id_column.dim < 1:
                raise LayoutError(
                    f"layout: {id_column.name}: at least {FIRST_VOCABULARY_ROW} rows and width 1 expected, "
                    f"found {id_column.rows} rows and width {id_column.dim}"
                )
            if id_column.places < 1:
                raise LayoutError(f"layout: {id_column.name}: a list has at least one place, found {id_column.places}")
            if id_column.frequency is not None:
                _check_frequency(id_column, id_column.frequency)
            if id_column.cold_start is not None:
                _check_cold_start(id_column, id_column.cold_start, self.ids)
        _check_shared(self)
        before = self.without_event_lists()
        features = [*(column.feature for column in before.numeric), *(column.name for column in before.ids)]
        if absent := [name for name in self.candidate_features if name not in features]:
            raise LayoutError(f"layout: candidates differ in {absent[0]}, which is none of the features {features}")

    def without_event_lists(self) -> "Layout":
        """The layout of the columns that stand before those of the event lists."""
        if not self.event_lists:
            return self
        read = {name for one in self.event_lists for name in (one.name, one.event, one.age)}
        return replace(
            self,
            numeric=tuple(column for column in self.numeric if column.feature not in read),
            ids=tuple(column for column in self.ids if column.name not in read),
            event_lists=(),
            candidate_features=(),
        )

    @property
    def number_places(self) -> dict[str, slice]:
        """For each feature the columns of the numeric array that hold its numbers, side by side."""
        found: dict[str, slice] = {}
        for place, column in enumerate(self.numeric):
            found[column.feature] = slice(found.get(column.feature, slice(place, 0)).start, place + 1)
        return found

    @property
    def id_columns(self) -> tuple[IdColumn, ...]:
        """For each column of the id array, what it is a place of."""
        return tuple(column for column in self.ids for _ in range(column.places))

    @property
    def id_places(self) -> tuple[slice, ...]:
        """The columns of the id array that each of ``ids`` takes."""
        ends = list(accumulate(column.places for column in self.ids))
        return tuple(slice(end - column.places, end) for column, end in zip(self.ids, ends, strict=True))

    @property
    def id_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each column of the id array the smallest and the largest embedding row that it may hold."""
        columns = self.id_columns
        lowest = [MISSING_ROW if column.pooled is None else PADDING for column in columns]
        return np.array(lowest, dtype=np.int64), np.array([column.rows - 1 for column in columns], dtype=np.int64)

    def lone(self, row: int) -> NDArray[np.int64]:
        """A row of the id array with embedding row ``row`` in each column, and alone in each list."""
        found = np.full(len(self.id_columns), row, dtype=np.int64)
        for column, places in zip(self.ids, self.id_places, strict=True):
            if column.pooled is not None:
                nothing = row == MISSING_ROW and column.empty_when_missing
                found[places.start + (not nothing) : places.stop] = PADDING
        return found

    def to_json(self) -> str:
        """The layout as JSON text, the same text for the same layout; read back by :meth:`from_json`."""
        content = asdict(self)
        if not self.null_values:
            del content["null_values"]
        for number in content["numeric"]:
            if number["encoding"] is None:
                del number["encoding"]
        for name in ("positions", "event_lists", "candidate_features"):
            if not content[name]:
                del content[name]
        for column in content["ids"]:
            # These too came later: a layout without one has the text, and so the hash, that it always had.
            for name in ("pooled", "from_time", "frequency", "cold_start", "table"):
                if column[name] is None:
                    del column[name]
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """The layout in JSON ``text``.

        Raises:
            LayoutError: the text is no layout.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            return cls(
                numeric=tuple(_numeric_column(**column) for column in content["numeric"]),
                ids=tuple(_id_column(**column) for column in content["ids"]),
                tasks=tuple(content["tasks"]),
                parents=tuple(content["parents"]),
                null_values={name: tuple(texts) for name, texts in content.get("null_values", {}).items()},
                positions=tuple(content.get("positions", ())),
                event_lists=tuple(EventList(**one) for one in content.get("event_lists", ())),
                candidate_features=tuple(content.get("candidate_features", ())),
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise LayoutError(
                f"layout: not a layout written by this pipeline: {error}. Pack the dataset again."
            ) from error


def _check_shared(layout: Layout) -> None:
    """Tables that columns share are as high and as wide for each; the columns of event lists stand behind the others."""
    columns = {column.name: column for column in layout.ids}
    for column in layout.ids:
        owner = columns.get(column.vocabulary)
        if owner is None or owner.table is not None or (owner.rows, owner.dim) != (column.rows, column.dim):
            raise LayoutError(
                f"layout: {column.name} shares the embeddings of {column.table}, which has none of its own of "
                f"{column.rows} rows and width {column.dim}"
            )
    features = [column.feature for column in layout.numeric]
    numbers, ids = len(layout.numeric), len(layout.ids)
    for one in reversed(layout.event_lists):
        numbers, ids = numbers - one.length, ids - (1 if one.event is None else 2)
        names = [one.name] if one.event is None else [one.name, one.event]
        read = [columns.get(name) for name in (*names, one.item)]
        lengths = {column.places for column in read[:-1] if column is not None}
        found = [column.name for column in layout.ids[ids : ids + len(names)]]
        ages = features[numbers : numbers + one.length]
        if (
            None in read
            or found != names
            or set(ages) != {one.age}
            or len(ages) != one.length
            or lengths != {one.length}
        ):
            raise LayoutError(
                f"layout: the event list {one.name} needs {one.length} places of {', '.join(names)} and {one.age} behind all "
                f"other columns, found {found} and {ages}"
            )


def _check_encoding(name: str, encoding: Encoding) -> None:
    edges, means = np.array(encoding.edges), np.array(encoding.means)
    if not np.isfinite(edges).all() or not np.isfinite(means).all() or (np.diff(edges) <= 0).any():
        raise LayoutError(
            f"layout: {name}: edges must be finite and ascend, and means be finite; found {edges}, {means}"
        )
    if encoding.period is not None and not 0 < encoding.period < math.inf:
        raise LayoutError(f"layout: {name}: a period is a finite number above 0, found {encoding.period}")


def _check_frequency(column: IdColumn, frequency: Frequency) -> None:
    numbers = (frequency.mean, frequency.std)
    if not all(map(math.isfinite, numbers)) or frequency.std <= 0:
        raise LayoutError(
            f"layout: {column.name}: mean and a positive std of its frequency must be finite, found {numbers}"
        )
    if column.pooled is not None:
        raise LayoutError(f"layout: {column.name}: the frequency is that of one value, found a list")


def _check_cold_start(column: IdColumn, cold_start: ParentMean, columns: Sequence[IdColumn]) -> None:
    single = [other.name for other in columns if other.pooled is None and other.name != column.name]
    if column.pooled is not None or cold_start.parent not in single or not 0 < cold_start.evidence < math.inf:
        raise LayoutError(
            f"layout: {column.name}: a cold start is that of one value, with a parent among {single} and a positive evidence; "
            f"found {cold_start}"
        )


def _numeric_column(encoding: dict[str, Any] | None = None, **fields: Any) -> NumericColumn:
    if encoding is None:
        return NumericColumn(**fields)
    lists = {name: tuple(encoding[name]) for name in ("edges", "means")}
    return NumericColumn(encoding=Encoding(**(encoding | lists)), **fields)


def _id_column(
    pooled: dict[str, Any] | None = None,
    from_time: dict[str, Any] | None = None,
    frequency: dict[str, Any] | None = None,
    cold_start: dict[str, Any] | None = None,
    **fields: Any,
) -> IdColumn:
    return IdColumn(
        pooled=None if pooled is None else Pooled(**pooled),
        from_time=None if from_time is None else FromTime(**from_time),
        frequency=None if frequency is None else Frequency(**frequency),
        cold_start=None if cold_start is None else ParentMean(**cold_start),
        **fields,
    )
